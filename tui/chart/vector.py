"""A chart as an SVG, for a paper or a page: the scene of the terminal's chart, drawn with lines instead of dots.

Curves are reduced to a low and a high value a pixel column as on the screen, so a picture of a million steps stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from typing import NamedTuple

import numpy as np
from rich.style import Style

from tui.chart.figure import Figure
from tui.chart.marks import LOOKS, letter, letter_style, line_style
from tui.chart.palette import LIGHT, Palette
from tui.chart.scene import Extents, Scene, scene, to_axis, x_ticks, y_ticks
from tui.chart.symbols import BRAILLE
from tui.chart.view import View
from tui.store import FloatArray

LEFT, RIGHT, TOP, BOTTOM = 64, 16, 30, 42
"""Margins around the data, in pixels."""
CHARACTER_WIDTH, LINE_HEIGHT = 7.4, 13
PIXELS_PER_X_TICK, PIXELS_PER_Y_TICK = 110, 48
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
GROUND = "#ffffff"


class Frame(NamedTuple):
    """Where axis units fall on the picture."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    bottom: float
    """Pixels, where the data end."""


def svg(figure: Figure, view: View, width: int = 900, height: int = 420, palette: Palette = LIGHT) -> str:
    """`figure` as an SVG document of `width` x `height` pixels."""
    seen = scene(figure, view, width - LEFT - RIGHT)
    body = [_text(LEFT, 20, figure.title, _colour(palette.title), weight="bold")]
    if seen is None:
        body.append(_text(width / 2, height / 2, "no values here", _colour(palette.muted), anchor="middle"))
    else:
        body += _drawing(figure, view, seen, width, height, palette)
    lines = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="{FONT}" font-size="12">\n<rect width="100%" height="100%" fill="{GROUND}"/>\n{lines}\n</svg>\n'
    )


