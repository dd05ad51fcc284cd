"""What a chart shows, apart from how it is looked at and what it is drawn with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tui.chart.axis import Span
from tui.store import FloatArray, XAxis


@dataclass(frozen=True, eq=False)
class Series:
    """One line. With `smooth`, that is the line and the raw values a faded band beneath it."""

    label: str
    x: FloatArray
    """Ascending."""
    y: FloatArray
    """As long as `x`; NaN is a gap."""
    smooth: FloatArray | None = None
    colour: int = 0
    """Which of the palette's colours."""
    is_ghost: bool = False
    """A branch that a rollback cut off: faded, below the rest, not in the legend."""


@dataclass(frozen=True)
class Reference:
    """A horizontal line worth comparing with, such as the entropy of the data."""

    y: float
    label: str


MarkKind = Literal["checkpoint", "changed", "restart", "rollback", "skipped", "spike"]


@dataclass(frozen=True)
class Mark:
    """Something that happened at `x`."""

    x: float
    kind: MarkKind
    y: float | None = None
    """Where it lies on a curve; None for what belongs to none."""
    is_chosen: bool = False
    """Stands out from the others."""


@dataclass(frozen=True, eq=False)
class Figure:
    """All that a chart shows, apart from how it is looked at."""

    title: str
    series: Sequence[Series] = ()
    """The first is drawn on top."""
    references: Sequence[Reference] = ()
    marks: Sequence[Mark] = ()
    x_axis: XAxis = "step"
    factor: float = 1.0
    """Multiplies y wherever it is written: 100 shows a fraction as per cent."""

    @property
    def x_extent(self) -> Span | None:
        """The first and last x of any series; None while there is no point at all."""
        extents = [(float(series.x[0]), float(series.x[-1])) for series in self.series if len(series.x)]
        if not extents:
            return None
        starts, ends = zip(*extents, strict=True)
        return min(starts), max(ends)
