"""What may be asked of a model that writes, and what comes back: the same for CLI, cockpit, HTTP and the training run.

A request is checked where it is made and again where it arrives, by the same lines; so a worker never meets one that
makes no sense.
"""

import re
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from trainer_daemon.contract.errors import SpecError

FinishReason = Literal["length", "end", "stop"]
"""length: `max_tokens` or the context is used up. end: the model ended its text. stop: a stop string came."""

Overflow = Literal["slide", "refuse"]
"""What becomes of a text that outgrows the context. slide: the model reads the last half context again and goes on.
refuse: a prompt that does not fit is an error, and a text ends where the context does."""

Role = Literal["system", "user", "assistant"]
"""Who says a message of a conversation; system: what the model is told before it."""

MAX_TOKENS = 1 << 16
MAX_ALTERNATIVES = 20
MAX_STOPS = 16
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NO_CHARACTER = re.compile("[\ud800-\udfff]")
"""What Python reads from bytes that are no UTF-8 (surrogateescape), and JSON from half a pair: nothing can send it on."""


@dataclass(frozen=True, slots=True)
class Message:
    """What one side of a conversation said."""

    role: Role
    text: str
    """No control characters but tab and line ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One text to be written. Raises SpecError, naming the field, for what cannot be."""

    prompt: str
    """What the text begins with; an empty one begins from nothing. No control characters but tab and line ends."""
    messages: tuple[Message, ...] = ()
    """A conversation to be answered, in place of a prompt: only by models that were trained on conversations. The user has
    the last word in it."""
    max_tokens: int = 128
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token each time, whatever the filters below say."""
    top_k: int | None = None
    """Draw among the k likeliest tokens; None: all."""
    top_p: float = 1.0
    """Draw among the fewest likeliest tokens that together have this probability (nucleus); 1: all."""
    min_p: float = 0.0
    """Draw among tokens at least this share as likely as the likeliest; 0: all."""
    repetition_penalty: float = 1.0
    """Tokens that stand in the text already have a positive logit divided by it and a negative one multiplied (CTRL,
    arXiv 1909.05858); 1: no penalty."""
    seed: int = 0
    """The same seed gives the same text, whoever else is being written for at the time."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these, wherever token borders fall."""
    logprobs: int | None = None
    """Report each token's log-probability and so many of the likeliest alternatives; None: report nothing."""
    overflow: Overflow = "slide"

    def __post_init__(self) -> None:
        _check("max_tokens", 1 <= self.max_tokens <= MAX_TOKENS, f"1 to {MAX_TOKENS}", self.max_tokens)
        _check("temperature", 0 <= self.temperature <= 10, "0 to 10", self.temperature)
        _check("top_k", self.top_k is None or self.top_k >= 1, "1 or more", self.top_k)
        _check("top_p", 0 < self.top_p <= 1, "above 0, at most 1", self.top_p)
        _check("min_p", 0 <= self.min_p <= 1, "0 to 1", self.min_p)
        penalty = self.repetition_penalty
        _check("repetition_penalty", isfinite(penalty) and 0 < penalty <= 10, "above 0, at most 10", penalty)
        _check("seed", 0 <= self.seed < 1 << 63, "0 or more, below 2^63", self.seed)
        _check(
            "stop",
            len(self.stop) <= MAX_STOPS and all(self.stop),
            f"at most {MAX_STOPS} strings, none of them empty",
            self.stop,
        )
        for stop in self.stop:
            _check_characters("a stop string", stop)
        alternatives = self.logprobs
        _check(
            "logprobs",
            alternatives is None or 0 <= alternatives <= MAX_ALTERNATIVES,
            f"0 to {MAX_ALTERNATIVES}",
            alternatives,
        )
        _check_text("the prompt", self.prompt)
        if self.messages:
            _check_messages(self.messages)
            if self.prompt:
                raise SpecError("a text begins with a prompt or answers messages, not both; leave one out")


def _check_text(name: str, text: str) -> None:
    if found := _CONTROL.search(text):
        raise SpecError(
            f"{name} has the control character U+{ord(found[0]):04X} at place {found.start()}; "
            f"only tab and line ends may stand in it"
        )
    _check_characters(name, text)


def _check_characters(name: str, text: str) -> None:
    if found := _NO_CHARACTER.search(text):
        code = ord(found[0])
        what = f"the byte 0x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"U+{code:04X}"
        raise SpecError(
            f"{name} is not UTF-8: at place {found.start()} stands {what}, which is no character; recode it"
        )


def _check_messages(messages: tuple[Message, ...]) -> None:
    for i, message in enumerate(messages):
        _check_text(f"message {i + 1}", message.text)
    if messages[-1].role != "user":
        raise SpecError(
            f"the last message is the {messages[-1].role}'s; it must be the user's, to be answered"
        )


def _check(name: str, holds: bool, allowed: str, value: object) -> None:
    if not holds:
        raise SpecError(f"{name} must be {allowed}; got {value!r}")


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could stand in a place."""

    text: str
    """Its bytes as text; U+FFFD for bytes that are no whole character."""
    logprob: float
    """Natural logarithm of the probability that the model itself gives it, before temperature, penalty and filters."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that was written, and the likeliest in its place, the likeliest first."""

    text: str
    logprob: float
    top: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """The next piece of a text."""

    text: str
    """May be empty: half a character, or what may yet become a stop string, waits for the next piece."""
    tokens: int
    """Tokens written so far."""
    done: bool
    finish_reason: FinishReason | None
    """Known with the last piece."""
    prompt_tokens: int = 0
    """Tokens of the prompt, the one that begins a text included."""
    forgotten: int = 0
    """Tokens of the beginning that the model did not read any more when it wrote this, because the context is full."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens of this piece, where they were asked for."""
