"""Talking to stored checkpoints: one, or two side by side, each token shaded by how likely the model found it.

    Comparing (thread) -> Answer (fold) -> shaded text; under the cursor, what else could have stood there

A screen of its own above the cockpit, which goes on following its run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp
from pathlib import Path
from typing import ClassVar

from rich.console import Console
from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import Screen

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.generation import Generation, Piece
from trainer_daemon.contract.rundir import RunDir, all_runs
from trainer_daemon.contract.text import printable
from tui.answer import Answer, shade
from tui.asking import Comparing, Sampling
from tui.chart.palette import ANSI, Palette
from tui.favourites import favourites, toggle_favourite
from tui.ink import SKY, VERMILION, hue, palette_of
from tui.key_names import Hint, cockpit_of, fitted_hints
from tui.screens.choose import Choose
from tui.screens.help import Help, Section
from tui.terminal import is_remote, is_writing
from tui.widgets.lines import Lines
from tui.widgets.prompt import PromptInput, PromptLine, typing_hints
from tui.widgets.transcript import Block, Transcript
from tui.wording import bar, fixed

FRAME_SECONDS, REMOTE_FRAME_SECONDS = 1 / 10, 1 / 4
ALTERNATIVES = 5
BAR_WIDTH = 20
SHADES = ("#8c3b1c", "#7a4a12", "#4f4718", "#2c3a34", "")
"""Grounds of a token on a dark theme, from the unlikeliest to the likeliest."""
LIGHT_SHADES = ("#f0b79c", "#f3cf9b", "#ece3a4", "#d6e6dc", "")
ANSI_SHADES = ("red", "magenta", "yellow", "cyan", "")
"""As the colour of the letters: a terminal with 16 colours has no quiet grounds."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that can be talked to."""

    name: str
    """RUN@STEP"""
    path: Path
    val_bpb: float | None


def candidates() -> list[Candidate]:
    """The checkpoints of all runs, the newest run first, in it the newest step."""
    from trainer_daemon.engine.checkpoint.store import list_checkpoints

    return [
        Candidate(f"{run.name}@{info.step}", info.path, info.val_bpb)
        for run in reversed(all_runs())
        for info in reversed(list_checkpoints(run.checkpoints))
    ]


class TokenText(Transcript):
    """A text in which one walks from token to token."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "left,h",
            "step(-1)",
            "Token before",
            id="token.before",
            tooltip="What else could have stood there",
        ),
        Binding(
            "right,l", "step(1)", "Next token", id="token.next", tooltip="What else could have stood there"
        ),
    ]

    class Stepped(Message):
        """Walk so many tokens on."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by

    def action_step(self, by: int) -> None:
        self.post_message(self.Stepped(by))

    def bring_cursor_into_sight(self) -> None:
        """The cursor is what is drawn reversed."""
        for line, strip in enumerate(self._strips):
            if any(segment.style and segment.style.reverse for segment in strip):
                self.bring_into_sight(line)
                return


