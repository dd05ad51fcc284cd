"""What one checkpoint writes, token by token, with how likely each was: folded from pieces, tested without Textual."""

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import exp

from trainer_daemon.contract.generation import FinishReason, Piece, TokenLogprob
from trainer_daemon.contract.text import printable

SHADE_ENDS = (0.01, 0.05, 0.2, 0.5)
"""Probabilities between which the shades change: the last shade is for what was likelier than not."""


def shade(logprob: float) -> int:
    """0 for the unlikeliest tokens to len(SHADE_ENDS) for the likeliest."""
    return bisect(SHADE_ENDS, exp(logprob))


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it stands in the text."""

    text: str
    """What it added to the text: nothing while a character is not whole."""
    choice: TokenLogprob | None


@dataclass
class Answer:
    """One text in the making."""

    name: str
    """RUN@STEP"""
    prompt: str
    device: str | None = None
    is_chat: bool = False
    """The prompt is a question, the text its answer; else the text goes on where the prompt ends."""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    forgotten: int = 0
    """Tokens of the beginning that the model no longer read at the end."""
    error: str | None = None
    """Why there is no text, or no more of it."""
    first_token_seconds: float | None = None
    seconds: float = 0.0
    """From the question to the last token."""

    def take(self, piece: Piece, seconds: float) -> None:
        """Add a piece that came `seconds` after the question."""
        if self.first_token_seconds is None:
            self.first_token_seconds = seconds
        self.seconds, self.forgotten, self.finish_reason = seconds, piece.forgotten, piece.finish_reason
        if piece.text or piece.logprobs:
            self.tokens.append(Token(printable(piece.text), piece.logprobs[0] if piece.logprobs else None))

    @property
    def is_over(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token; None before there are two."""
        if (
            self.first_token_seconds is None
            or len(self.tokens) < 2
            or self.seconds <= self.first_token_seconds
        ):
            return None
        return (len(self.tokens) - 1) / (self.seconds - self.first_token_seconds)

    def words(self) -> Iterator[str]:
        """What is to be said about it, in short, and first what changes: a narrow column cuts the rest."""
        if self.device is None and not self.is_over:
            yield "loading"
        if self.first_token_seconds is not None:
            yield f"first token {1000 * self.first_token_seconds:.0f} ms"
        if (speed := self.tokens_per_second) is not None:
            yield f"{speed:.0f} tok/s"
        if self.forgotten:
            yield f"forgot {self.forgotten}"
        if self.finish_reason == "end":
            yield "ended"
        if self.tokens:
            yield f"{len(self.tokens)} tokens"
        if self.device:
            yield self.device
