"""Text on stdout as it comes, from a real worker socket behind which a parrot stands instead of a model."""

import io
import threading
from _thread import interrupt_main
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.talk import Conversation, Drawing, last_bytes
from tests.cli.conftest import Llmctl, add_checkpoint, completed_run
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.link.inference import InferenceServer, Piece, Worker


class Parrot:
    """Serves a checkpoint: says what it was asked, word by word, behind an escape sequence."""

    def __init__(self, checkpoint: Path) -> None:
        self.asked: list[dict[str, Any]] = []
        self._served = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(checkpoint,))
        self._thread.start()
        assert self._served.wait(10)

    def _serve(self, checkpoint: Path) -> None:
        with InferenceServer(checkpoint) as server:
            self._served.set()
            server.serve(self._generate, idle_seconds=1.0)

    def _generate(self, arguments: dict[str, Any]) -> Iterator[Piece]:
        self.asked.append(arguments)
        if arguments["prompt"] == "refuse":
            raise SpecError("not that one")
        return self._words(arguments)

    def _words(self, arguments: dict[str, Any]) -> Iterator[Piece]:
        yield Piece("\x1b[31m", 1, done=False, finish_reason=None)
        for count in range(2, arguments["max_tokens"]):
            yield Piece(f" {count}", count, done=False, finish_reason=None)
        ends = arguments["prompt"].endswith("The end")
        yield Piece("!", arguments["max_tokens"], done=True, finish_reason="end" if ends else "length")

    def close(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def checkpoint(home: Path) -> Path:
    return add_checkpoint(completed_run(), 10, 0.5)


@pytest.fixture
def parrot(checkpoint: Path) -> Iterator[Parrot]:
    bird = Parrot(checkpoint)
    yield bird
    bird.close()


def test_a_sample_is_the_prompt_and_its_continuation(llmctl: Llmctl, parrot: Parrot) -> None:
    done = llmctl("sample", "done", "Once", "--max-tokens", "4", "--seed", "7")
    assert (done.code, done.out) == (0, "Once 2 3!\n")
    assert "step 10, 4 tokens" in done.err
    assert "seed 7" in done.err
    assert parrot.asked == [{"prompt": "Once", "max_tokens": 4, "temperature": 0.8, "top_k": None, "seed": 7}]


def test_sample_json_has_every_promised_field(llmctl: Llmctl, parrot: Parrot) -> None:
    arguments = ("sample", "done@best", "Once", "-n", "2", "--max-tokens", "3", "--seed", "7", "--top-k", "5")
    told = llmctl(*arguments, "--json").json()
    promised = "checkpoint step prompt completions seed time_to_first_token_seconds tokens_per_second"
    assert set(promised.split()) <= set(told)
    assert (told["step"], told["prompt"], told["seed"]) == (10, "Once", 7)
    assert told["completions"] == [
        {"text": "\x1b[31m 2!", "tokens": 3, "finish_reason": "length", "logprobs": None}
    ] * 2  # fmt: skip
    assert [a["seed"] for a in parrot.asked] == [7, 8]
    assert {a["top_k"] for a in parrot.asked} == {5}


def test_without_a_seed_each_call_draws_its_own_and_says_which(llmctl: Llmctl, parrot: Parrot) -> None:
    seeds = {llmctl("sample", "done", "a", "--max-tokens", "2", "--json").json()["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert seeds == {a["seed"] for a in parrot.asked}


def test_what_the_worker_refuses_is_said(llmctl: Llmctl, parrot: Parrot) -> None:
    refused = llmctl("sample", "done", "refuse")
    assert refused.code != 0
    assert "not that one" in refused.err


def test_a_prompt_beyond_what_a_request_holds_is_refused(llmctl: Llmctl, checkpoint: Path) -> None:
    assert llmctl("sample", "done", "x" * 30_001).code == 2


def test_live_wants_the_run_alone(llmctl: Llmctl, checkpoint: Path) -> None:
    refused = llmctl("sample", "done@10", "a", "--live")
    assert refused.code == 2
    assert "give the run alone: done" in refused.err


def test_a_chat_is_one_text_that_both_write(
    llmctl: Llmctl, parrot: Parrot, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "Once",
        "",
        "and then",
        "/max 2",
        "/temperature 0",
        "/seed 3",
        "more",
        "/reset",
        "again",
        "/quit",
        "x",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    said = llmctl("chat", "done@10", "--max-tokens", "3", "--seed", "1")
    assert said.code == 0
    assert said.out == "Once 2!\nand then 2!\nmore!\nagain!\n"
    assert "it continues what you begin" in said.err
    story = "Once\x1b[31m 2!\nand then"
    assert [a["prompt"] for a in parrot.asked] == ["Once", story, f"{story}\x1b[31m 2!\nmore", "again"]
    assert [(a["max_tokens"], a["temperature"], a["seed"]) for a in parrot.asked] == [
        (3, 0.8, 1),
        (3, 0.8, 2),
        (2, 0.0, 3),
        (2, 0.0, 4),
    ]


def test_when_the_model_ends_its_text_the_next_line_begins_another(
    llmctl: Llmctl, parrot: Parrot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The end\nOnce\n"))
    said = llmctl("chat", "done", "--max-tokens", "2")
    assert [a["prompt"] for a in parrot.asked] == ["The end", "Once"]
    assert "come to its end" in said.err


@pytest.mark.parametrize(
    "line", ["/max", "/max 0", "/max x", "/temperature 11", "/temperature nan", "/seed -1", "/foo"]
)
def test_a_chat_command_that_makes_no_sense_changes_nothing(
    home: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    with Worker(checkpoint) as worker:
        chat = Conversation(worker, Drawing(5, 0.5, None, 9))
        assert chat.obey(line)
    assert chat.drawing == Drawing(5, 0.5, None, 9)
    assert capsys.readouterr().err.startswith(line.split(maxsplit=1)[0])


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
    with Worker(checkpoint) as worker:
        chat = Conversation(worker, Drawing(10**9, 0.5, None, 9))
        chat.go_on("Once")
    assert chat.text.startswith("Once\x1b[31m 2")
    assert terminal.getvalue().startswith("Once 2")
    assert terminal.getvalue().endswith(" …\n")
    parrot.close()  # which has an end only if the rest, a thousand million words, was cancelled


def test_the_end_of_a_text_is_cut_between_characters() -> None:
    assert last_bytes("aé🙂", 100) == "aé🙂"
    assert last_bytes("aé🙂", 5) == "🙂"
    assert last_bytes("\udc80", 5) == "?"
