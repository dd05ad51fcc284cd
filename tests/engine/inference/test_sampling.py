"""From logits to a token, and from tokens to text."""

import pytest
import torch

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.generation import Generation, Message
from trainer_daemon.engine.inference.sampling import NUCLEUS_GUESS, logprob_of, pick_token
from trainer_daemon.engine.inference.text import StopFinder, TextStream

PROBABILITIES = [0.05, 0.4, 0.1, 0.3, 0.15]


def drawn(
    how: Generation, text: list[int] | None = None, weights: list[float] = PROBABILITIES
) -> dict[int, float]:
    """Token -> share of evenly spread draws that fall on it."""
    logits = torch.tensor(weights).log()
    draws = [pick_token(logits, how, text or [], (i + 0.5) / 1000) for i in range(1000)]
    return {token: draws.count(token) / 1000 for token in sorted(set(draws))}


def how(**settings: float | None) -> Generation:
    return Generation(prompt="", **{"temperature": 1.0, **settings})  # type: ignore[arg-type]  # a dict of settings


def test_tokens_come_as_often_as_they_are_likely() -> None:
    assert drawn(how()) == pytest.approx(dict(enumerate(PROBABILITIES)), abs=0.002)
    assert drawn(how(temperature=0)) == {1: 1.0}


def test_temperature_sharpens_and_flattens() -> None:
    squares = [p * p for p in PROBABILITIES]
    expected = {i: s / sum(squares) for i, s in enumerate(squares)}
    assert drawn(how(temperature=0.5)) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.9}, [1, 2, 3, 4]),
        ({"min_p": 0.3}, [1, 3, 4]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 3, "top_p": 0.8}, [1, 3]),  # of the three they have 0.47 and 0.35
        ({"top_p": 0.9, "min_p": 0.5}, [1, 3]),
    ],
)
def test_filters_keep_the_likeliest_and_their_proportions(
    settings: dict[str, float], kept: list[int]
) -> None:
    total = sum(PROBABILITIES[i] for i in kept)
    assert drawn(how(**settings)) == pytest.approx({i: PROBABILITIES[i] / total for i in kept}, abs=0.002)


def test_a_nucleus_wider_than_the_first_guess_is_found() -> None:
    flat = [1.0] * (2 * NUCLEUS_GUESS)
    assert len(drawn(how(top_p=0.9), weights=flat)) == pytest.approx(0.9 * len(flat), abs=2)


def test_the_penalty_falls_on_what_stands_already() -> None:
    assert drawn(how(repetition_penalty=2.0), text=[1, 1])[1] < 0.25
    assert drawn(how(repetition_penalty=2.0), text=[]) == drawn(how())


def test_the_ends_of_the_draw_fall_on_tokens_that_may_come() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    assert [pick_token(logits, how(), [], u) for u in (0.0, 1 - 2**-53)] == [1, 3]


def test_logprobs_come_with_the_likeliest_others() -> None:
    logprob, top = logprob_of(torch.tensor(PROBABILITIES).log(), 4, 2)
    assert logprob == pytest.approx(-1.897, abs=1e-3)
    assert [token for token, _ in top] == [1, 3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("stop", ("",)),
        ("logprobs", 21),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"^{field} must be"):
        Generation(prompt="", **{field: value})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("bad", ["\x00", "\x1b[31m", "a\x07", "\x9b", "\x7f"])
def test_a_prompt_with_control_characters_is_refused(bad: str) -> None:
    with pytest.raises(SpecError, match=r"control character U\+00"):
        Generation(prompt=bad)
    assert Generation(prompt="tab\tline\r\n🙂").prompt


@pytest.mark.parametrize(
    ("bad", "what"), [(b"On\xff", "the byte 0xFF"), (b"On\xed\xa0\x80", "the byte 0xED")]
)
def test_words_that_are_no_utf8_are_refused_with_the_byte_named(bad: bytes, what: str) -> None:
    """From a pipe or an argument they reached the socket's encoder, and llmctl called it a bug of its own."""
    text = bad.decode("utf-8", "surrogateescape")
    with pytest.raises(SpecError, match=f"^the prompt is not UTF-8: at place 2 stands {what}"):
        Generation(prompt=text)
    with pytest.raises(SpecError, match=r"^message 1 is not UTF-8"):
        Generation(prompt="", messages=(Message("user", text),))
    with pytest.raises(SpecError, match=r"^a stop string is not UTF-8"):
        Generation(prompt="", stop=(text,))
    with pytest.raises(SpecError, match=r"stands U\+D83D, which is no character"):
        Generation(prompt="\ud83d")  # as JSON may hold it


def test_text_comes_out_whole_when_a_character_is_split_over_tokens() -> None:
    pieces = [b"na", b"\xc3", b"\xafve \xe2", b"\x82", b"\xac", b"\xff", b"\xe2\x82"]
    stream = TextStream(pieces.__getitem__)
    assert [stream.push(n) for n in range(7)] == ["na", "", "ïve ", "", "€", "\ufffd", ""]
    assert stream.finish() == "\ufffd"


def test_what_may_become_a_stop_string_waits() -> None:
    finder = StopFinder(["\n\nUser", "<end>"])
    pushed = [finder.push(part) for part in ("a\n", "b\n", "\n", "Us", "x<", "en")]
    assert pushed == ["a", "\nb", "", "", "\n\nUsx", ""]
    assert finder.finish() == "<en"
    finder = StopFinder(["aab"])
    assert [finder.push(letter) for letter in "aaab"] == ["", "", "a", ""]
    assert finder.found