class AnswerView(Vertical):
    """One answer: who writes and how fast, and the text."""

    DEFAULT_CSS = """
    AnswerView { width: 1fr; height: 1fr; padding: 0 2; }
    AnswerView Lines { height: 2; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._cursor: int | None = None
        """As it was last drawn."""

    def compose(self) -> ComposeResult:
        yield Lines([Text(), Text()])
        yield TokenText()

    def draw(self, name: str, answer: Answer | None, cursor: int | None) -> None:
        """`cursor`: the token that one looks at, where this is the answer that one looks at."""
        ink = palette_of(self.app)
        words = " · ".join(answer.words()) if answer else "nothing asked yet"
        self.query_one(Lines).show([Text(name, ink.title), Text(words, ink.muted)])
        if answer is None:
            self.query_one(TokenText).show([])
            return
        key = (
            name,
            answer.prompt,
            answer.is_chat,
            len(answer.tokens),
            answer.is_over,
            answer.error,
            cursor,
            ink.title,
        )
        text = self.query_one(TokenText)
        text.show([Block(key, partial(_layout, answer, cursor, ink, self.app.current_theme.dark))])
        if None not in (cursor, self._cursor) and cursor != self._cursor:
            text.bring_cursor_into_sight()
        self._cursor = cursor


def _layout(answer: Answer, cursor: int | None, ink: Palette, is_dark: bool, width: int) -> list[Text]:
    # appended: the style of a Text that it begins with would be that of all that follows
    text = Text().append(printable(answer.prompt) + ("\n\n" if answer.is_chat else ""), ink.muted)
    for i, token in enumerate(answer.tokens):
        style = (
            Style.null() if token.choice is None else shade_style(shade(token.choice.logprob), ink, is_dark)
        )
        text.append(token.text, style + Style(reverse=True) if i == cursor else style)
    if answer.error:
        text.append(f"\n{printable(answer.error)}", hue(ink, VERMILION))
    return list(text.wrap(Console(width=width), width, tab_size=4))


def shade_style(place: int, ink: Palette, is_dark: bool) -> Style:
    """How a token of this shade looks."""
    if ink is ANSI:
        return Style(color=ANSI_SHADES[place] or None)
    return Style(bgcolor=(SHADES if is_dark else LIGHT_SHADES)[place] or None)


def spelled(token: str) -> str:
    """A token so that its spaces and line ends can be seen."""
    return repr(token)


HINTS: Sequence[Hint] = (
    ("talk.ask", "ask"),
    ("talk.again", "again"),
    ("talk.checkpoint", "checkpoint"),
    ("talk.versus", "versus"),
    ("token.before token.next", "tokens"),
    ("talk.alone", "alone"),
    ("talk.favourites", "favourites"),
    ("talk.keep", "keep"),
)
"""A narrow terminal leaves the last ones to help."""
ALWAYS: Sequence[Hint] = (("talk.help", "help"), ("talk.back", "back"))


KEYS = "to the keys: again, versus, tokens, favourites"


class TalkScreen(Screen[None]):
    DEFAULT_CSS = """
    TalkScreen { layout: vertical; }
    TalkScreen #talk-title { height: 1; background: $surface; }
    TalkScreen #answers { height: 1fr; padding: 1 0 0 0; }
    TalkScreen #alternatives { height: 7; padding: 0 2; }
    TalkScreen #talk-keys { height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash,i", "type", "ask", id="talk.ask", tooltip="Type what the models shall continue"),
        Binding("r", "again", "again", id="talk.again", tooltip="The same prompt with the next seed"),
        Binding("c", "choose(0)", "checkpoint", id="talk.checkpoint", tooltip="Choose who answers"),
        Binding("v", "choose(1)", "versus", id="talk.versus", tooltip="Choose who answers beside it"),
        Binding("x", "alone", "alone", id="talk.alone", tooltip="Take the second one away"),
        Binding("f", "favourites", "favourites", id="talk.favourites", tooltip="Ask a prompt that was kept"),
        Binding("F", "keep", "keep", id="talk.keep", tooltip="Keep this prompt, or forget it"),
        Binding("question_mark", "help", "help", id="talk.help", tooltip="All keys"),
        Binding("escape,q", "dismiss", "back", id="talk.back", tooltip="Back to the cockpit"),
    ]

    def __init__(self, run: RunDir | None, sampling: Sampling) -> None:
        """`run`: whose best checkpoint is to answer first."""
        super().__init__()
        self.sampling = sampling
        self.chosen: list[Candidate] = []
        self.answers: list[Answer] = []
        self.cursor = (0, 0)
        """(answer, token) that one looks at."""
        self._run = run
        self._prompt = ""
        self._asked_count = 0
        self._comparing: Comparing | None = None
        self._has_changed = True
        self._said: set[str] = set()
        """Notices of the worker that the reader has had."""

    def compose(self) -> ComposeResult:
        yield Lines([Text()], id="talk-title")
        with Horizontal(id="answers"):
            yield AnswerView()
            yield AnswerView()
        yield Lines(id="alternatives")
        yield PromptLine()
        yield Lines([Text()], id="talk-keys")

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _: self._change())
        self.set_interval(REMOTE_FRAME_SECONDS if is_remote() else FRAME_SECONDS, self._tick)
        self._find_first()

    def on_unmount(self) -> None:
        self._stop()

    def on_resize(self) -> None:
        self._change()

    @work(thread=True, group="look")
    def _find_first(self) -> None:
        of_run = [c for c in candidates() if self._run is not None and c.path.parent == self._run.checkpoints]
        scored = [c for c in of_run if c.val_bpb is not None]
        best = min(scored, key=lambda c: c.val_bpb or 0.0) if scored else of_run[0] if of_run else None
        self.app.call_from_thread(self._begin_with, best)

    def _begin_with(self, candidate: Candidate | None) -> None:
        if candidate is None:
            self.notify(
                f"this run has no checkpoint yet; press {self._choose_key} to choose another's", markup=False
            )
            self.query_one(TokenText).focus()
        elif not self.chosen:
            self.chosen = [candidate]
            self.action_type()
        self._change()

    # Drawing

    def _change(self) -> None:
        self._has_changed = True

    def _tick(self) -> None:
        comparing = self._comparing
        if comparing is not None:
            for place, what, seconds in comparing.take():
                self._has_changed = True
                answer = self.answers[place]
                if isinstance(what, Piece):
                    answer.take(what, seconds)
                    continue
                answer.device, answer.is_chat = what.device, what.is_chat
                for notice in set(what.notices) - self._said:
                    self._said.add(notice)
                    self.notify(notice, markup=False)
            if comparing.is_over:
                for answer in self.answers:
                    if not answer.is_over:
                        answer.error = comparing.error or "interrupted"
                self._comparing, self._has_changed = None, True
        if self._has_changed and self.is_current and not is_writing(self.app):
            self._has_changed = False
            self._paint()

    def _paint(self) -> None:
        ink = palette_of(self.app)
        names = " against ".join(c.name for c in self.chosen) or "no checkpoint"
        self.query_one("#talk-title", Lines).show([Text.assemble((" ✎ ", hue(ink, SKY)), (names, ink.title))])
        for place, view in enumerate(self.query(AnswerView)):
            view.display = place < max(1, len(self.chosen))
            answer = self.answers[place] if place < len(self.answers) else None
            name = (
                self.chosen[place].name
                if place < len(self.chosen)
                else f"press {self._choose_key} to choose a checkpoint"
            )
            at = self.cursor[1] if self.cursor[0] == place and self._looks_at_tokens else None
            view.draw(name, answer, at)
        self.query_one("#alternatives", Lines).show(self._alternatives(ink))
        self.query_one(PromptLine).show(
            Text("›", hue(ink, SKY)),
            Text(str(self.sampling), ink.muted),
            "a beginning to continue; /t 0.8 and the like set",
        )
        is_typing = isinstance(self.focused, PromptInput)
        is_answering = self._comparing is not None
        hints, always = typing_hints(is_answering=is_answering, keys=KEYS) if is_typing else (HINTS, ALWAYS)
        line = fitted_hints(hints, always, self.size.width - 1, self._key_names, ink)
        self.query_one("#talk-keys", Lines).show([Text(" ") + line])

    @property
    def _key_names(self) -> Mapping[str, str]:
        return cockpit_of(self.app).key_names

    @property
    def _choose_key(self) -> str:
        return self._key_names["talk.checkpoint"]

    @property
    def _looks_at_tokens(self) -> bool:
        return isinstance(self.focused, TokenText)

    def _alternatives(self, ink: Palette) -> list[Text]:
        """What stands under the cursor, and what else could have stood there."""
        place, at = self.cursor
        tokens = self.answers[place].tokens if place < len(self.answers) else []
        if not self._looks_at_tokens or at >= len(tokens) or (choice := tokens[at].choice) is None:
            return [Text()] * (ALTERNATIVES + 1)
        head = Text.assemble((spelled(choice.text), ink.title), (f"  p {exp(choice.logprob):.3f}", ink.muted))
        rows = [head]
        for other in choice.top[:ALTERNATIVES]:
            probability = exp(other.logprob)
            done, rest = bar(probability, BAR_WIDTH)
            row = Text.assemble((f"{probability:6.3f} ", ink.muted), (done, hue(ink, SKY)), (rest, ink.muted))
            row.append(f"  {spelled(other.text)}", ink.title if other.text == choice.text else "")
            rows.append(row)
        return rows + [Text()] * (ALTERNATIVES + 1 - len(rows))

    def on_descendant_focus(self) -> None:
        self._change()

    def on_descendant_blur(self) -> None:
        self._change()

    # Keys

    @on(TokenText.Stepped)
    def _step(self, message: TokenText.Stepped) -> None:
        views = list(self.query(TokenText))
        place = views.index(self.focused) if isinstance(self.focused, TokenText) else 0
        if place < len(self.answers) and (tokens := self.answers[place].tokens):
            at = self.cursor[1] + message.by if self.cursor[0] == place else 0
            self.cursor = place, min(max(at, 0), len(tokens) - 1)
            self._change()

    def action_type(self) -> None:
        self.query_one(PromptInput).focus()

    def action_alone(self) -> None:
        del self.chosen[1:], self.answers[1:]
        self.cursor = 0, 0
        self._change()

    def action_help(self) -> None:
        sections: list[Section] = [
            ("Talking", (TalkScreen,)),
            ("In an answer", (TokenText, Transcript)),
            ("In the prompt line", (PromptInput,)),
        ]
        self.app.push_screen(Help(sections))

    def action_keep(self) -> None:
        if not self._prompt:
            self.notify("ask something first", severity="warning")
            return
        try:
            is_kept = toggle_favourite(self._prompt)
        except OSError as e:
            self.notify(f"it cannot be kept: {e.strerror}", severity="error", markup=False)
        else:
            self.notify("kept" if is_kept else "forgotten")

    def action_favourites(self) -> None:
        kept = favourites()
        if not kept:
            keep = self._key_names["talk.keep"]
            self.notify(f"no prompt is kept yet; {keep} keeps the one that was asked", markup=False)
            return

        def ask(place: int | None) -> None:
            if place is not None:
                self.ask(kept[place])

        self.app.push_screen(Choose("Ask again", [Text(printable(prompt)) for prompt in kept]), ask)

    def action_again(self) -> None:
        if self._prompt:
            self.ask(self._prompt)

    @work(thread=True, group="look", exclusive=True)
    def action_choose(self, place: int) -> None:
        found = candidates()
        self.app.call_from_thread(self._choose_among, found, place)

    def _choose_among(self, found: list[Candidate], place: int) -> None:
        if not found:
            self.notify("no run has a checkpoint yet", severity="warning")
            return
        widest = max(len(c.name) for c in found)
        rows = [Text(f"{c.name:<{widest}}   val bpb {fixed(c.val_bpb, 4)}") for c in found]

        def choose(at: int | None) -> None:
            if at is not None:
                self._stop()
                self.chosen[place : place + 1] = [found[at]]
                self.answers.clear()
                self._change()
                self.action_again()

        self.app.push_screen(Choose("Who answers" if place == 0 else "Who answers beside it", rows), choose)

    # Asking

    @on(PromptLine.Asked)
    def _asked(self, message: PromptLine.Asked) -> None:
        if not message.text.startswith("/"):
            self.ask(message.text)
            return
        try:
            self.sampling = self.sampling.changed(message.text[1:])
        except ValueError as e:
            self.notify(str(e), severity="warning", markup=False)
        self._change()

    def ask(self, prompt: str) -> None:
        """Have all that are chosen continue it."""
        if not self.chosen:
            self.notify(
                f"choose a checkpoint first: press {self._choose_key}", severity="warning", markup=False
            )
            return
        self._stop()
        self._prompt = prompt
        self._asked_count += 1
        try:
            request = Generation(
                **self.sampling.arguments(prompt, seed=self._asked_count), logprobs=ALTERNATIVES
            )
        except LlmctlError as e:
            self.notify(str(e), severity="warning", markup=False)
            return
        self.answers = [Answer(c.name, prompt) for c in self.chosen]
        self.cursor = 0, 0
        self._comparing = Comparing([c.path for c in self.chosen], request)
        self._comparing.start()
        self._change()

    def _stop(self) -> None:
        if self._comparing is not None:
            self._comparing.stop()
            self._comparing = None

    @on(PromptInput.Left)
    def _leave_prompt(self) -> None:
        if self._comparing is not None:
            self._comparing.stop()
        else:
            self.query_one(TokenText).focus()