def _drawing(
    figure: Figure, view: View, seen: Scene, width: int, height: int, palette: Palette
) -> Iterator[str]:
    bounds = seen.bounds
    right, bottom = width - RIGHT, height - BOTTOM
    x_scale = (right - LEFT) / bounds.x_span
    y_scale = (bottom - TOP) / (bounds.y[1] - bounds.y[0])
    frame = Frame(
        lambda x: LEFT + (x - bounds.x[0]) * x_scale,
        lambda y: bottom - (y - bounds.y[0]) * y_scale,
        bottom,
    )
    muted = _colour(palette.muted)

    for tick in y_ticks(figure.factor, bounds.y, (bottom - TOP) // PIXELS_PER_Y_TICK, log_y=view.log_y):
        y = frame.y(tick.place)
        if TOP <= y <= bottom:
            yield _line(LEFT, y, right, y, "#e4e4e4")
            yield _text(LEFT - 8, y + 4, tick.label, muted, anchor="end")
    for tick in x_ticks(figure.x_axis, bounds.x, (right - LEFT) // PIXELS_PER_X_TICK, log_x=view.log_x):
        if LEFT <= (x := frame.x(tick.place)) <= right:
            yield _line(x, bottom, x, bottom + 5, muted)
            yield _text(x, bottom + 19, tick.label, muted, anchor="middle")
    yield _line(LEFT, bottom, right, bottom, muted)
    yield _text(right, height - 6, figure.x_axis, muted, anchor="end")

    yield f'<clipPath id="data"><rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"/></clipPath>'
    yield '<g clip-path="url(#data)" fill="none">'
    for reference in figure.references:
        y = frame.y(to_axis(reference.y, log=view.log_y))
        if TOP <= y <= bottom:
            yield _line(LEFT, y, right, y, _colour(palette.reference), dash="4 4")
            label = f"{reference.label} {reference.y * figure.factor:.4g}"
            yield _text(right - 4, y - 4, label, muted, anchor="end")
    if view.shows_marks:
        yield from _marks(figure, view, frame, palette)
    places = np.linspace(LEFT, right, width - LEFT - RIGHT + 1)
    middles = (places[:-1] + places[1:]) / 2
    for series, raw, smooth in reversed(seen.traces):
        line, band = (styles[series.colour % len(styles)] for styles in (palette.lines, palette.bands))
        if smooth is not None:
            yield from _bands(middles, raw, frame, _colour(band))
        colour = _colour(band if series.is_ghost else line)
        yield from _curves(middles, smooth or raw, frame, colour)
    yield "</g>"

    x = float(LEFT)
    shown = {mark.kind for mark in figure.marks} if view.shows_marks else set()
    for kind, look in LOOKS.items():
        if kind in shown:
            words = f"{letter(kind, BRAILLE)} {look.word}"
            yield _text(x, height - 6, words, _colour(letter_style(kind, palette)))
            x += CHARACTER_WIDTH * (len(words) + 2)
    x = float(right)
    for series in reversed(figure.series):
        if series.label and not series.is_ghost:
            yield _text(
                x, 20, series.label, _colour(palette.lines[series.colour % len(palette.lines)]), anchor="end"
            )
            x -= CHARACTER_WIDTH * (len(series.label) + 2)


def _marks(figure: Figure, view: View, frame: Frame, palette: Palette) -> Iterator[str]:
    """A letter at the top for each mark, those that fall together below each other, and a dotted line where its kind has one."""
    taken: dict[int, int] = {}
    for kind, look in LOOKS.items():
        places = [frame.x(to_axis(mark.x, log=view.log_x)) for mark in figure.marks if mark.kind == kind]
        for x in (place for place in places if np.isfinite(place)):
            rows = taken[round(x)] = taken.get(round(x), 0) + 1
            if look.spacing is not None:
                yield _line(x, TOP, x, frame.bottom, _colour(line_style(kind, palette)), dash="1 5")
            style = _colour(letter_style(kind, palette))
            yield _text(x, TOP + LINE_HEIGHT * rows - 2, letter(kind, BRAILLE), style, anchor="middle")


def _bands(x: FloatArray, extents: Extents, frame: Frame, colour: str) -> Iterator[str]:
    """The area between the least and the greatest raw value, a polygon for each stretch without a gap."""
    for start, stop in _stretches(extents):
        upper = [(x[i], frame.y(extents.high[i])) for i in range(start, stop)]
        lower = [(x[i], frame.y(extents.low[i])) for i in reversed(range(start, stop))]
        yield f'<polygon points="{_points(upper + lower)}" fill="{colour}" stroke="{colour}"/>'


def _curves(x: FloatArray, extents: Extents, frame: Frame, colour: str) -> Iterator[str]:
    """A line through every column's low and high, in the order that makes the shorter way."""
    for start, stop in _stretches(extents):
        points: list[tuple[float, float]] = []
        for i in range(start, stop):
            low, high = frame.y(extents.low[i]), frame.y(extents.high[i])
            near, far = (
                (low, high)
                if points and abs(points[-1][1] - low) < abs(points[-1][1] - high)
                else (high, low)
            )
            points += [(x[i], near)] if near == far else [(x[i], near), (x[i], far)]
        yield (
            f'<polyline points="{_points(points)}" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round" '
            f'stroke-linecap="round"/>'
        )


def _stretches(extents: Extents) -> list[tuple[int, int]]:
    """[start, stop) of the columns in which there is a line, without a gap in between."""
    is_drawn = np.concatenate([[False], np.isfinite(extents.low), [False]])
    ends = np.flatnonzero(np.diff(is_drawn.astype(np.int8))).tolist()
    return list(zip(ends[::2], ends[1::2], strict=True))


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "none") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-dasharray="{dash}"/>'


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}" '
        f'stroke="none">{escape(text)}</text>'
    )


def _colour(style: Style) -> str:
    return style.color.get_truecolor().hex if style.color else "#000000"
