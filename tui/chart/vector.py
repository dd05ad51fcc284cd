"""A chart as a picture of a file, for a paper or a page: the scene of the terminal's chart, drawn with lines instead of dots.

`sheet` lays it out as a few kinds of shapes, which `svg` writes as they are; `tui/chart/raster.py` paints the same ones.
Curves are reduced to a low and a high value a pixel column as on the screen, so a picture of a million steps stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from rich.style import Style

from tui.chart.figure import Figure
from tui.chart.marks import LOOKS, letter, letter_style, line_style
from tui.chart.palette import LIGHT, Palette
from tui.chart.scene import Extents, Scene, scene, to_axis, x_ticks, y_ticks
from tui.chart.symbols import BRAILLE
from tui.chart.view import View
from tui.store import FloatArray

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 30, 42
"""Margins around the data, in pixels."""
CHARACTER_WIDTH, LINE_HEIGHT, FONT_SIZE = 7.4, 13, 12
PIXELS_PER_X_TICK, PIXELS_PER_Y_TICK = 110, 48
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
GROUND, GRID = "#ffffff", "#e4e4e4"
CURVE_WIDTH = 1.6

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]


class Line(NamedTuple):
    start: Point
    end: Point
    colour: str
    dash: tuple[int, int] | None = None
    """Pixels of ink, then of none."""


class Words(NamedTuple):
    place: Point
    """Of the anchor, on the line that letters stand on."""
    text: str
    colour: str
    anchor: Anchor = "start"
    is_bold: bool = False


class Area(NamedTuple):
    points: list[Point]
    colour: str


class Curve(NamedTuple):
    points: list[Point]
    colour: str


Shape: TypeAlias = Line | Words | Area | Curve


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Sheet:
    """All that is drawn, the lowest first."""

    width: int
    height: int
    around: list[Shape]
    """Axes and title."""
    data: list[Shape]
    """Nothing of it is seen outside `box`."""
    box: Box
    legend: list[Shape]


class Frame(NamedTuple):
    """Where axis units fall on the picture."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    box: Box
    """Pixels, within which the data lie."""


def sheet(
    figure: Figure, view: View, width: int = WIDTH, height: int = HEIGHT, palette: Palette = LIGHT
) -> Sheet:
    """`figure` laid out on `width` x `height` pixels."""
    seen = scene(figure, view, width - LEFT - RIGHT)
    box = Box(LEFT, TOP, width - RIGHT, height - BOTTOM)
    title = Words((LEFT, 20), figure.title, _colour(palette.title), is_bold=True)
    if seen is None:
        nothing = Words((width / 2, height / 2), "no values here", _colour(palette.muted), "middle")
        return Sheet(width, height, [title, nothing], [], box, [])
    bounds = seen.bounds
    x_scale = (box.right - LEFT) / bounds.x_span
    y_scale = (box.bottom - TOP) / (bounds.y[1] - bounds.y[0])
    frame = Frame(
        lambda x: LEFT + (x - bounds.x[0]) * x_scale, lambda y: box.bottom - (y - bounds.y[0]) * y_scale, box
    )
    return Sheet(
        width,
        height,
        [title, *_axes(figure, view, seen, frame, _colour(palette.muted), height)],
        list(_data(figure, view, seen, frame, palette)),
        box,
        list(_legend(figure, view, box, palette, height)),
    )


def svg(
    figure: Figure, view: View, width: int = WIDTH, height: int = HEIGHT, palette: Palette = LIGHT
) -> str:
    """`figure` as an SVG document of `width` x `height` pixels."""
    drawn = sheet(figure, view, width, height, palette)
    box = drawn.box
    lines = "\n".join(
        [
            *map(_element, drawn.around),
            (
                f'<clipPath id="data"><rect x="{box.left}" y="{box.top}" width="{box.right - box.left}" '
                f'height="{box.bottom - box.top}"/></clipPath>'
            ),
            '<g clip-path="url(#data)" fill="none">',
            *map(_element, drawn.data),
            "</g>",
            *map(_element, drawn.legend),
        ]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="{FONT}" font-size="{FONT_SIZE}">\n<rect width="100%" height="100%" fill="{GROUND}"/>\n{lines}\n</svg>\n'
    )


