"""From points to pixel columns. The least and greatest value of each column is all that a raster of vertical spans can show, so the
reduction loses nothing that the screen could have drawn, at 0.1 ms for a million points."""

from typing import NamedTuple

import numpy as np

from tui.store import FloatArray


def polyline_extents(
    x: FloatArray, y: FloatArray, edges: FloatArray, *, log_y: bool = False
) -> tuple[FloatArray, FloatArray]:
    """The least and greatest value that the line through (x, y) takes between each two neighbouring `edges`, in axis units
    (log10 of y if `log_y`); NaN where there is no line. `x` ascends; a NaN in y (or y <= 0 if `log_y`) breaks the line."""
    first = np.searchsorted(x, edges)
    if log_y:
        # Only what can be seen is worth masking: the points between the edges and one neighbour at either end.
        start, stop = max(int(first[0]) - 1, 0), int(first[-1]) + 1
        x, y, first = x[start:stop], y[start:stop], first - start
        y = np.where(y > 0, y, np.nan)
    low, high = _point_extents(y, first)
    if log_y:
        low, high = np.log10(low), np.log10(high)
    crossing = _values_at(x, y, edges, first, log_y=log_y)
    low = np.fmin(low, np.fmin(crossing[:-1], crossing[1:]))
    high = np.fmax(high, np.fmax(crossing[:-1], crossing[1:]))
    return low, high


class _Reduced(NamedTuple):
    """A line as it was reduced last. Holds its buffers, so that no other array can come to be where they are."""

    x_buffer: np.ndarray
    y_buffer: np.ndarray
    edges: FloatArray
    log_y: bool
    low: FloatArray
    high: FloatArray
    settled: int
    """So many columns, from the left, have points known beyond them: what is appended leaves them as they are."""
    start: int
    """The last point that lies before the first unsettled column."""


class Reductions:
    """`polyline_extents` for lines that are looked at again and again while they grow: only the columns at the end are reduced anew.

    That a line has only grown is told by its arrays: longer views of the same buffers, see `store.Column`.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], _Reduced] = {}
        self._now: dict[tuple[int, int], _Reduced] = {}

    def begin(self) -> None:
        """The next drawing: what the last one did not ask for is forgotten."""
        self._last, self._now = self._now, {}

    def extents(
        self, x: FloatArray, y: FloatArray, edges: FloatArray, *, log_y: bool
    ) -> tuple[FloatArray, FloatArray]:
        """As `polyline_extents` gives them."""
        x_buffer, y_buffer = x.base, y.base
        if x_buffer is None or y_buffer is None:
            return polyline_extents(x, y, edges, log_y=log_y)
        key = id(x_buffer), id(y_buffer)
        known = self._last.get(key)
        if known is None or known.log_y != log_y or not np.array_equal(known.edges, edges):
            low, high = polyline_extents(x, y, edges, log_y=log_y)
            settled = start = 0
        else:
            settled, start = known.settled, known.start
            low, high = polyline_extents(x[start:], y[start:], edges[settled:], log_y=log_y)
            low = np.concatenate((known.low[:settled], low))
            high = np.concatenate((known.high[:settled], high))
        first = start + np.searchsorted(x[start:], edges[settled:])
        more = max(int(np.searchsorted(first[1:], len(x))), 0)
        settled, start = settled + more, max(int(first[more]) - 1, 0)
        self._now[key] = _Reduced(x_buffer, y_buffer, edges, log_y, low, high, settled, start)
        return low, high


def _point_extents(y: FloatArray, first: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """The least and greatest y of the points first[i]..first[i+1]; NaN where there are none."""
    low = np.full(len(first) - 1, np.nan)
    high = low.copy()
    is_filled = np.diff(first) > 0
    starts = first[:-1][is_filled]
    if len(starts):
        seen = y[: first[-1]]
        low[is_filled] = np.fmin.reduceat(seen, starts)
        high[is_filled] = np.fmax.reduceat(seen, starts)
    return low, high


def _values_at(
    x: FloatArray, y: FloatArray, edges: FloatArray, first: np.ndarray, *, log_y: bool
) -> FloatArray:
    """The line's height at each edge, straight between its points in axis units; NaN outside the data and beside a gap."""
    heights = np.full(len(edges), np.nan)
    is_inside = (first > 0) & (first < len(x))
    after = first[is_inside]
    if not len(after):
        return heights
    y_before, y_after = y[after - 1], y[after]
    if log_y:
        y_before, y_after = np.log10(y_before), np.log10(y_after)
    # x[after - 1] < edge <= x[after], so the difference is never zero, repeated steps included.
    share = (edges[is_inside] - x[after - 1]) / (x[after] - x[after - 1])
    heights[is_inside] = y_before + share * (y_after - y_before)
    return heights


def quantile_range(y: FloatArray, least: float, greatest: float) -> tuple[float, float] | None:
    """The quantiles `least` and `greatest` of the finite values, from an even sample of at most 8192 points; None without any.

    The stride is a power of two, so the sample stays the same points while the series grows.
    """
    stride = 1 << max(0, (max(len(y), 1) - 1).bit_length() - 13)
    sample = y[::stride]
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return None
    low, high = np.quantile(sample, (least, greatest))
    return float(low), float(high)
