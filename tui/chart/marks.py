"""What happened along x, as it is drawn: each kind has a letter of its own, so that it is told apart without colours too, and
what changes the course of a curve has a dotted line. The letter hangs where it covers no data."""

from collections.abc import Container
from typing import NamedTuple

from rich.style import Style
from rich.text import Text

from tui.chart.figure import MarkKind
from tui.chart.palette import Palette
from tui.chart.symbols import Symbols


class MarkLook(NamedTuple):
    word: str
    hue: int
    """Place in `Palette.lines`."""
    spacing: int | None
    """Dots from one lit dot of its line to the next; None for no line: a spike stands in the curve itself."""


LOOKS: dict[MarkKind, MarkLook] = {
    "checkpoint": MarkLook("checkpoint", 2, 4),
    "changed": MarkLook("set", 3, 3),
    "restart": MarkLook("restart", 1, 2),
    "rollback": MarkLook("rollback", 5, 2),
    "skipped": MarkLook("skipped", 5, None),
    "spike": MarkLook("spike", 5, None),
}
"""Where they fall together, the first ones stand above the others. `Symbols.marks` has their letters in this order."""


def letter(kind: MarkKind, symbols: Symbols) -> str:
    return symbols.marks[tuple(LOOKS).index(kind)]


def letter_style(kind: MarkKind, palette: Palette) -> Style:
    return palette.lines[LOOKS[kind].hue % len(palette.lines)]


def line_style(kind: MarkKind, palette: Palette) -> Style:
    """Fainter than the letter: there are many checkpoints, and none of them is news."""
    return (
        palette.checkpoint
        if kind == "checkpoint"
        else palette.reference
        if kind == "changed"
        else palette.restart
    )


def legend(kinds: Container[MarkKind], palette: Palette, symbols: Symbols) -> Text:
    """What the letters of these kinds stand for, in one line."""
    pieces = [
        Text.assemble((letter(kind, symbols), letter_style(kind, palette)), (f" {look.word}", palette.muted))
        for kind, look in LOOKS.items()
        if kind in kinds
    ]
    return Text("  ").join(pieces)
