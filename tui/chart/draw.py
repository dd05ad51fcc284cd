"""A chart as rows of styled text: (figure, view, size) in, segments out, nothing remembered. It serves the cockpit's widget, which
compares rows to repaint only the changed ones, and a plain print to a terminal or a file.

    points -> extents per pixel column -> dots per layer -> cells owned by one layer -> runs of one style

One title row with the live legend, one row of x labels, and all the rest is data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style

from tui.chart import axis
from tui.chart.axis import Span
from tui.chart.columns import polyline_extents, quantile_range
from tui.chart.palette import Palette
from tui.chart.symbols import BRAILLE, Symbols, span_dots
from tui.chart.view import Bounds, View
from tui.store import FloatArray, XAxis

Row = list[Segment]

GUTTER = 8
"""Cells left of the data, the same for every chart, so that charts in a column line up."""
LABEL_SPACING = 12
"""Cells an x label has to itself."""
ROWS_PER_TICK = 3
CLIP_QUANTILES = (0.01, 0.99)
REFERENCE_DASH = 3
MARK_SPACING: dict[str, int] = {"checkpoint": 4, "restart": 2}
"""Dots from one lit dot of a vertical mark to the next: a restart changes the curve, a checkpoint is only a place to go back to."""


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


@dataclass(frozen=True)
class Mark:
    """Something that happened at `x`."""

    x: float
    kind: Literal["checkpoint", "restart"]


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


class Drawing(NamedTuple):
    rows: list[Row]
    """As many as the height asked for, each exactly as wide as asked for."""
    bounds: Bounds | None
    """Give them to the next call, so that the axes move as seldom as they can; None if there was nothing to draw."""


class Extents(NamedTuple):
    """Per pixel column, in axis units; NaN where there is no line."""

    low: FloatArray
    high: FloatArray


class Trace(NamedTuple):
    """One series reduced to pixel columns."""

    series: Series
    raw: Extents
    smooth: Extents | None


class Depth(IntEnum):
    """What gives way to what. A cell has one colour, so it shows only the dots of its foremost depth: a line stays thin over its
    own band."""

    BACKDROP = 1
    """References and marks."""
    GROUND = 2
    """Bands of raw values, and ghosts."""
    CURSOR = 3
    LINE = 4


class Layer(NamedTuple):
    depth: Depth
    dots: NDArray[np.bool_]
    style: Style


def draw(
    figure: Figure,
    view: View,
    width: int,
    height: int,
    palette: Palette,
    *,
    symbols: Symbols = BRAILLE,
    previous: Bounds | None = None,
) -> Drawing:
    """`figure` in `width` x `height` cells. `previous` are the bounds of the last drawing of this figure under this view's scale."""
    plot_width, plot_height = width - GUTTER, height - 2
    title = _title_row(figure, view, width, palette, symbols)
    data = figure.x_extent
    if plot_width < 4 or plot_height < 1:
        return Drawing([title, *_message_rows("", width, height - 1, palette)][:height], None)
    if data is None:
        return Drawing([title, *_message_rows("no data yet", width, height - 1, palette)], None)

    pixels = plot_width * symbols.dots_wide
    x_bounds = _x_bounds(data, view, pixels, previous)
    edges = np.linspace(*x_bounds, pixels + 1)
    traces = [_trace(series, edges, view) for series in figure.series]
    y_bounds = _y_bounds(figure, traces, view, x_bounds, previous)
    if y_bounds is None:
        message = "nothing above 0 for a log axis here" if view.log_y else "no values here"
        return Drawing([title, *_message_rows(message, width, height - 1, palette)], None)

    bounds = Bounds(x_bounds, y_bounds)
    shape = (plot_height * symbols.dots_high, pixels)
    ground = [
        *_mark_layers(figure, bounds, shape, palette),
        *_reference_layers(figure, view, bounds, shape, palette),
        *_band_layers(traces, bounds, shape, palette),
        *_cursor_layers(view, bounds, shape, palette),
    ]
    layers = [*ground, *_line_layers(traces, bounds, shape, palette)]
    glyphs, owners = _compose(layers, symbols, plot_height, plot_width)
    styles = [palette.muted, *(layer.style for layer in layers), palette.reference]
    _write_reference_labels(figure, view, bounds, layers, glyphs, owners)
    plot = [_segments(glyphs[row], owners[row], styles) for row in range(plot_height)]
    gutter = _gutter(figure, view, y_bounds, plot_height, palette, symbols)
    labels = Segment(_x_labels(figure, x_bounds, plot_width), palette.muted)
    return Drawing(
        [title, *([margin, *row] for margin, row in zip(gutter, plot, strict=True)), [labels]], bounds
    )


