"""One text that the reader and the model write together."""

import io
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli.chat import Conversation, hold, last_bytes
from tests.cli.conftest import Llmctl, add_checkpoint, completed_run
from tests.cli.parrot import CHAT_STEP, Parrot
from trainer_daemon.contract.generation import Generation, Message
from trainer_daemon.contract.rundir import find_run

DRAWING = Generation(prompt="", max_tokens=5, temperature=0.5, seed=9)


@pytest.fixture
def checkpoint(home: Path) -> Path:
    run = completed_run()
    add_checkpoint(run, 20)
    return add_checkpoint(run, 10, 0.5)


@pytest.fixture
def parrot(checkpoint: Path) -> Iterator[Parrot]:
    bird = Parrot()
    yield bird
    bird.close()


def test_a_chat_is_one_text_that_both_write(
    llmctl: Llmctl, parrot: Parrot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typed = ["Once", "", "and \\", "then", "/max 2", "/temperature 0", "/seed 3", "more", "/again", "/undo"]
    typed += [
        "/edit or",
        "/system Before.",
        "/stop x",
        f"/save {tmp_path}/kept.txt",
        "/checkpoint done@20",
        "on",
    ]
    typed += ["/reset", "again", "/quit", "x"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed)))
    said = llmctl("chat", "done@10", "--max-tokens", "3", "--seed", "1")
    assert said.code == 0
    assert said.out.splitlines() == [
        "Once 10 2!",
        "and ",
        "then 10 2!",
        "more 10!",
        "more 10!",
        "or 10!",
        "on 20!",
        "again 20!",
    ]
    for words in (
        "it continues what you begin",
        "step 10, 99 tokens of context, on a perch",
        "as of step 20",
    ):
        assert words in said.err
    story = "Once 10 2!\nand \nthen"  # without the escape sequences: what stands is what is seen
    more = f"{story} 10 2!\nmore"
    assert [a.prompt for a in parrot.asked] == [
        "Once",
        story,
        more,
        more,
        "Once 10 2!\nor",
        "Before.\nOnce 10 2!\nor 10!\non",
        "Before.\nagain",
    ]
    assert [(a.max_tokens, a.temperature, a.seed) for a in parrot.asked[:5]] == [
        (3, 0.8, 1),
        (3, 0.8, 2),
        (2, 0.0, 3),
        (2, 0.0, 4),
        (2, 0.0, 5),
    ]
    assert parrot.asked[-1].stop == ("x",)
    assert (tmp_path / "kept.txt").read_text() == "Before.\nOnce 10 2!\nor 10!\n"


def test_when_the_model_ends_its_text_the_next_part_begins_another(
    llmctl: Llmctl, parrot: Parrot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The end\n/again\nOnce\n"))
    said = llmctl("chat", "done", "--max-tokens", "2")
    assert [a.prompt for a in parrot.asked] == ["The end", "The end", "Once"]
    assert "come to its end" in said.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/max", f"max_tokens is {DRAWING.max_tokens}"),
        ("/max 0", "max_tokens must be 1 to"),
        ("/max 2.5", 'it takes a whole number, got "2.5"'),
        ("/temperature hot", 'it takes a number, got "hot"'),
        ("/temperature 11", "temperature must be 0 to 10"),
        ("/temperature nan", "temperature must be 0 to 10"),
        ("/seed -1", "seed must be 0 or more"),
        ("/foo", "/foo is not known; /help lists what is"),
        ("/tempature 0.3", '/tempature is not known; did you mean "/temperature"?'),
        ("/top-p 0", "top_p must be above 0"),
        ("/save", "where to?"),
        ("/checkpoint nobody", "names no run"),
        ("/edit", "nothing stands yet"),
        ("/save /nowhere/x", "No such file"),
        ("/checkpoint done@77", "the nearest is done@20"),
    ],
)
def test_a_chat_command_that_makes_no_sense_changes_nothing(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], parrot: Parrot, line: str, words: str
) -> None:
    chat = Conversation(checkpoint, DRAWING)
    assert chat.obey(line)
    assert (chat.drawing, chat.turns) == (DRAWING, [])
    assert words in capsys.readouterr().err


