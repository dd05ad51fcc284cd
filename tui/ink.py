"""The cockpit's colours and their meaning. Text and charts share one palette, so a figure and its curve match."""

from rich.style import Style
from textual.app import App
from textual.theme import Theme

from tui.chart.palette import ANSI, CONTRAST, DARK, IN_256, LIGHT, Palette

SKY, ORANGE, GREEN, PINK, YELLOW, VERMILION = range(6)
"""Places in `Palette.lines`; ANSI has the same hues in the same places as far as it can."""

GLYPH_OF_STATE = {
    "starting": "◌",
    "running": "●",
    "evaluating": "●",
    "saving": "●",
    "paused": "‖",
    "stopping": "■",
    "completed": "✓",
    "stopped": "■",
    "failed": "✗",
    "crashed": "✗",
}
HUE_OF_STATE = {
    "starting": SKY,
    "running": GREEN,
    "evaluating": SKY,
    "saving": SKY,
    "paused": ORANGE,
    "stopping": ORANGE,
    "completed": GREEN,
    "stopped": ORANGE,
    "failed": VERMILION,
    "crashed": VERMILION,
}
HUE_OF_LEVEL = {"info": None, "good": GREEN, "warning": ORANGE, "error": VERMILION}

THEMES = (
    Theme(
        "llmctl-dark",
        primary="#56b4e9",
        secondary="#2bc79b",
        accent="#56b4e9",
        warning="#e69f00",
        error="#e8703a",
        success="#2bc79b",
        foreground="#d8d8d8",
        background="#121212",
        surface="#1a1b1c",
        panel="#212325",
        dark=True,
        variables={
            "input-selection-background": "#56b4e9 30%",
            "block-cursor-background": "#24384a",
            "scrollbar": "#3a3d40",
            "scrollbar-hover": "#56b4e9",
            "scrollbar-active": "#56b4e9",
            "scrollbar-background": "#121212",
            "scrollbar-background-hover": "#121212",
            "scrollbar-background-active": "#121212",
        },
    ),
    Theme(
        "llmctl-light",
        primary="#0068a3",
        secondary="#007552",
        accent="#0068a3",
        warning="#8f5d00",
        error="#b04600",
        success="#007552",
        foreground="#2a2a2a",
        background="#f4f4f4",
        surface="#ebebeb",
        panel="#e2e2e2",
        dark=False,
        variables={
            "block-cursor-background": "#cfe2f0",
            "scrollbar": "#c0c0c0",
            "scrollbar-background": "#f4f4f4",
            "scrollbar-background-hover": "#f4f4f4",
            "scrollbar-background-active": "#f4f4f4",
        },
    ),
    Theme(
        "llmctl-contrast",
        primary="#7cc8ff",
        secondary="#3fe0b0",
        accent="#7cc8ff",
        warning="#ffb733",
        error="#ff9a6b",
        success="#3fe0b0",
        foreground="#ffffff",
        background="#000000",
        surface="#101010",
        panel="#1c1c1c",
        dark=True,
        variables={
            "text-muted": "#d0d0d0",
            "block-cursor-background": "#004a80",
            "scrollbar": "#d0d0d0",
            "scrollbar-background": "#000000",
            "scrollbar-background-hover": "#000000",
            "scrollbar-background-active": "#000000",
        },
    ),
)


def palette_of(app: App[object]) -> Palette:
    """The palette that the terminal and the theme allow."""
    if app.native_ansi_color or app.console.color_system in {None, "standard"}:
        return ANSI
    palette = DARK if app.current_theme.dark else LIGHT
    if app.theme == "llmctl-contrast":
        palette = CONTRAST
    return IN_256[palette] if app.console.color_system == "256" else palette


def hue(palette: Palette, place: int | None) -> Style:
    """A colour of the palette; no colour for None."""
    return Style.null() if place is None else palette.lines[place % len(palette.lines)]


def trough(palette: Palette) -> Style:
    """The open part of a bar."""
    return Style(color=_TROUGHS.get(palette.title, "bright_black"))


_TROUGHS = {DARK.title: "#3a3d40", LIGHT.title: "#c8c8c8", CONTRAST.title: "#707070"}
"""By the ink of titles, which is each theme's own whatever colours the terminal has."""
