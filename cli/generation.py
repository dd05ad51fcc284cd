"""What `sample`, `chat` and `serve` share: the options that decide how a text is drawn, and where it is read from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trainer_daemon.contract.generation import Piece, TokenLogprob

MaxTokensOption = Annotated[int, typer.Option("--max-tokens", metavar="M", min=1, help="Tokens to write.")]
TemperatureOption = Annotated[
    float,
    typer.Option("--temperature", metavar="T", min=0, max=10, help="0 takes the likeliest token each time."),
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", metavar="K", min=1, help="Draw only among the K likeliest tokens.")
]
TopPOption = Annotated[
    float,
    typer.Option(
        "--top-p", metavar="P", help="Draw only among the likeliest tokens that together have probability P."
    ),
]
MinPOption = Annotated[
    float,
    typer.Option(
        "--min-p", metavar="P", help="Draw only tokens at least P times as likely as the likeliest."
    ),
]
PenaltyOption = Annotated[
    float,
    typer.Option("--repetition-penalty", metavar="R", help="Above 1: what stands already comes less often."),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End the text before this; may be given several times."),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="S", min=0, help="The same seed gives the same text; else a new one."),
]
OverflowOption = Annotated[
    str,
    typer.Option(
        "--overflow",
        metavar="slide|refuse",
        help="When a text outgrows the context: forget its beginning, or refuse the prompt and end the text.",
    ),
]


@dataclass
class Completion:
    """A text as it comes."""

    text: str = ""
    tokens: int = 0
    finish_reason: str | None = None
    forgotten: int = 0
    """Tokens of the beginning that the model no longer read at the end."""
    logprobs: "list[TokenLogprob]" = field(default_factory=list)
    first_token_seconds: float | None = None
    """From the request to the first token."""
    seconds: float = 0.0
    """From the request to the last token."""

    def take(self, piece: "Piece", seconds: float) -> None:
        """Add what came `seconds` after the request."""
        if self.first_token_seconds is None:
            self.first_token_seconds = seconds
        self.text += piece.text
        self.tokens, self.finish_reason, self.forgotten = piece.tokens, piece.finish_reason, piece.forgotten
        self.logprobs += piece.logprobs
        self.seconds = seconds


def tokens_per_second(completions: list[Completion]) -> float | None:
    """Of texts that were written together: all tokens after the first ones, over the time since then; None for none."""
    starts = [c.first_token_seconds for c in completions if c.first_token_seconds is not None]
    if not starts:
        return None
    tokens = sum(max(0, c.tokens - 1) for c in completions)
    seconds = max(c.seconds for c in completions) - min(starts)
    return tokens / seconds if tokens and seconds > 0 else None


def new_seed() -> int:
    """One that nobody has chosen."""
    import secrets

    return secrets.randbelow(2**31)


def in_order(
    completions: list[Completion], pieces: "Iterator[tuple[int, Piece]]"
) -> "Iterator[tuple[int, str]]":
    """(place, text) of texts that come at once, one text after the other: the first unfinished one as it comes."""
    shown = [0] * len(completions)
    at = 0
    for place, _ in pieces:
        while at < len(completions) and place >= at:
            done = completions[at]
            yield at, done.text[shown[at] :]
            shown[at] = len(done.text)
            if done.finish_reason is None:
                break
            at += 1
