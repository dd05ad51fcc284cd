"""Each theme can be read: by contrast as WCAG measures it, and on terminals that have sixteen colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rich.color import Color, ColorSystem, ColorType
from rich.console import Console
from rich.style import Style
from textual.app import App
from textual.theme import Theme

from tests.tui.test_cockpit import opened, shown, until
from tui.app import Cockpit
from tui.chart.palette import CONTRAST, DARK, IN_256, LIGHT, Palette
from tui.ink import THEMES, palette_of
from tui.panes.views import PANES
from tui.settings import Settings

if TYPE_CHECKING:
    from tests.tui.conftest import Runs

PALETTES = {"llmctl-dark": DARK, "llmctl-light": LIGHT, "llmctl-contrast": CONTRAST}


def cockpit(runs: Runs, theme: str) -> Cockpit:
    """On a terminal that could show every colour."""
    app = Cockpit(runs.completed("fox", 40), settings=Settings(theme=theme))
    app.console = Console(color_system="truecolor", force_terminal=True)
    return app


def luminance(colour: str) -> float:
    """Relative, as WCAG 2.2 defines it."""
    shares = [part / 255 for part in Color.parse(colour).get_truecolor()]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def inks(palette: Palette) -> list[str]:
    styles = (*palette.lines, palette.title, palette.muted, palette.cursor, palette.reference)
    return [style.color.name for style in styles if style.color is not None]


def test_contrast_is_measured_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_what_is_written_and_drawn_stands_out_from_its_ground(theme: Theme) -> None:
    least = 7 if theme.name == "llmctl-contrast" else 4.5
    named = (theme.foreground, theme.error, theme.success, theme.primary, theme.warning)
    colours = inks(PALETTES[theme.name]) + [colour for colour in named if colour]
    weak = {
        (colour, ground): round(contrast(colour, ground), 2)
        for colour in colours
        for ground in filter(None, (theme.background, theme.surface))
        if contrast(colour, ground) < least
    }
    assert not weak


@pytest.mark.parametrize("theme", sorted(PALETTES))
async def test_a_theme_draws_with_its_own_palette(runs: Runs, theme: str) -> None:
    async with cockpit(runs, theme).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        assert palette_of(screen.app) is PALETTES[theme]


@pytest.mark.parametrize("theme", ["ansi-dark", "ansi-light"])
async def test_with_sixteen_colours_nothing_asks_for_more(runs: Runs, theme: str) -> None:
    async with cockpit(runs, theme).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        for key, name in enumerate(PANES, 1):
            await pilot.press(str(key))
            await until(pilot, lambda name=name: shown(screen) == name and screen.is_settled)  # type: ignore[misc]
            styles = {segment.style for strip in screen._compositor.render_strips() for segment in strip} - {
                None
            }
            wrong = {
                colour.name
                for style in styles
                if isinstance(style, Style)
                for colour in (style.color, style.bgcolor)
                if colour is not None and colour.type not in (ColorType.STANDARD, ColorType.DEFAULT)
            }
            assert not wrong, (name, wrong)


@pytest.mark.parametrize(
    ("system", "chosen", "theme"),
    [
        ("standard", None, "ansi-dark"),  # a band and its line would be one colour otherwise
        ("standard", "llmctl-light", "llmctl-light"),
        ("256", None, "llmctl-dark"),
        ("truecolor", None, "llmctl-dark"),
    ],
)
def test_a_terminal_of_sixteen_colours_gets_the_theme_for_it_unless_another_is_chosen(
    monkeypatch: pytest.MonkeyPatch, system: str, chosen: str | None, theme: str
) -> None:
    monkeypatch.setattr("textual.constants.COLOR_SYSTEM", system)
    assert Cockpit(None, settings=Settings(theme=chosen)).theme == theme


@pytest.mark.parametrize("theme", sorted(PALETTES))
def test_with_256_colours_every_line_and_every_band_is_still_another(
    monkeypatch: pytest.MonkeyPatch, theme: str
) -> None:
    monkeypatch.setattr("textual.constants.COLOR_SYSTEM", "256")
    app: App[Any] = Cockpit(None, settings=Settings(theme=theme))
    palette = palette_of(app)
    assert palette is IN_256[PALETTES[theme]]
    colours = [style.color for style in (*palette.lines, *palette.bands)]
    shown = [colour.downgrade(ColorSystem.EIGHT_BIT).number for colour in colours if colour is not None]
    assert len(set(shown)) == len(palette.lines) + len(palette.bands)