# Bounds


def _x_bounds(data: Span, view: View, pixels: int, previous: Bounds | None) -> Span:
    start, end = data
    if view.x_span is None:
        continues = previous is not None and previous.x[0] == start
        return start, axis.grown_end(start, end, previous.x[1] if previous and continues else None)
    if view.x_end is None:
        return axis.snapped_window(end, view.x_span, pixels)
    return view.x_end - view.x_span, view.x_end


def _y_bounds(
    figure: Figure, traces: Sequence[Trace], view: View, x_bounds: Span, previous: Bounds | None
) -> Span | None:
    wanted = _clipped_range(figure, x_bounds, log_y=view.log_y) if view.clip else _full_range(traces)
    if wanted is None:
        return None
    wanted = _stretched_to_references(wanted, figure, view)
    return axis.settled_range(wanted, previous.y if previous else None)


def _full_range(traces: Sequence[Trace]) -> Span | None:
    extents = [extents for trace in traces for extents in (trace.raw, trace.smooth) if extents is not None]
    values = np.concatenate([column for low_high in extents for column in low_high])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else None


def _clipped_range(figure: Figure, x_bounds: Span, *, log_y: bool) -> Span | None:
    """From the percentiles of the points in sight, not of the columns: one spike in every column is still a rare spike."""
    ranges = []
    for series in figure.series:
        first, last = np.searchsorted(series.x, x_bounds)
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
    heights = [_height(reference.y, log_y=view.log_y) for reference in figure.references]
    near = [height for height in heights if wanted[0] - reach <= height <= wanted[1] + reach]
    return min([low, *near]), max([high, *near])


def _height(y: float, *, log_y: bool) -> float:
    """A value in axis units; NaN where a log axis has no place for it."""
    if not log_y:
        return y
    return math.log10(y) if y > 0 else math.nan


# Layers, lowest first


def _trace(series: Series, edges: FloatArray, view: View) -> Trace:
    raw = Extents(*polyline_extents(series.x, series.y, edges, log_y=view.log_y))
    if series.smooth is None:
        return Trace(series, raw, None)
    return Trace(series, raw, Extents(*polyline_extents(series.x, series.smooth, edges, log_y=view.log_y)))


