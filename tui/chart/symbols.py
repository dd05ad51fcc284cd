"""How dots become characters: a grid of dots a cell, one glyph for each of its patterns. Braille is the finest; quadrant blocks are
for fonts without it, ASCII for everything else."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tui.store import FloatArray


@dataclass(frozen=True)
class Symbols:
    """One way to draw. `glyphs[bits]` shows the dots whose weights in `dot_weights` add up to `bits`."""

    name: str
    dot_weights: tuple[tuple[int, ...], ...]
    """Rows from the top, columns from the left."""
    glyphs: str
    """One character for each pattern; the first is the blank."""
    axis: str = "│"
    tick: str = "┤"
    swatch: str = "━"
    ellipsis: str = "…"
    marks: str = "◆±»«×▲"
    """One letter for each kind of mark, see `marks.LOOKS`."""

    @property
    def dots_high(self) -> int:
        return len(self.dot_weights)

    @property
    def dots_wide(self) -> int:
        return len(self.dot_weights[0])

    @cached_property
    def codepoints(self) -> NDArray[np.uint32]:
        return np.array([ord(glyph) for glyph in self.glyphs], dtype=np.uint32)

    def cell_bits(self, dots: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(rows * dots_high, columns * dots_wide) -> (rows, columns): the pattern of each cell."""
        bits = np.zeros((dots.shape[0] // self.dots_high, dots.shape[1] // self.dots_wide), dtype=np.uint8)
        for row, weights in enumerate(self.dot_weights):
            for column, weight in enumerate(weights):
                bits |= dots[row :: self.dots_high, column :: self.dots_wide] * np.uint8(weight)
        return bits


BRAILLE = Symbols(
    name="braille",
    dot_weights=((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80)),
    glyphs=" " + "".join(chr(0x2800 + bits) for bits in range(1, 256)),
)
BLOCK = Symbols(name="block", dot_weights=((1, 2), (4, 8)), glyphs=" ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█")
ASCII = Symbols(
    name="ascii",
    dot_weights=((1,), (2,)),
    glyphs=" '.:",
    axis="|",
    tick="+",
    swatch="-",
    ellipsis="~",
    marks="o=><x^",
)
SYMBOLS = {symbols.name: symbols for symbols in (BRAILLE, BLOCK, ASCII)}


def span_dots(low: FloatArray, high: FloatArray, bottom: float, top: float, height: int) -> NDArray[np.bool_]:
    """(columns,), (columns,) -> (height, columns): in each column every dot from `low` to `high`, both ends lit.

    `bottom` and `top` fall on the centres of the last and the first row. NaN lights nothing; what lies outside is cut off.
    """
    dots_per_unit = (height - 1) / (top - bottom)
    first_row = np.rint((top - high) * dots_per_unit)
    last_row = np.rint((top - low) * dots_per_unit)
    rows = np.arange(height)[:, None]
    return (rows >= first_row) & (rows <= last_row)
