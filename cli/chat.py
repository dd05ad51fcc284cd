"""`chat`: write together with a model, or talk to one that was trained on conversations.

Base models continue what was begun and follow no instructions, so with them a chat is one text that both write. Which of
the two a model is, its checkpoint says. What stands is exactly what the reader sees: the model's words are made printable
before they become part of it.
"""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cli.generation import (
    MaxTokensOption,
    MinPOption,
    PenaltyOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    new_seed,
)
from cli.printing import WordWrap, out, say, terminal_width
from cli.references import CheckpointArgument, find_checkpoint

if TYPE_CHECKING:
    from trainer_daemon.contract.generation import Generation, Message

TEXT_BYTES = 30_000
"""Of what stands, so much of the end is sent: far more than a context holds."""
HELP = """{how}
a line that ends in \\ goes on in the next; on a terminal Alt-Enter begins a
new line, and the arrows recall and edit
/again              have the model write its last part anew
/edit [TEXT]        put TEXT in place of your last part; without it, on a
                    terminal, edit that
/undo               take back your last part and the model's
/reset              forget what stands
/show               what stands
/save FILE          write it to a file
/system TEXT        {system}; alone: nothing
/checkpoint C       go on with another: RUN, RUN@STEP, RUN@best
/temperature T      0 takes the likeliest token each time
/top-k K  /top-p P  /min-p P  /penalty R    filters; /top-k off
/stop TEXT          end an answer before TEXT; /stop off
/max N              tokens of one answer
/seed N             begin the draws anew from N; these alone say what they are now
/quit               leave; so does Ctrl-D. Ctrl-C stops an answer"""
CONTINUES = {
    "how": "type the beginning of a text and the model goes on; what you type is added to\nwhat stands already",
    "system": "what stands before everything, from here on",
}
ANSWERS = {
    "how": "type what you want to say and the model answers",
    "system": "what the model is told beforehand, from here on",
}
"""Of the help, by what the model does."""


def chat(
    checkpoint: CheckpointArgument,
    max_tokens: MaxTokensOption = 128,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = None,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: PenaltyOption = 1.0,
    stop: StopOption = None,
    seed: SeedOption = None,
) -> None:
    """Write together with a model: you begin, it goes on. One that was trained on conversations answers."""
    from trainer_daemon.contract.generation import Generation

    drawing = Generation(
        prompt="",
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=tuple(stop or ()),
        seed=new_seed() if seed is None else seed,
    )
    path = find_checkpoint(checkpoint)[1].path  # a wrong name costs no worker
    conversation = Conversation(path, drawing)
    conversation.open(checkpoint)
    hold(conversation, terminal_reader() if sys.stdin.isatty() else plain_reader)


CONTINUES_WORDS = "a base model: it continues what you begin, it does not answer."
ANSWERS_WORDS = "it was trained on conversations: say something, and it answers."
SPEAKERS = {"system": "System", "user": "You", "assistant": "Model"}
Reader = Callable[[str], str]
"""The next part that is typed, the argument being there to be edited. Raises EOFError when the reader leaves."""


def plain_reader(_given: str) -> str:
    """From a pipe: a line that ends in a backslash goes on in the next."""
    lines = [input()]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input())
    return "\n".join(lines)


