"""A figure as it is looked at: where its axes end, what they name, and each series reduced to the pixel columns there are.

Everything here is in axis units: the value itself, or its log10 on a log axis. Cells and vectors are drawn from the same scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tui.chart import axis
from tui.chart.axis import Span
from tui.chart.columns import Reductions, quantile_range
from tui.chart.figure import Figure, Series
from tui.chart.view import Bounds, View
from tui.store import FloatArray, XAxis
from tui.wording import count

CLIP_QUANTILES = (0.01, 0.99)


class Extents(NamedTuple):
    """Per pixel column; NaN where there is no line."""

    low: FloatArray
    high: FloatArray


class Trace(NamedTuple):
    """One series reduced to pixel columns."""

    series: Series
    raw: Extents
    smooth: Extents | None


class Tick(NamedTuple):
    place: float
    label: str


@dataclass(frozen=True)
class Scene:
    bounds: Bounds
    traces: list[Trace]
    """As the figure's series."""


def to_axis(value: float, *, log: bool) -> float:
    """A value in axis units; NaN where a log axis has no place for it."""
    if not log:
        return value
    return math.log10(value) if value > 0 else math.nan


def from_axis(place: float, *, log: bool) -> float:
    return 10.0**place if log else place


def x_extent(figure: Figure, *, log_x: bool) -> Span | None:
    """The first and last x of any series; None while there is no point that the axis has a place for."""
    if not log_x:
        return figure.x_extent
    positive = [x[np.searchsorted(x, 0, side="right") :] for x in (series.x for series in figure.series)]
    spans = [(float(x[0]), float(x[-1])) for x in positive if len(x)]
    if not spans:
        return None
    starts, ends = zip(*spans, strict=True)
    return math.log10(min(starts)), math.log10(max(ends))


def on_a_point(figure: Figure, place: float, within: Span, origin: float | None, *, log_x: bool) -> float:
    """The x of the point nearest to `place`, of those `within`; on the way from `origin` never the one that it stands on, but
    the next if there is one. All in axis units; where there is no point, `place` itself."""
    ends = [from_axis(end, log=log_x) for end in within]
    near = np.empty(0)
    for series in figure.series:
        start, stop = np.searchsorted(series.x, ends)
        near = np.append(near, () if series.is_ghost else series.x[max(start - 1, 0) : stop + 1])
    near = np.log10(near[near > 0]) if log_x else near
    near = near[(near >= within[0]) & (near <= within[1])]
    if origin is not None and place != origin:
        on = near[near > origin] if place > origin else near[near < origin]
        if not len(on):
            return origin if origin in near else place
        near = on
    return float(near[np.abs(near - place).argmin()]) if len(near) else place


def scene(
    figure: Figure,
    view: View,
    pixels: int,
    previous: Bounds | None = None,
    reductions: Reductions | None = None,
) -> Scene | None:
    """`figure` over `pixels` columns; None when there is nothing to draw. `previous`: the bounds of the last drawing of this
    figure under this view's scale, which are kept while they still fit. `reductions`: what was reduced for that drawing."""
    reductions = reductions or Reductions()
    reductions.begin()
    data = x_extent(figure, log_x=view.log_x)
    if data is None:
        return None
    x_bounds = _x_bounds(data, view, pixels, previous)
    edges = _edges(x_bounds, pixels, log_x=view.log_x)
    traces = [_trace(series, edges, view, reductions) for series in figure.series]
    y_bounds = _y_bounds(figure, traces, view, (float(edges[0]), float(edges[-1])), previous)
    return None if y_bounds is None else Scene(Bounds(x_bounds, y_bounds), traces)


def x_ticks(x_axis: XAxis, bounds: Span, count: int, *, log_x: bool) -> list[Tick]:
    """About `count` round values along x."""
    if log_x:
        ticks = axis.log_ticks(*bounds, count)
        named = axis.duration if x_axis == "seconds" else axis.compact
        return [Tick(math.log10(tick), named(tick)) for tick in ticks.tolist()]
    if x_axis == "seconds":
        ticks = axis.duration_ticks(*bounds, count)
        return [Tick(tick, axis.duration(tick)) for tick in ticks.tolist()]
    ticks = axis.linear_ticks(*bounds, count)
    return [Tick(*pair) for pair in zip(ticks.tolist(), axis.tick_labels(ticks), strict=True)]


