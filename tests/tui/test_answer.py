"""Answers folded from pieces, and the prompts that are kept."""

from math import log
from pathlib import Path

import pytest

from trainer_daemon.contract.generation import Piece, TokenLogprob
from tui.answer import Answer, shade
from tui.favourites import favourites, favourites_file, toggle_favourite


def piece(text: str, count: int, *, done: bool = False) -> Piece:
    return Piece(text, count, done, "length" if done else None, logprobs=(TokenLogprob(text, -1.0, ()),))


def test_an_answer_knows_its_speed_and_its_wait() -> None:
    answer = Answer("fox@40", "Once")
    assert (list(answer.words()), answer.tokens_per_second, answer.is_over) == (["loading"], None, False)
    answer.device = "CPU, 1 thread"
    answer.take(piece(" upon", 1), 0.25)
    assert answer.tokens_per_second is None
    answer.take(piece(" a", 2), 0.5)
    answer.take(piece(" ti\x1b[31mme", 3, done=True), 0.75)
    assert answer.is_over
    assert [token.text for token in answer.tokens] == [" upon", " a", " time"]
    assert list(answer.words()) == ["first token 250 ms", "4 tok/s", "3 tokens", "CPU, 1 thread"]


def test_a_last_piece_without_a_token_is_no_token() -> None:
    answer = Answer("fox@40", "Once", device="CPU, 1 thread")
    answer.take(piece(" upon", 1), 0.1)
    answer.take(Piece("", 1, done=True, finish_reason="end", forgotten=7), 0.2)
    assert len(answer.tokens) == 1
    assert list(answer.words())[-4:] == ["forgot 7", "ended", "1 tokens", "CPU, 1 thread"]


def test_shades_go_with_probability() -> None:
    assert [shade(log(p)) for p in (0.001, 0.02, 0.1, 0.3, 0.9)] == [0, 1, 2, 3, 4]


def test_favourite_prompts_are_kept_over_sessions_and_survive_a_file_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "home"))
    assert favourites() == []
    assert toggle_favourite("Once")
    assert toggle_favourite("One day")
    assert favourites() == ["One day", "Once"]
    assert not toggle_favourite("Once")
    assert favourites() == ["One day"]
    for damage in ("[3, {}]", "{", "7"):
        favourites_file().write_text(damage)
        assert favourites() == []