def terminal_reader() -> Reader:
    """With history, kept over sessions, and editing of several lines."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from trainer_daemon.contract.rundir import home

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(home() / "chat-history")), key_bindings=keys
    )

    def read(given: str) -> str:
        text = session.prompt("> ", default=given)
        while text.endswith("\\"):
            text = text[:-1] + "\n" + session.prompt("… ")
        return text

    return read


def hold(conversation: "Conversation", read: Reader) -> None:
    """Read parts until the reader leaves."""
    given = ""
    while True:
        try:
            typed = read(given)
        except EOFError:
            return
        except KeyboardInterrupt:
            say("\nCtrl-D leaves")
            continue
        given = ""
        try:
            if typed == "/edit" and sys.stdin.isatty():
                given = conversation.take_back()
            elif typed.startswith("/"):
                if not conversation.obey(typed):
                    return
            elif typed:
                conversation.go_on(typed)
        except (
            KeyboardInterrupt
        ):  # a second Ctrl-C, while the first one's answer is being taken back; or in a command
            say("\nstopped; Ctrl-D leaves")


@dataclass
class Turn:
    """What the reader typed, and what the model made of it."""

    typed: str
    written: str = ""


class Conversation:
    """What stands so far, and how it goes on.

    A worker is asked for anew with each answer: it ends when nobody has asked for a while, and readers think for longer.
    """

    def __init__(self, checkpoint: Path, drawing: "Generation") -> None:
        self._checkpoint = checkpoint
        self.drawing = drawing
        """How tokens are chosen; each answer counts the seed up."""
        self.turns: list[Turn] = []
        self.system = ""
        """What stands before everything."""
        self.is_chat = False
        """The model answers messages; else it continues a text."""
        self._has_ended = False
        """The model has ended its text: the next part begins another."""

    @property
    def text(self) -> str:
        """All of it, the reader's and the model's words."""
        if self.is_chat:
            return "\n".join(f"{SPEAKERS[message.role]}: {message.text}" for message in self._messages())
        parts = [turn.typed + turn.written for turn in self.turns]
        return "\n".join([self.system, *parts] if self.system else parts)

    def _messages(self) -> "list[Message]":
        from trainer_daemon.contract.generation import Message

        messages = [Message("system", self.system)] if self.system else []
        for turn in self.turns:
            messages.append(Message("user", turn.typed))
            messages += [Message("assistant", turn.written)] if turn.written else []
        return messages

    def open(self, reference: str) -> None:
        """Go on with this checkpoint. Raises LlmctlError, and stays with the one before, when it cannot be had."""
        from trainer_daemon.link.inference import open_worker

        run, info = find_checkpoint(reference)
        with open_worker() as worker:
            loaded = worker.open(info.path)
        if loaded.is_chat != self.is_chat and self.turns:
            self.turns.clear()
            say("what stood is forgotten: the one answers, the other continues a text")
        self._checkpoint, self.is_chat = info.path, loaded.is_chat
        name = run.name if run else info.path.parent.parent.name
        say(f"{name} as of step {loaded.step}, {loaded.context} tokens of context, on {loaded.device}")
        for notice in loaded.notices:
            say(notice)
        say((ANSWERS_WORDS if loaded.is_chat else CONTINUES_WORDS) + " /help lists what it understands")

    def go_on(self, typed: str) -> None:
        """Add a part and have the model continue; Ctrl-C ends its turn and keeps what it has written."""
        if self._has_ended and not self.is_chat:
            self.turns.clear()
        self.turns.append(Turn(typed))
        self._answer()

    def take_back(self) -> str:
        """Forget the last part, the model's with it; returns what was typed."""
        self._has_ended = False
        return self.turns.pop().typed if self.turns else ""

    def _answer(self) -> None:
        from trainer_daemon.contract.errors import LlmctlError
        from trainer_daemon.contract.text import printable
        from trainer_daemon.link.inference import open_worker

        turn = self.turns[-1]
        turn.typed, turn.written = printable(turn.typed), ""
        self._has_ended = False
        wrap, forgotten = WordWrap(terminal_width()), 0
        if not self.is_chat:
            out(wrap.push(turn.typed), end="")
        try:
            request = self._request()
            self.drawing = replace(self.drawing, seed=self.drawing.seed + 1)
            with open_worker() as worker, closing(worker.generate(self._checkpoint, request)) as pieces:
                for piece in pieces:
                    shown = printable(piece.text)
                    turn.written += shown
                    out(wrap.push(shown), end="")
                    self._has_ended, forgotten = piece.finish_reason == "end", piece.forgotten
            out(wrap.finish())
        except KeyboardInterrupt:
            out(wrap.finish() + " …")
        except LlmctlError as e:
            out(wrap.finish())
            say(f"error: {printable(str(e))}")
        if forgotten:
            say(f"[the context is full: the model no longer reads the first {forgotten} tokens]")
        if self._has_ended and not self.is_chat:
            say("[the text has come to its end; what you type next begins another]")

    def _request(self) -> "Generation":
        """Raises SpecError for words that cannot be sent."""
        if not self.is_chat:
            return replace(self.drawing, prompt=last_bytes(self.text, TEXT_BYTES))
        system = [message for message in self._messages() if message.role == "system"]
        spoken = self._messages()[len(system) :]
        while len(spoken) > 1 and sum(len(m.text.encode("utf-8", "replace")) for m in spoken) > TEXT_BYTES:
            del spoken[0]
        return replace(self.drawing, messages=(*system, *spoken))

    def obey(self, line: str) -> bool:
        """Do what a line with a slash says; False when that is to leave."""
        from trainer_daemon.contract.errors import LlmctlError, did_you_mean

        word, _, value = line.partition(" ")
        if word in ("/quit", "/exit"):
            return False
        known: dict[str, Callable[[str], None]] = {
            "/help": lambda _: say(HELP.format(**(ANSWERS if self.is_chat else CONTINUES))),
            "/show": lambda _: out(self.text),
            "/again": self._again,
            "/edit": self._edit,
            "/undo": self._undo,
            "/reset": self._reset,
            "/save": self._save,
            "/system": self._set_system,
            "/checkpoint": self.open,
            "/temperature": partial(self._set_number, "temperature", float),
            "/top-k": partial(self._set_number, "top_k", int),
            "/top-p": partial(self._set_number, "top_p", float),
            "/min-p": partial(self._set_number, "min_p", float),
            "/penalty": partial(self._set_number, "repetition_penalty", float),
            "/max": partial(self._set_number, "max_tokens", int),
            "/seed": partial(self._set_number, "seed", int),
            "/stop": self._set_stop,
        }
        try:
            if word in known:
                known[word](value.strip())
            else:
                say(f"{word} is not known{did_you_mean(word, known)}; /help lists what is")
        except (LlmctlError, OSError) as e:
            say(f"{word}: {e}")
        return True

    def _again(self, _value: str) -> None:
        if self.turns:
            self._answer()
        else:
            say("nothing stands yet")

    def _edit(self, value: str) -> None:
        if self.turns and value:
            self.take_back()
            self.go_on(value)
        else:
            say("/edit TEXT puts TEXT in place of your last part" if self.turns else "nothing stands yet")

    def _undo(self, _value: str) -> None:
        self.take_back()
        say(f"{len(self.turns)} parts stand" if self.turns else "nothing stands any more")

    def _reset(self, _value: str) -> None:
        self.turns.clear()
        say("nothing stands any more")

    def _save(self, value: str) -> None:
        if not value:
            say("/save FILE: where to?")
            return
        path = Path(value).expanduser()
        path.write_text(self.text + "\n", encoding="utf-8", errors="replace")
        say(f"saved to {path}")

    def _set_system(self, value: str) -> None:
        self.system = value
        if not value:
            say("the model is told nothing beforehand" if self.is_chat else "nothing stands before")
        elif self.is_chat:
            say("the model is told this beforehand")
        else:
            say("this stands before everything; a base model reads it as the text's beginning")

    def _set_stop(self, value: str) -> None:
        self.drawing = replace(self.drawing, stop=() if value in ("", "off") else (*self.drawing.stop, value))
        stops = ", ".join(map(repr, self.drawing.stop))
        say(f"an answer ends before {stops}" if stops else "no text ends an answer")

    def _set_number(self, name: str, kind: type[int] | type[float], value: str) -> None:
        """Without a value, what it is now."""
        from trainer_daemon.contract.errors import SpecError
        from trainer_daemon.contract.generation import Generation

        before = getattr(self.drawing, name)
        if not value:
            say(f"{name} is {_spelled(before)}")
            return
        try:
            number = None if name == "top_k" and value in ("off", "none", "all") else kind(value)
        except ValueError as e:
            what = "a whole number" if kind is int else "a number"
            raise SpecError(f'it takes {what}, got "{value}"') from e
        self.drawing = Generation(**{**asdict(self.drawing), name: number})
        say(f"{name} is {_spelled(number)}, it was {_spelled(before)}")


def _spelled(number: float | None) -> str:
    return "off" if number is None else str(number)


def last_bytes(text: str, most: int) -> str:
    """The end of a text that fits into so many UTF-8 bytes, cut between characters."""
    return text.encode("utf-8", "replace")[-most:].decode("utf-8", "ignore")
