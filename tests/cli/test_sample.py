"""Texts on stdout as they come."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.generation import Completion, in_order, tokens_per_second
from cli.live import LiveText
from cli.sample import Answer
from tests.cli.conftest import Llmctl, add_checkpoint, completed_run
from tests.cli.parrot import CHAT_STEP, Parrot
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.generation import Generation, Piece
from trainer_daemon.contract.rundir import find_run


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


def test_a_sample_is_the_prompt_and_its_continuation(llmctl: Llmctl, parrot: Parrot) -> None:
    settings = (
        "--top-p",
        "0.9",
        "--min-p",
        "0.1",
        "--stop",
        "x",
        "--stop",
        "y",
        "--repetition-penalty",
        "1.1",
    )
    done = llmctl("sample", "done@10", "Once", "--max-tokens", "4", "--seed", "7", *settings)
    assert (done.code, done.out) == (0, "Once 10 2 3!\n")
    for words in ("step 10, 4 tokens", "seed 7", "a perch"):
        assert words in done.err
    (asked,) = parrot.asked
    assert (asked.prompt, asked.max_tokens, asked.seed) == ("Once", 4, 7)
    assert (asked.top_p, asked.min_p, asked.stop, asked.repetition_penalty) == (0.9, 0.1, ("x", "y"), 1.1)


def test_what_is_to_be_known_of_the_worker_is_said_once(
    llmctl: Llmctl, parrot: Parrot, checkpoint: Path
) -> None:
    add_checkpoint(find_run("done"), CHAT_STEP)
    name = f"done@{CHAT_STEP}"
    said = llmctl("sample", name, "Once", "--versus", name, "--max-tokens", "2")
    assert said.err.count("it has one wing\n") == 1


def test_several_are_written_at_once_and_shown_one_after_the_other(llmctl: Llmctl, parrot: Parrot) -> None:
    done = llmctl("sample", "done@10", "Once", "-n", "3", "--max-tokens", "3", "--seed", "7")
    assert done.out == "Once 10 2!\n" * 3
    assert [a.seed for a in parrot.asked] == [7, 8, 9]
    assert "9 tokens" in done.err


def test_sample_json_has_every_promised_field(llmctl: Llmctl, parrot: Parrot) -> None:
    arguments = (
        "sample",
        "done@best",
        "Once",
        "-n",
        "2",
        "--max-tokens",
        "2",
        "--seed",
        "7",
        "--logprobs",
        "1",
    )
    told = llmctl(*arguments, "--json").json()
    promised = "checkpoint step prompt completions seed time_to_first_token_seconds tokens_per_second"
    assert set(promised.split()) <= set(told)
    assert (told["step"], told["prompt"], told["seed"]) == (10, "Once", 7)
    token = {"text": "x", "logprob": -1.5, "top": [{"text": "y", "logprob": -0.5}]}
    completion = {"text": "\x1b[31m 10!", "tokens": 2, "finish_reason": "length", "forgotten": 0}
    assert told["completions"] == [{**completion, "logprobs": [token, token]}] * 2


def test_two_checkpoints_write_side_by_side(llmctl: Llmctl, parrot: Parrot) -> None:
    arguments = ("sample", "done@10", "Once", "--versus", "done@20", "--max-tokens", "2")
    said = llmctl(*arguments)
    assert [[cell.strip() for cell in line.split("│")] for line in said.out.splitlines() if line] == [
        ["step 10", "step 20"],
        ["Once 10!", "Once 20!"],
    ]
    told = llmctl(*arguments, "--json").json()
    assert (told["step"], told["versus"]["step"]) == (10, 20)
    assert told["versus"]["completions"][0]["text"] == "\x1b[31m 20!"


def test_the_prompt_may_come_from_stdin(
    llmctl: Llmctl, parrot: Parrot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Two\nlines\n"))
    assert llmctl("sample", "done@10", "-", "--max-tokens", "2").out == "Two\nlines 10!\n"
    assert llmctl("sample", "done@10", "--max-tokens", "2").out == " 10!\n"
    assert [a.prompt for a in parrot.asked] == ["Two\nlines", ""]


def test_without_a_seed_each_call_draws_its_own_and_says_which(llmctl: Llmctl, parrot: Parrot) -> None:
    seeds = {llmctl("sample", "done", "a", "--max-tokens", "2", "--json").json()["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert seeds == {a.seed for a in parrot.asked}


def test_what_the_worker_refuses_is_said(llmctl: Llmctl, parrot: Parrot) -> None:
    refused = llmctl("sample", "done", "refuse")
    assert refused.code == 2
    assert "not that one" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("done", "x" * 30_001), 2, "30,000 bytes"),
        (("done", "a\x1b[2J"), 2, "control character U+001B"),
        (("done", "a\udcff"), 2, "the byte 0xFF"),
        (("done", "a", "--top-p", "2"), 2, "top_p must be"),
        (("done", "a", "--overflow", "wrap"), 2, "slide or refuse"),
        (("done@11", "a"), 3, "the nearest is done@10"),
        (("done@10", "a", "--live"), 2, "give the run alone: done"),
        (("done", "a", "--live"), 6, "is not training now"),
        (("done", "a", "--live", "--top-p", "0.5", "--stop", "x"), 6, "is not training now"),
        (("done", "a", "--live", "--versus", "done@10"), 2, "--versus compares checkpoints"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_worker_is_asked(
    llmctl: Llmctl, checkpoint: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    refused = llmctl("sample", *arguments)
    assert (refused.code, refused.out) == (code, "")
    assert words in refused.err


def test_what_the_model_in_training_does_not_report_is_refused_by_name(home: Path) -> None:
    with pytest.raises(SpecError, match=r"^--logprobs: the model in training does not report them"):
        LiveText(completed_run(), Generation(prompt="a", logprobs=1))


def test_texts_that_come_at_once_are_shown_in_their_order() -> None:
    def coming() -> Iterator[tuple[int, Piece]]:
        for place, text, is_done in (
            (1, "x", False),
            (0, "a", False),
            (1, "y", True),
            (0, "b", True),
            (2, "p", True),
        ):
            completions[place].take(Piece(text, 1, is_done, "length" if is_done else None), 0.1)
            yield place, completions[place].logprobs  # type: ignore[misc]  # only the place is read

    completions = [Completion(), Completion(), Completion()]
    shown = [(place, text) for place, text in in_order(completions, coming()) if text]
    assert shown == [(0, "a"), (0, "b"), (1, "xy"), (2, "p")]


def test_speed_counts_what_came_after_the_first_token() -> None:
    assert tokens_per_second([]) is None
    first = Completion(tokens=11, first_token_seconds=1.0, seconds=3.0)
    assert tokens_per_second([first]) == 5
    assert tokens_per_second([first, Completion(tokens=11, first_token_seconds=1.5, seconds=5.0)]) == 5
    assert tokens_per_second([Completion(tokens=1, first_token_seconds=1.0, seconds=1.0)]) is None


def test_the_speed_of_the_model_in_training_is_that_of_its_pause() -> None:
    live = [Completion(tokens=12, first_token_seconds=0.9, seconds=0.9001)]
    assert Answer(None, 4, live, pause_seconds=0.5).tokens_per_second == 24