def _mark_layers(figure: Figure, bounds: Bounds, shape: tuple[int, int], palette: Palette) -> list[Layer]:
    layers = []
    styles = {"checkpoint": palette.checkpoint, "restart": palette.restart}
    for kind, style in styles.items():
        pixels = (_pixel(mark.x, bounds, shape[1]) for mark in figure.marks if mark.kind == kind)
        columns = sorted({pixel for pixel in pixels if pixel is not None})
        # Closer than every eighth pixel, marks would only be a grey ground.
        if columns and len(columns) <= max(shape[1] // 8, 1):
            dots = np.zeros(shape, dtype=bool)
            dots[:: MARK_SPACING[kind], columns] = True
            layers.append(Layer(Depth.BACKDROP, dots, style))
    return layers


def _reference_layers(
    figure: Figure, view: View, bounds: Bounds, shape: tuple[int, int], palette: Palette
) -> list[Layer]:
    layers = []
    for reference in figure.references:
        height = np.full(shape[1], _height(reference.y, log_y=view.log_y))
        dots = span_dots(height, height, *bounds.y, shape[0])
        dots[:, np.arange(shape[1]) % REFERENCE_DASH != 0] = False
        layers.append(Layer(Depth.BACKDROP, dots, palette.reference))
    return layers


def _band_layers(
    traces: Sequence[Trace], bounds: Bounds, shape: tuple[int, int], palette: Palette
) -> list[Layer]:
    """The raw values of smoothed series, and the lines of ghosts, which belong to the ground too."""
    layers = []
    for series, raw, smooth in reversed(traces):
        if series.is_ghost or smooth is not None:
            extents = smooth if series.is_ghost and smooth is not None else raw
            style = palette.bands[series.colour % len(palette.bands)]
            layers.append(Layer(Depth.GROUND, span_dots(*extents, *bounds.y, shape[0]), style))
    return layers


def _line_layers(
    traces: Sequence[Trace], bounds: Bounds, shape: tuple[int, int], palette: Palette
) -> list[Layer]:
    layers = []
    for series, raw, smooth in reversed(traces):
        if not series.is_ghost:
            style = palette.lines[series.colour % len(palette.lines)]
            layers.append(Layer(Depth.LINE, span_dots(*(smooth or raw), *bounds.y, shape[0]), style))
    return layers


def _cursor_layers(view: View, bounds: Bounds, shape: tuple[int, int], palette: Palette) -> list[Layer]:
    column = None if view.cursor is None else _pixel(view.cursor, bounds, shape[1])
    if column is None:
        return []
    dots = np.zeros(shape, dtype=bool)
    dots[:, column] = True
    return [Layer(Depth.CURSOR, dots, palette.cursor)]


def _pixel(x: float, bounds: Bounds, pixels: int) -> int | None:
    """The pixel column of `x`; None outside the window."""
    column = math.floor((x - bounds.x[0]) / bounds.x_span * pixels)
    return column if 0 <= column < pixels else None


# Cells


def _compose(
    layers: Sequence[Layer], symbols: Symbols, rows: int, columns: int
) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
    """(rows, columns) characters, and in each cell 1 + the index of the topmost layer there; 0 in a blank cell."""
    patterns = np.zeros((rows, columns), dtype=np.uint8)
    owners = np.zeros((rows, columns), dtype=np.intp)
    depths = np.zeros((rows, columns), dtype=np.uint8)
    for index, layer in enumerate(layers, 1):
        bits = symbols.cell_bits(layer.dots)
        is_lit = bits > 0
        patterns[is_lit & (depths < layer.depth)] = 0
        patterns |= bits
        depths[is_lit] = layer.depth
        owners[is_lit] = index
    return symbols.codepoints[patterns], owners


def _segments(glyphs: NDArray[np.uint32], owners: NDArray[np.intp], styles: Sequence[Style]) -> Row:
    """One row as runs of one style. A blank takes the style before it, so that gaps do not cut a line into many runs."""
    text = glyphs.tobytes().decode("utf-32-le" if glyphs.dtype.byteorder in "=<|" else "utf-32-be")
    inked = np.flatnonzero(owners)
    if not len(inked):
        return [Segment(text, styles[0])]
    inks = owners[inked]
    changes = np.flatnonzero(np.diff(inks)) + 1
    starts = [0, *inked[changes].tolist(), len(text)]
    runs = [int(inks[0]), *inks[changes].tolist()]
    return [
        Segment(text[start:stop], styles[run])
        for run, start, stop in zip(runs, starts, starts[1:], strict=False)
    ]


def _write_reference_labels(
    figure: Figure,
    view: View,
    bounds: Bounds,
    layers: Sequence[Layer],
    glyphs: NDArray[np.uint32],
    owners: NDArray[np.intp],
) -> None:
    """Put each reference's name on its line, at the right end or else the left, wherever it would cover no data."""
    rows, columns = glyphs.shape
    is_free = np.array([True, *(layer.depth == Depth.BACKDROP for layer in layers)])[owners]
    for reference in figure.references:
        row = _cell_row(_height(reference.y, log_y=view.log_y), bounds.y, rows)
        label = f" {reference.label} {axis.compact(reference.y * figure.factor)} "
        for start in (columns - len(label), 0):
            place = slice(start, start + len(label))
            if row is not None and start >= 0 and is_free[row, place].all():
                glyphs[row, place] = [ord(character) for character in label]
                owners[row, place] = len(layers) + 1
                break


# Text around the data


def _cell_row(height: float, y_bounds: Span, rows: int) -> int | None:
    """The row of cells in which a value lies; None outside the axis or for NaN."""
    bottom, top = y_bounds
    if not bottom <= height <= top:
        return None
    return min(int((top - height) / (top - bottom) * rows), rows - 1)


def _gutter(
    figure: Figure, view: View, y_bounds: Span, rows: int, palette: Palette, symbols: Symbols
) -> list[Segment]:
    """The y axis: a label of at most GUTTER - 1 cells and the axis itself, for each row of the plot."""
    labels = _y_labels(figure, view, y_bounds, rows)
    texts = (
        f"{labels[row][: GUTTER - 1]:>{GUTTER - 1}}{symbols.tick}"
        if row in labels
        else " " * (GUTTER - 1) + symbols.axis
        for row in range(rows)
    )
    return [Segment(text, palette.muted) for text in texts]


def _y_labels(figure: Figure, view: View, y_bounds: Span, rows: int) -> dict[int, str]:
    count = max(rows // ROWS_PER_TICK, 3)
    if view.log_y:
        ticks = axis.log_ticks(*y_bounds, count)
        labels = [axis.compact(tick * figure.factor) for tick in ticks]
    else:
        ticks = axis.linear_ticks(*y_bounds, count)
        labels = axis.tick_labels(ticks * figure.factor)
    placed: dict[int, str] = {}
    for tick, label in zip(ticks.tolist(), labels, strict=True):
        row = _cell_row(_height(tick, log_y=view.log_y), y_bounds, rows)
        if row is not None and row not in placed:
            placed[row] = label
    return placed


def _x_labels(figure: Figure, x_bounds: Span, plot_width: int) -> str:
    """The last row: each label centred under its column, and none that would touch the one before it."""
    count = max(plot_width // LABEL_SPACING, 2)
    if figure.x_axis == "seconds":
        ticks = axis.duration_ticks(*x_bounds, count)
        labels = [axis.duration(tick) for tick in ticks.tolist()]
    else:
        ticks = axis.linear_ticks(*x_bounds, count)
        labels = axis.tick_labels(ticks)
    row = ""
    for tick, label in zip(ticks.tolist(), labels, strict=True):
        column = GUTTER + int((tick - x_bounds[0]) / (x_bounds[1] - x_bounds[0]) * plot_width)
        start = min(column - len(label) // 2, GUTTER + plot_width - len(label))
        if not row or start > len(row):
            row = row.ljust(start) + label
    return row.ljust(GUTTER + plot_width)[: GUTTER + plot_width]


def _title_row(figure: Figure, view: View, width: int, palette: Palette, symbols: Symbols) -> Row:
    """Title, crosshair position, every series with its value, and at the right the flags that are set, as far as they fit."""
    pieces = [Segment(figure.title, palette.title)]
    if view.cursor is not None:
        pieces.append(Segment(f" {figure.x_axis} {_x_text(view.cursor, figure.x_axis)}", palette.cursor))
    for series in figure.series:
        if not series.is_ghost and len(series.x):
            value = axis.compact(_value_shown(series, view.cursor) * figure.factor)
            text = f" {symbols.swatch}{series.label} {value}" if series.label else f" {value}"
            pieces.append(Segment(text, palette.lines[series.colour % len(palette.lines)]))
    return _fitted(pieces, Segment(_flags(view), palette.muted), width, symbols.ellipsis)


def _fitted(pieces: Sequence[Segment], right: Segment, width: int, ellipsis: str) -> Row:
    """The pieces that fit, whole, then blanks, then `right` if there is still room; exactly `width` cells."""
    row: Row = []
    left = width
    for index, piece in enumerate(pieces):
        room = left if index == len(pieces) - 1 else left - len(ellipsis)
        if len(piece.text) > room:
            row.append(
                Segment((piece.text[: left - 1] if not row else "")[:left] + ellipsis[:left], piece.style)
            )
            left -= len(row[-1].text)
            break
        row.append(piece)
        left -= len(piece.text)
    tail = f" {right.text}" if right.text else ""
    row.append(Segment(tail.rjust(left) if len(tail) <= left else " " * left, right.style))
    return row


def _flags(view: View) -> str:
    named = {
        "log": view.log_y,
        "clip": view.clip,
        f"ema {view.smoothing:g}": view.smoothing > 0,
        "zoom": view.x_end is not None,
        "tail": view.x_span is not None and view.x_end is None,
    }
    return " ".join(name for name, is_set in named.items() if is_set)


def _value_shown(series: Series, cursor: float | None) -> float:
    """The value of the drawn line at the point nearest the crosshair, or the newest without one."""
    y = series.y if series.smooth is None else series.smooth
    if cursor is None:
        return float(y[-1])
    right = min(int(np.searchsorted(series.x, cursor)), len(series.x) - 1)
    left = max(right - 1, 0)
    return float(y[left if cursor - series.x[left] < series.x[right] - cursor else right])


def _x_text(x: float, x_axis: XAxis) -> str:
    return axis.duration(x) if x_axis == "seconds" else axis.compact(x)


def _message_rows(message: str, width: int, height: int, palette: Palette) -> list[Row]:
    """`message` in the middle of otherwise blank rows."""
    middle = height // 2
    texts = (message[:width].center(width) if row == middle else " " * width for row in range(height))
    return [[Segment(text, palette.muted)] for text in texts]