def test_what_a_chat_command_has_changed_is_said(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], parrot: Parrot
) -> None:
    """`/temperature 0.3` was silent, and so no other than `/temperatur 0.3` at a glance."""
    chat = Conversation(checkpoint, DRAWING)
    for line, words in (
        ("/temperature 0.25", f"temperature is 0.25, it was {DRAWING.temperature}"),
        ("/top-k off", "top_k is off, it was"),
        ("/stop END", "an answer ends before 'END'"),
        ("/stop off", "no text ends an answer"),
    ):
        assert chat.obey(line)
        assert words in capsys.readouterr().err


class Impatient(io.StringIO):
    """A terminal whose reader presses Ctrl-C at the second word."""

    def write(self, text: str) -> int:
        written = super().write(text)
        if text == " 2":
            interrupt_main()
        return written


def test_ctrl_c_ends_the_models_turn_and_keeps_what_it_wrote(
    checkpoint: Path, parrot: Parrot, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Impatient()
    monkeypatch.setattr("sys.stdout", terminal)
    chat = Conversation(checkpoint, Generation(prompt="", max_tokens=60_000))
    chat.go_on("Once")
    assert chat.text.startswith("Once 10 2")
    assert terminal.getvalue().startswith("Once 10 2")
    assert terminal.getvalue().endswith(" …\n")


def test_a_reader_who_thinks_until_the_worker_has_left_is_answered_by_the_next_one(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After two quiet minutes every further part of a chat was answered with "the inference worker is gone"."""
    chat = Conversation(checkpoint, DRAWING)
    for part in ("Once", "then"):
        with closing(Parrot()) as parrot:
            chat.go_on(part)
        assert len(parrot.asked) == 1
    assert "error" not in capsys.readouterr().err
    assert [turn.written for turn in chat.turns] == [" 10 2 3 4!", " 10 2 3 4!"]


def test_the_end_of_a_text_is_cut_between_characters() -> None:
    assert last_bytes("aé🙂", 100) == "aé🙂"
    assert last_bytes("aé🙂", 5) == "🙂"
    assert last_bytes("\udc80", 5) == "?"


def test_with_a_model_that_answers_a_chat_is_a_conversation(
    llmctl: Llmctl, parrot: Parrot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_checkpoint(find_run("done"), CHAT_STEP)
    typed = ["/system Be kind.", "Hello", "Why?", "/again", f"/save {tmp_path}/kept.txt", "/undo", "So?"]
    typed += ["/help", "/checkpoint done@10", "Once"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed)))
    said = llmctl("chat", f"done@{CHAT_STEP}", "--max-tokens", "2", "--seed", "1")
    assert said.code == 0
    assert said.out.splitlines() == [" 30!"] * 4 + ["Once 10!"], (
        "what was typed is not repeated to its writer"
    )
    for words in (
        "trained on conversations",
        "it has one wing",
        "the model answers",
        "what stood is forgotten",
    ):
        assert words in said.err
    system, hello, why = Message("system", "Be kind."), Message("user", "Hello"), Message("user", "Why?")
    answer = Message("assistant", " 30!")
    assert [a.messages for a in parrot.asked] == [
        (system, hello),
        (system, hello, answer, why),
        (system, hello, answer, why),
        (system, hello, answer, Message("user", "So?")),
        (),
    ]
    assert {a.prompt for a in parrot.asked[:-1]} == {""}
    assert parrot.asked[-1].prompt == "Be kind.\nOnce"
    kept = (tmp_path / "kept.txt").read_text()
    assert kept == "System: Be kind.\nYou: Hello\nModel:  30!\nYou: Why?\nModel:  30!\n"


def test_a_second_ctrl_c_stops_what_is_going_on_and_not_the_chat(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It came while the first one's text was being taken back, and ended the whole chat."""
    typed = iter(["Once", "/show"])

    class Interrupted(Conversation):
        def go_on(self, typed: str) -> None:
            del typed
            raise KeyboardInterrupt

    def read(_given: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    hold(Interrupted(checkpoint, DRAWING), read)
    assert "stopped" in capsys.readouterr().err