def _axes(figure: Figure, view: View, seen: Scene, frame: Frame, muted: str, height: int) -> Iterator[Shape]:
    left, top, right, bottom = frame.box
    y_count = int((bottom - top) // PIXELS_PER_Y_TICK)
    for tick in y_ticks(figure.factor, seen.bounds.y, y_count, log_y=view.log_y):
        y = frame.y(tick.place)
        if top <= y <= bottom:
            yield Line((left, y), (right, y), GRID)
            yield Words((left - 8, y + 4), tick.label, muted, "end")
    x_count = int((right - left) // PIXELS_PER_X_TICK)
    for tick in x_ticks(figure.x_axis, seen.bounds.x, x_count, log_x=view.log_x):
        if left <= (x := frame.x(tick.place)) <= right:
            yield Line((x, bottom), (x, bottom + 5), muted)
            yield Words((x, bottom + 19), tick.label, muted, "middle")
    yield Line((left, bottom), (right, bottom), muted)
    yield Words((right, height - 6), figure.x_axis, muted, "end")


def _data(figure: Figure, view: View, seen: Scene, frame: Frame, palette: Palette) -> Iterator[Shape]:
    left, top, right, bottom = frame.box
    for reference in figure.references:
        y = frame.y(to_axis(reference.y, log=view.log_y))
        if top <= y <= bottom:
            yield Line((left, y), (right, y), _colour(palette.reference), (4, 4))
            label = f"{reference.label} {reference.y * figure.factor:.4g}"
            yield Words((right - 4, y - 4), label, _colour(palette.muted), "end")
    if view.shows_marks:
        yield from _marks(figure, view, frame, palette)
    places = np.linspace(left, right, int(right - left) + 1)
    middles = (places[:-1] + places[1:]) / 2
    for series, raw, smooth in reversed(seen.traces):
        line, band = (styles[series.colour % len(styles)] for styles in (palette.lines, palette.bands))
        if smooth is not None:
            yield from _bands(middles, raw, frame, _colour(band))
        colour = _colour(band if series.is_ghost else line)
        yield from _curves(middles, smooth or raw, frame, colour)


def _legend(figure: Figure, view: View, box: Box, palette: Palette, height: int) -> Iterator[Shape]:
    x = box.left
    shown = {mark.kind for mark in figure.marks} if view.shows_marks else set()
    for kind, look in LOOKS.items():
        if kind in shown:
            words = f"{letter(kind, BRAILLE)} {look.word}"
            yield Words((x, height - 6), words, _colour(letter_style(kind, palette)))
            x += CHARACTER_WIDTH * (len(words) + 2)
    x = box.right
    for series in reversed(figure.series):
        if series.label and not series.is_ghost:
            colour = _colour(palette.lines[series.colour % len(palette.lines)])
            yield Words((x, 20), series.label, colour, "end")
            x -= CHARACTER_WIDTH * (len(series.label) + 2)


def _marks(figure: Figure, view: View, frame: Frame, palette: Palette) -> Iterator[Shape]:
    """A letter at the top for each mark, those that fall together below each other, and a dotted line where its kind has one."""
    top, bottom = frame.box.top, frame.box.bottom
    taken: dict[int, int] = {}
    for kind, look in LOOKS.items():
        places = [frame.x(to_axis(mark.x, log=view.log_x)) for mark in figure.marks if mark.kind == kind]
        for x in (place for place in places if np.isfinite(place)):
            rows = taken[round(x)] = taken.get(round(x), 0) + 1
            if look.spacing is not None:
                yield Line((x, top), (x, bottom), _colour(line_style(kind, palette)), (1, 5))
            style = _colour(letter_style(kind, palette))
            yield Words((x, top + LINE_HEIGHT * rows - 2), letter(kind, BRAILLE), style, "middle")


def _bands(x: FloatArray, extents: Extents, frame: Frame, colour: str) -> Iterator[Shape]:
    """The area between the least and the greatest raw value, a polygon for each stretch without a gap."""
    for start, stop in _stretches(extents):
        upper = [(float(x[i]), frame.y(extents.high[i])) for i in range(start, stop)]
        lower = [(float(x[i]), frame.y(extents.low[i])) for i in reversed(range(start, stop))]
        yield Area(upper + lower, colour)


def _curves(x: FloatArray, extents: Extents, frame: Frame, colour: str) -> Iterator[Shape]:
    """A line through every column's low and high, in the order that makes the shorter way."""
    for start, stop in _stretches(extents):
        points: list[Point] = []
        for i in range(start, stop):
            low, high = frame.y(extents.low[i]), frame.y(extents.high[i])
            near, far = (
                (low, high)
                if points and abs(points[-1][1] - low) < abs(points[-1][1] - high)
                else (high, low)
            )
            at = float(x[i])
            points += [(at, near)] if near == far else [(at, near), (at, far)]
        yield Curve(points, colour)


def _stretches(extents: Extents) -> list[tuple[int, int]]:
    """[start, stop) of the columns in which there is a line, without a gap in between."""
    is_drawn = np.concatenate([[False], np.isfinite(extents.low), [False]])
    ends = np.flatnonzero(np.diff(is_drawn.astype(np.int8))).tolist()
    return list(zip(ends[::2], ends[1::2], strict=True))


def _element(shape: Shape) -> str:
    match shape:
        case Line((x1, y1), (x2, y2), colour, dash):
            dashes = " ".join(map(str, dash)) if dash else "none"
            return (
                f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
                f'stroke-dasharray="{dashes}"/>'
            )
        case Words((x, y), text, colour, anchor, is_bold):
            weight = "bold" if is_bold else "normal"
            return (
                f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}" '
                f'stroke="none">{escape(text)}</text>'
            )
        case Area(points, colour):
            return f'<polygon points="{_spelled(points)}" fill="{colour}" stroke="{colour}"/>'
        case Curve(points, colour):
            return (
                f'<polyline points="{_spelled(points)}" stroke="{colour}" stroke-width="{CURVE_WIDTH}" '
                f'stroke-linejoin="round" stroke-linecap="round"/>'
            )


def _spelled(points: Iterable[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _colour(style: Style) -> str:
    return style.color.get_truecolor().hex if style.color else "#000000"