def y_ticks(factor: float, bounds: Span, count: int, *, log_y: bool) -> list[Tick]:
    """About `count` round values along y, written times `factor`."""
    if log_y:
        ticks = axis.log_ticks(*bounds, count)
        return [Tick(to_axis(tick, log=True), axis.compact(tick * factor)) for tick in ticks.tolist()]
    ticks = axis.linear_ticks(*bounds, count)
    return [Tick(*pair) for pair in zip(ticks.tolist(), axis.tick_labels(ticks * factor), strict=True)]


def x_text(x: float, x_axis: XAxis) -> str:
    """One x value as people write it: steps are counted, whatever their number."""
    if x_axis == "step":
        return count(round(x))
    return axis.duration(x) if x_axis == "seconds" else axis.compact(x)


def _x_bounds(data: Span, view: View, pixels: int, previous: Bounds | None) -> Span:
    start, end = data
    if view.x_span is None:
        continues = previous is not None and previous.x[0] == start
        least = axis.LEAST_LOG_SPAN if view.log_x else axis.LEAST_SPAN
        return start, axis.grown_end(start, end, previous.x[1] if previous and continues else None, least)
    if view.x_end is None:
        return axis.snapped_window(end, view.x_span, pixels)
    return view.x_end - view.x_span, view.x_end


def _y_bounds(
    figure: Figure, traces: Sequence[Trace], view: View, x_range: Span, previous: Bounds | None
) -> Span | None:
    if view.y is not None:
        return view.y
    wanted = _clipped_range(figure, x_range, log_y=view.log_y) if view.clip else _full_range(traces)
    if wanted is None:
        return None
    wanted = _stretched_to_references(wanted, figure, view)
    return axis.settled_range(wanted, previous.y if previous else None)


def _full_range(traces: Sequence[Trace]) -> Span | None:
    extents = [extents for trace in traces for extents in (trace.raw, trace.smooth) if extents is not None]
    values = np.concatenate([column for low_high in extents for column in low_high])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else None


def _clipped_range(figure: Figure, x_range: Span, *, log_y: bool) -> Span | None:
    """From the percentiles of the points in sight, not of the columns: one spike in every column is still a rare spike."""
    ranges = []
    for series in figure.series:
        first, last = np.searchsorted(series.x, x_range)
        seen = series.y[first:last]
        ranges.append(quantile_range(seen[seen > 0] if log_y else seen, *CLIP_QUANTILES))
    known = [seen for seen in ranges if seen is not None]
    if not known:
        return None
    low, high = min(low for low, _ in known), max(high for _, high in known)
    return (math.log10(low), math.log10(high)) if log_y else (low, high)


def _stretched_to_references(wanted: Span, figure: Figure, view: View) -> Span:
    """Room for each reference that is no further from the data than they reach themselves; a farther one would flatten them."""
    low, high = wanted
    reach = high - low
    heights = [to_axis(reference.y, log=view.log_y) for reference in figure.references]
    near = [height for height in heights if wanted[0] - reach <= height <= wanted[1] + reach]
    return min([low, *near]), max([high, *near])


@lru_cache(maxsize=64)
def _edges(bounds: Span, pixels: int, *, log_x: bool) -> FloatArray:
    """The x at both sides of each pixel column, in the figure's own units."""
    edges = np.linspace(*bounds, pixels + 1)
    if log_x:
        edges = 10.0**edges
    edges.flags.writeable = False
    return edges


def _trace(series: Series, edges: FloatArray, view: View, reductions: Reductions) -> Trace:
    def reduced(y: FloatArray) -> Extents:
        return Extents(*reductions.extents(series.x, y, edges, log_y=view.log_y))

    return Trace(series, reduced(series.y), None if series.smooth is None else reduced(series.smooth))
