"""Colours that colour-blind readers can tell apart: the Okabe-Ito set, lightened where the ground is dark. A band is its line's colour,
faded towards the ground. Terminals with 16 colours get the bright and the plain variant instead of a blend. A line's colour
is also that of words, so each stands out from its ground by 4.5 to 1, in CONTRAST by 7 to 1, as WCAG asks of text."""

from dataclasses import dataclass, replace

from rich.color import Color, blend_rgb
from rich.style import Style

FADE = 0.62
"""How far a band's colour lies from its line's towards the ground."""


@dataclass(frozen=True)
class Palette:
    lines: tuple[Style, ...]
    """By `Series.colour`, round and round."""
    bands: tuple[Style, ...]
    """The faded partner of each line."""
    title: Style
    muted: Style
    """Axes, labels, flags."""
    cursor: Style
    reference: Style
    checkpoint: Style
    restart: Style


def _blended(
    lines: str, *, ground: str, title: str, muted: str, reference: str, checkpoint: str, restart: str
) -> Palette:
    def faded(colour: str) -> Style:
        triplets = Color.parse(colour).get_truecolor(), Color.parse(ground).get_truecolor()
        return Style(color=Color.from_triplet(blend_rgb(*triplets, FADE)))

    return Palette(
        lines=tuple(Style(color=colour) for colour in lines.split()),
        bands=tuple(faded(colour) for colour in lines.split()),
        title=Style(color=title, bold=True),
        muted=Style(color=muted),
        cursor=Style(color=title),
        reference=Style(color=reference),
        checkpoint=Style(color=checkpoint),
        restart=Style(color=restart),
    )


DARK = _blended(
    "#56b4e9 #e69f00 #2bc79b #cc79a7 #f0e442 #e8703a #8f9bff #c8c8c8",
    ground="#121212",
    title="#eeeeee",
    muted="#8a8a8a",
    reference="#a0a0a0",
    checkpoint="#3d5a4c",
    restart="#b0563a",
)
LIGHT = _blended(
    "#0068a3 #8f5d00 #007552 #9c4a7a #716900 #b04600 #4a55c8 #505050",
    ground="#f4f4f4",
    title="#1a1a1a",
    muted="#5f5f5f",
    reference="#666666",
    checkpoint="#a3c4b4",
    restart="#d08a70",
)
CONTRAST = _blended(
    "#7cc8ff #ffb733 #3fe0b0 #ff9ad0 #fff04d #ff9a6b #b0b8ff #ffffff",
    ground="#000000",
    title="#ffffff",
    muted="#d0d0d0",
    reference="#d0d0d0",
    checkpoint="#3fe0b0",
    restart="#ff9a6b",
)


def _in_256(palette: Palette, bands: str) -> Palette:
    return replace(palette, bands=tuple(Style(color=colour) for colour in bands.split()))


_DARK_BANDS_IN_256 = "#005f87 #875f00 #005f00 #875f87 #5f5f00 #870000 #5f5f87 #585858"
IN_256 = {
    DARK: _in_256(DARK, _DARK_BANDS_IN_256),
    LIGHT: _in_256(LIGHT, "#87afd7 #d7af87 #87d7af #d7afd7 #afaf87 #ffaf87 #afafd7 #b2b2b2"),
    CONTRAST: _in_256(CONTRAST, _DARK_BANDS_IN_256),
}
"""What a palette becomes where there are 256 colours, as over ssh, which does not pass COLORTERM on: of the faded bands four would be
the same dark yellow there and two the same teal. These are colours that such a terminal has."""
_ANSI_NAMES = ("cyan", "yellow", "green", "magenta", "blue", "red")
ANSI = Palette(
    lines=tuple(Style(color=f"bright_{name}") for name in _ANSI_NAMES),
    bands=tuple(Style(color=name) for name in _ANSI_NAMES),
    title=Style(bold=True),
    muted=Style(color="bright_black"),
    cursor=Style(color="white"),
    reference=Style(color="white"),
    checkpoint=Style(color="bright_black"),
    restart=Style(color="red"),
)
