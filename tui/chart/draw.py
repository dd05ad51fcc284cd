"""A chart as rows of styled text: (figure, view, size) in, segments out. It serves the cockpit's widget, which compares rows to
repaint only the changed ones, and a plain print to a terminal or a file. What is drawn depends on nothing else; who draws the same
chart ten times a second hands in a `Memory`, and what did not change is not made again.

    points -> extents per pixel column -> dots per layer -> cells owned by one layer -> runs of one style

One title row with the live legend, one row of x labels, and all the rest is data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style

from tui.chart import axis
from tui.chart.axis import Span
from tui.chart.columns import Reductions
from tui.chart.figure import Figure, Mark, MarkKind, Series
from tui.chart.marks import LOOKS, letter, letter_style, line_style
from tui.chart.palette import Palette
from tui.chart.scene import Trace, from_axis, scene, to_axis, x_text, x_ticks, y_ticks
from tui.chart.symbols import BRAILLE, Symbols, span_dots
from tui.chart.view import Bounds, View
from tui.store import XAxis
from tui.wording import UNKNOWN

Row = list[Segment]

GUTTER = 8
"""Cells left of the data, the same for every chart, so that charts in a column line up."""
LABEL_SPACING = 12
"""Cells an x label has to itself."""
ROWS_PER_TICK = 3
REFERENCE_DASH = 3
CELLS_PER_MARK = 3
"""Of one kind there are at most as many letters as every third cell would hold; more would only be a frieze."""


class Drawing(NamedTuple):
    rows: list[Row]
    """As many as the height asked for, each exactly as wide as asked for."""
    bounds: Bounds | None
    """Give them to the next call, so that the axes move as seldom as they can; None if there was nothing to draw."""


class _Cells(NamedTuple):
    """A plot, and the rows that were made of it."""

    glyphs: NDArray[np.uint32]
    owners: NDArray[np.intp]
    styles: Sequence[Style]
    rows: list[Row]


class Memory:
    """What the last drawing of a chart came to."""

    def __init__(self) -> None:
        self.reductions = Reductions()
        self.cells: _Cells | None = None


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
    memory: Memory | None = None,
) -> Drawing:
    """`figure` in `width` x `height` cells. `previous` are the bounds of the last drawing of this figure under this view's scale."""
    memory = memory or Memory()
    plot_width, plot_height = width - GUTTER, height - 2
    title = _title_row(figure, view, width, palette, symbols)
    if plot_width < 4 or plot_height < 1:
        return Drawing([title, *_message_rows("", width, height - 1, palette)][:height], None)
    pixels = plot_width * symbols.dots_wide
    seen = scene(figure, view, pixels, previous, memory.reductions)
    if seen is None:
        message = _why_empty(figure, view)
        return Drawing([title, *_message_rows(message, width, height - 1, palette)], None)

    bounds, traces = seen.bounds, seen.traces
    shape = (plot_height * symbols.dots_high, pixels)
    ground = [
        *_mark_layers(figure, view, bounds, shape, palette),
        *_reference_layers(figure, view, bounds, shape, palette),
        *_band_layers(traces, bounds, shape, palette),
        *_cursor_layers(view, bounds, shape, palette),
    ]
    layers = [*ground, *_line_layers(traces, bounds, shape, palette)]
    glyphs, owners = _compose(layers, symbols, plot_height, plot_width)
    styles = [palette.muted, *(layer.style for layer in layers), palette.reference]
    _write_reference_labels(figure, view, bounds, layers, glyphs, owners)
    if view.shows_marks and figure.marks:
        styles += _write_marks(figure, view, bounds, layers, glyphs, owners, palette, symbols)
    plot = _plot_rows(glyphs, owners, styles, memory.cells)
    memory.cells = _Cells(glyphs, owners, styles, plot)
    gutter = _gutter(figure.factor, bounds.y, plot_height, palette.muted, symbols, log_y=view.log_y)
    labels = Segment(_x_labels(figure.x_axis, bounds.x, plot_width, log_x=view.log_x), palette.muted)
    return Drawing(
        [title, *([margin, *row] for margin, row in zip(gutter, plot, strict=True)), [labels]], bounds
    )


