"""What makes it feel at home in a terminal: copying, jumping, help where one is, all commands in the palette, its own cost."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import pytest
from textual.binding import Binding
from textual.dom import DOMNode

from tests.tui.test_cockpit import opened, shown, until, words
from tui.app import UNLISTED, Cockpit
from tui.clipboard import MOST_BASE64, MOST_BYTES, fitting, osc52
from tui.panes.charts import ChartGrid
from tui.panes.checkpoints import CheckpointsPane
from tui.panes.views import PANES
from tui.screens.cockpit import CockpitScreen
from tui.screens.help import Help
from tui.screens.jump import Jump
from tui.widgets.prompt import PromptInput
from tui.widgets.table import Table

if TYPE_CHECKING:
    from tests.tui.conftest import Runs


def clipboard_of(sequence: str) -> str:
    found = re.match("\x1b\\]52;c;([A-Za-z0-9+/=]*)\x07", sequence)
    assert found is not None
    return base64.b64decode(found[1]).decode()


def test_a_copy_reaches_the_terminal_behind_tmux() -> None:
    assert clipboard_of(osc52("a — b", in_tmux=False)) == "a — b"
    plain, _, wrapped = osc52("a", in_tmux=True).partition("\x1bPtmux;")
    assert clipboard_of(plain) == "a"
    assert wrapped.endswith("\x1b\\")
    assert clipboard_of(wrapped.removesuffix("\x1b\\").replace("\x1b\x1b", "\x1b")) == "a"


def test_a_copy_is_cut_where_terminals_would_drop_it_and_never_inside_a_character() -> None:
    assert fitting("short") == "short"
    cut = fitting("€" * MOST_BYTES)
    assert set(cut) == {"€"}
    assert MOST_BYTES - 3 < len(cut.encode()) <= MOST_BYTES
    assert len(base64.b64encode(cut.encode())) <= MOST_BASE64


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("1", "fox, step 40\n\nloss"),
        ("2", "Once upon a time"),
        ("3", "llmctl sample fox@40"),
        ("4", "llmctl attach fox"),
    ],
)
async def test_each_view_copies_what_one_would_take_along(runs: Runs, key: str, part: str) -> None:
    run = runs.completed("fox", 40)
    async with Cockpit(run).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press(key)
        await until(pilot, lambda: shown(screen) == PANES[int(key) - 1])
        pane = screen.pane
        await until(pilot, lambda: not isinstance(pane, CheckpointsPane) or pane.query_one(Table).row_count)
        await pilot.press("Y")
        await until(pilot, lambda: part in pilot.app.clipboard)


async def test_what_is_said_covers_neither_the_line_one_types_in_nor_the_keys(runs: Runs) -> None:
    """For ten seconds one did not see what one typed."""
    run = runs.completed("fox", 40)
    async with Cockpit(run, is_read_only=True).run_test(size=(70, 20), notifications=True) as pilot:
        screen = await opened(pilot)
        await pilot.press("P", "slash", *"Once")
        await until(pilot, lambda: "it only looks" in words(screen))
        await until(pilot, lambda: "› Once" in words(screen).splitlines()[-2])
        last = words(screen).splitlines()[-1]
        assert "esc to the keys" in last, "what is said leaves the keys of the prompt in sight"


async def test_a_letter_gives_the_keys_to_whatever_it_stands_on(runs: Runs) -> None:
    run = runs.completed("fox", 40)
    async with Cockpit(run).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press("semicolon")
        await until(pilot, lambda: isinstance(pilot.app.screen, Jump))
        jump = pilot.app.screen
        assert isinstance(jump, Jump)
        targets = jump.targets
        assert set(screen.query_one(ChartGrid).shown) < set(targets.values())
        prompt = screen.query_one(PromptInput)
        letter = next(letter for letter, widget in targets.items() if widget is prompt)
        label = jump.query("Letter")[list(targets).index(letter)]
        await until(pilot, lambda: label.region.offset == prompt.region.offset)
        await pilot.press(letter)
        await until(pilot, lambda: pilot.app.screen is screen and screen.focused is prompt)
        await pilot.press("escape", "semicolon")
        await until(pilot, lambda: isinstance(pilot.app.screen, Jump))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)


async def test_help_begins_with_what_has_the_keys(runs: Runs) -> None:
    run = runs.completed("fox", 40)
    async with Cockpit(run).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        for key, heading in (("1", "On a chart"), ("3", "On a checkpoint"), ("4", "In the log")):
            await pilot.press(key)
            await until(pilot, lambda key=key: shown(screen) == PANES[int(key) - 1] and screen.focused)  # type: ignore[misc]
            await pilot.press("question_mark")
            await until(pilot, lambda: isinstance(pilot.app.screen, Help))
            help_screen = pilot.app.screen
            assert isinstance(help_screen, Help)
            assert help_screen._sections[0][0] == heading
            await pilot.press("escape")
            await until(pilot, lambda: pilot.app.screen is screen)


def bindings_of(node: type[DOMNode]) -> dict[str, Binding]:
    return {b.id: b for b in node.BINDINGS if isinstance(b, Binding) and b.tooltip and b.id}


async def test_the_palette_has_every_command_of_the_view_in_sight(runs: Runs) -> None:
    run = runs.completed("fox", 40)
    async with Cockpit(run).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        for name in PANES:
            await pilot.press(str(PANES.index(name) + 1))
            await until(pilot, lambda name=name: shown(screen) == name and screen.pane.is_on_screen)  # type: ignore[misc]
            offered = {command.help for command in pilot.app.get_system_commands(screen)}
            nodes: set[type[DOMNode]] = {CockpitScreen, Cockpit}
            nodes |= {type(widget) for widget in screen.query("*") if widget.is_on_screen}
            wanted = {b.tooltip for node in nodes for i, b in bindings_of(node).items() if i not in UNLISTED}
            assert wanted <= offered, name


async def test_a_command_of_the_palette_does_what_its_key_does(runs: Runs) -> None:
    run = runs.completed("fox", 40)
    async with Cockpit(run).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        chart = screen.query_one(ChartGrid).charts[0]
        offered = {command.title: command.callback for command in pilot.app.get_system_commands(screen)}
        await offered["Log y"]()
        await until(pilot, lambda: chart.view.log_y)


async def test_the_meter_says_what_the_cockpit_costs(runs: Runs) -> None:
    run = runs.completed("fox", 40)
    async with Cockpit(run).run_test(size=(120, 40)) as pilot:
        screen: CockpitScreen = await opened(pilot)
        await pilot.press("D")
        figures = re.compile(r"[\d,]+ B/s  [\d.]+ frames/s  CPU [\d.]+ %  \d+ MB  differ on")
        await until(pilot, lambda: figures.search(words(screen)))
        await pilot.press("ctrl+d")
        await until(pilot, lambda: "differ off" in words(screen))
        await pilot.press("D")
        await until(pilot, lambda: "frames/s" not in words(screen))
