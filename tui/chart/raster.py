"""A chart as a PNG: the shapes of tui/chart/vector.py, painted by Pillow, which the extra `png` brings.

Lines are painted at twice the size that is written and made smaller, which is what smooths them; letters are smooth by themselves.
Pillow's own font is taken, so that a picture looks the same on every machine. It has no diamonds and triangles: those are drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tui.chart.figure import Figure
from tui.chart.palette import LIGHT, Palette
from tui.chart.vector import (
    CURVE_WIDTH,
    FONT_SIZE,
    GROUND,
    HEIGHT,
    WIDTH,
    Area,
    Curve,
    Line,
    Point,
    Shape,
    Words,
    sheet,
)
from tui.chart.view import View

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

SCALE = 2
"""Pixels of the file a pixel of the sheet: sharp on screens of today, and in print."""
SMOOTHING = 2
"""Painted so much larger."""
DRAWN: dict[str, tuple[Point, ...]] = {
    "◆": ((0.0, -0.42), (0.36, 0.0), (0.0, 0.42), (-0.36, 0.0)),
    "▲": ((0.0, -0.42), (0.4, 0.32), (-0.4, 0.32)),
}
"""Corners about the middle of the letter, in sizes of the font."""
LETTER_MIDDLE = 0.36
"""Above the line that letters stand on, in sizes of the font."""
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(
    figure: Figure, view: View, width: int = WIDTH, height: int = HEIGHT, palette: Palette = LIGHT
) -> bytes:
    """`figure` as a PNG of twice `width` x `height` pixels. Raises ImportError without Pillow."""
    from PIL import Image

    drawn = sheet(figure, view, width, height, palette)
    large = Image.new("RGB", (width * SCALE * SMOOTHING, height * SCALE * SMOOTHING), GROUND)
    _paint(large, drawn.around)
    data = large.copy()
    _paint(data, drawn.data)
    left, top, right, bottom = (round(edge * SCALE * SMOOTHING) for edge in drawn.box)
    large.paste(data.crop((left, top, right, bottom)), (left, top))
    picture = large.resize((width * SCALE, height * SCALE), Image.Resampling.BOX)
    _write(picture, [*drawn.around, *drawn.data, *drawn.legend])
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _paint(image: Image, shapes: Iterable[Shape]) -> None:
    """Whatever is no words."""
    from PIL.ImageDraw import Draw

    draw, scale = Draw(image), SCALE * SMOOTHING
    for shape in shapes:
        match shape:
            case Line(start, end, colour, dash):
                for piece in _dashes(start, end, dash):
                    draw.line([_scaled(point, scale) for point in piece], colour, scale)
            case Area(points, colour):
                draw.polygon([_scaled(point, scale) for point in points], colour, colour, scale)
            case Curve(points, colour):
                thickness = round(CURVE_WIDTH * scale)
                draw.line([_scaled(point, scale) for point in points], colour, thickness, joint="curve")


def _dashes(start: Point, end: Point, dash: tuple[int, int] | None) -> Iterator[tuple[Point, Point]]:
    if dash is None:
        yield start, end
        return
    (x, y), length = start, math.dist(start, end)
    towards = (end[0] - x) / length, (end[1] - y) / length
    ink, gap = dash
    for at in range(0, math.ceil(length), ink + gap):
        stop = min(at + ink, length)
        yield (x + at * towards[0], y + at * towards[1]), (x + stop * towards[0], y + stop * towards[1])


def _write(image: Image, shapes: Iterable[Shape]) -> None:
    """The words."""
    from PIL.ImageDraw import Draw
    from PIL.ImageFont import load_default

    font, draw = load_default(FONT_SIZE * SCALE), Draw(image)
    for shape in shapes:
        if isinstance(shape, Words):
            _write_words(draw, shape, font)


def _write_words(draw: ImageDraw, words: Words, font: FreeTypeFont | ImageFont) -> None:
    x, y = _scaled(words.place, SCALE)
    text, size = words.text, FONT_SIZE * SCALE
    if (corners := DRAWN.get(text[:1])) is not None:
        middle = (x if words.anchor == "middle" else x + size / 2, y - LETTER_MIDDLE * size)
        draw.polygon([_beside(middle, corner, size) for corner in corners], words.colour)
        x, text = x + size * 1.3, text[1:].lstrip()
    if text:
        thickness = SCALE // 2 if words.is_bold else 0
        draw.text((x, y), text, words.colour, font, ANCHORS[words.anchor], stroke_width=thickness / 2)


def _scaled(point: Point, scale: int) -> Point:
    return point[0] * scale, point[1] * scale


def _beside(middle: Point, corner: Point, size: float) -> Point:
    return middle[0] + corner[0] * size, middle[1] + corner[1] * size