# Layers, lowest first


def _mark_layers(
    figure: Figure, view: View, bounds: Bounds, shape: tuple[int, int], palette: Palette
) -> list[Layer]:
    layers = []
    for kind, marks in _by_kind(figure.marks).items() if view.shows_marks else ():
        look = LOOKS[kind]
        if look.spacing is None:
            continue
        pixels = _pixels_of([mark for mark in marks if mark.y is None], view, bounds, shape[1])
        columns = sorted({pixel for pixel in pixels if pixel is not None})
        # Closer than every eighth pixel, marks would only be a grey ground.
        if columns and len(columns) <= max(shape[1] // 8, 1):
            dots = np.zeros(shape, dtype=bool)
            dots[:: look.spacing, columns] = True
            layers.append(Layer(Depth.BACKDROP, dots, line_style(kind, palette)))
    return layers


def _reference_layers(
    figure: Figure, view: View, bounds: Bounds, shape: tuple[int, int], palette: Palette
) -> list[Layer]:
    layers = []
    for reference in figure.references:
        height = np.full(shape[1], to_axis(reference.y, log=view.log_y))
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
    layers = []
    for place, spacing in ((view.anchor, 2), (view.cursor, 1)):
        column = None if place is None else _pixel(place, bounds, shape[1])
        if column is not None:
            dots = np.zeros(shape, dtype=bool)
            dots[::spacing, column] = True
            layers.append(Layer(Depth.CURSOR, dots, palette.cursor))
    return layers


def _by_kind(marks: Sequence[Mark]) -> dict[MarkKind, list[Mark]]:
    """The marks of each kind that there is, in the order of `LOOKS`."""
    every: dict[MarkKind, list[Mark]] = {kind: [] for kind in LOOKS}
    for mark in marks:
        every[mark.kind].append(mark)
    return {kind: of_kind for kind, of_kind in every.items() if of_kind}


def _pixels_of(marks: Sequence[Mark], view: View, bounds: Bounds, pixels: int) -> list[int | None]:
    """The pixel column of each; None outside the window."""
    x = np.array([mark.x for mark in marks], dtype=np.float64)
    places = np.log10(np.where(x > 0, x, np.nan)) if view.log_x else x
    columns = np.floor((places - bounds.x[0]) / bounds.x_span * pixels)
    columns[places == bounds.x[1]] = pixels - 1
    return [int(column) if 0 <= column < pixels else None for column in columns.tolist()]


def _pixel(x: float, bounds: Bounds, pixels: int) -> int | None:
    """The pixel column of `x`; None outside the window, or for NaN."""
    if math.isnan(x):
        return None
    column = math.floor((x - bounds.x[0]) / bounds.x_span * pixels)
    if x == bounds.x[1]:
        return pixels - 1
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


def _plot_rows(
    glyphs: NDArray[np.uint32], owners: NDArray[np.intp], styles: Sequence[Style], known: _Cells | None
) -> list[Row]:
    """Each row as segments; the ones that are as they are `known` to have been are the same objects."""
    if known is None or known.glyphs.shape != glyphs.shape or known.styles != styles:
        is_same = np.zeros(len(glyphs), dtype=bool)
    else:
        is_same = ((glyphs == known.glyphs) & (owners == known.owners)).all(axis=1)
    return [
        known.rows[row] if known is not None and same else _segments(glyphs[row], owners[row], styles)
        for row, same in enumerate(is_same.tolist())
    ]


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
        row = _cell_row(to_axis(reference.y, log=view.log_y), bounds.y, rows)
        label = f" {reference.label} {axis.compact(reference.y * figure.factor)} "
        for start in (columns - len(label), 0):
            place = slice(start, start + len(label))
            if row is not None and start >= 0 and is_free[row, place].all():
                glyphs[row, place] = [ord(character) for character in label]
                owners[row, place] = len(layers) + 1
                break


def _write_marks(
    figure: Figure,
    view: View,
    bounds: Bounds,
    layers: Sequence[Layer],
    glyphs: NDArray[np.uint32],
    owners: NDArray[np.intp],
    palette: Palette,
    symbols: Symbols,
) -> list[Style]:
    """Put the letter of each mark where it lies on its curve, or in the topmost cell of its column without data. Gives the styles
    that the cells' owners then number on from: one a kind, and the one of what is chosen."""
    rows, columns = glyphs.shape
    first = len(layers) + 2
    is_free = np.array([True, *(layer.depth == Depth.BACKDROP for layer in layers), False])[owners]
    for kind, marks in _by_kind(figure.marks).items():
        place = tuple(LOOKS).index(kind)
        at_column: dict[int, Mark] = {}
        for column, mark in zip(_pixels_of(marks, view, bounds, columns), marks, strict=True):
            if column is not None and not (column in at_column and at_column[column].is_chosen):
                at_column[column] = mark
        if len(at_column) > max(columns // CELLS_PER_MARK, 1):
            at_column = {column: mark for column, mark in at_column.items() if mark.is_chosen}
        for column, mark in at_column.items():
            if mark.y is not None:
                row = _cell_row(to_axis(mark.y, log=view.log_y), bounds.y, rows)
            else:
                row = int(is_free[:, column].argmax()) if is_free[:, column].any() else None
            if row is not None:
                is_free[row, column] = False
                glyphs[row, column] = ord(letter(kind, symbols))
                owners[row, column] = first + (len(LOOKS) if mark.is_chosen else place)
                if (
                    mark.is_chosen
                ):  # it is reversed, which shows on the blanks beside it too: they belong to another style
                    beside = owners[row, max(column - 1, 0) : column + 2]
                    beside[beside == 0] = first
    return [*(letter_style(kind, palette) for kind in LOOKS), palette.title + Style(reverse=True)]


# Text around the data


def _cell_row(height: float, y_bounds: Span, rows: int) -> int | None:
    """The row of cells in which a value lies; None outside the axis or for NaN."""
    bottom, top = y_bounds
    if not bottom <= height <= top:
        return None
    return min(int((top - height) / (top - bottom) * rows), rows - 1)


@lru_cache(maxsize=64)
def _gutter(
    factor: float, y_bounds: Span, rows: int, style: Style, symbols: Symbols, *, log_y: bool
) -> tuple[Segment, ...]:
    """The y axis: a label of at most GUTTER - 1 cells and the axis itself, for each row of the plot."""
    labels = _y_labels(factor, y_bounds, rows, log_y=log_y)
    texts = (
        f"{labels[row][: GUTTER - 1]:>{GUTTER - 1}}{symbols.tick}"
        if row in labels
        else " " * (GUTTER - 1) + symbols.axis
        for row in range(rows)
    )
    return tuple(Segment(text, style) for text in texts)


def _y_labels(factor: float, y_bounds: Span, rows: int, *, log_y: bool) -> dict[int, str]:
    placed: dict[int, str] = {}
    for tick in y_ticks(factor, y_bounds, max(rows // ROWS_PER_TICK, 3), log_y=log_y):
        row = _cell_row(tick.place, y_bounds, rows)
        if row is not None and row not in placed:
            placed[row] = tick.label
    return placed


@lru_cache(maxsize=64)
def _x_labels(x_axis: XAxis, x_bounds: Span, plot_width: int, *, log_x: bool) -> str:
    """The last row: each label centred under its column, and none that would touch the one before it."""
    row = ""
    for tick in x_ticks(x_axis, x_bounds, max(plot_width // LABEL_SPACING, 2), log_x=log_x):
        column = GUTTER + int((tick.place - x_bounds[0]) / (x_bounds[1] - x_bounds[0]) * plot_width)
        start = min(column - len(tick.label) // 2, GUTTER + plot_width - len(tick.label))
        if not row or start > len(row):
            row = row.ljust(start) + tick.label
    return row.ljust(GUTTER + plot_width)[: GUTTER + plot_width]


def _title_row(figure: Figure, view: View, width: int, palette: Palette, symbols: Symbols) -> Row:
    """Title, crosshair position, every series with its value, and at the right the flags that are set, as far as they fit."""
    title, legend = Segment(figure.title, palette.title), []
    cursor, anchor = (
        None if place is None else from_axis(place, log=view.log_x) for place in (view.cursor, view.anchor)
    )
    for series in figure.series:
        if not series.is_ghost and len(series.x):
            value = _value_words(series, cursor, anchor, figure.factor)
            text = f" {symbols.swatch}{series.label} {value}" if series.label else f" {value}"
            legend.append(Segment(text, palette.lines[series.colour % len(palette.lines)]))
    pieces = [title, *legend]
    if cursor is not None:
        x = f" {x_text(cursor, figure.x_axis)}"
        if anchor is not None:
            x += f" Δ {x_text(cursor - anchor, figure.x_axis)}"
        named = f" {figure.x_axis}{x}"
        has_room = sum(len(piece.text) for piece in pieces) + len(named) <= width
        pieces.insert(
            1, Segment(named if has_room else x, palette.cursor)
        )  # the values say more than its name
    return _fitted(pieces, Segment(_flags(figure, view), palette.muted), width, symbols.ellipsis)


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


def _flags(figure: Figure, view: View) -> str:
    """In words, what is not plain about what is drawn; not all figures have a curve to smooth."""
    is_smoothed = view.smoothing > 0 and any(series.smooth is not None for series in figure.series)
    named = {
        "log x": view.log_x,
        "log": view.log_y,
        "clip": view.clip,
        f"ema {view.smoothing:g}": is_smoothed,
        "zoom": view.x_end is not None or view.y is not None,
        "tail": view.x_span is not None and view.x_end is None,
    }
    return " ".join(name for name, is_set in named.items() if is_set)


def _value_words(series: Series, cursor: float | None, anchor: float | None, factor: float) -> str:
    """What the legend reads off a series, and the difference from the anchor; a dash where it has no points."""
    value = _value_shown(series, cursor)
    if value is None:
        return UNKNOWN
    words = axis.compact(value * factor)
    if cursor is not None and anchor is not None and (before := _value_shown(series, anchor)) is not None:
        words += f" Δ {axis.compact((value - before) * factor)}"
    return words


def _value_shown(series: Series, cursor: float | None) -> float | None:
    """The value of the drawn line at the point nearest the crosshair, or the newest without one; None further beyond the ends of
    the series than its last points are from each other, where there is nothing to read."""
    y = series.y if series.smooth is None else series.smooth
    if cursor is None:
        return float(y[-1])
    reach = float(series.x[-1] - series.x[-2]) if len(series.x) > 1 else 0.0
    if not series.x[0] - reach <= cursor <= series.x[-1] + reach:
        return None
    right = min(int(np.searchsorted(series.x, cursor)), len(series.x) - 1)
    left = max(right - 1, 0)
    return float(y[left if cursor - series.x[left] < series.x[right] - cursor else right])


def _why_empty(figure: Figure, view: View) -> str:
    if figure.x_extent is None:
        return "no data yet"
    return "nothing above 0 for a log axis here" if view.log_x or view.log_y else "no values here"


def _message_rows(message: str, width: int, height: int, palette: Palette) -> list[Row]:
    """`message` in the middle of otherwise blank rows."""
    middle = height // 2
    texts = (message[:width].center(width) if row == middle else " " * width for row in range(height))
    return [[Segment(text, palette.muted)] for text in texts]
