"""The spec of the run in sight, and the diff of several, on real run folders with hostile words in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from textual.widgets import DataTable

from presets.loader import preset_tables
from tests.tui.conftest import WrittenRun
from tests.tui.test_cockpit import MIDDLE, SMALL, opened, shown, until
from trainer_daemon.contract.events import SettingChanged
from trainer_daemon.contract.rundir import create_run
from trainer_daemon.contract.spec import build_spec
from tui.app import Cockpit
from tui.screens.choose import Choose
from tui.screens.spec_diff import SpecDiff

if TYPE_CHECKING:
    from textual.pilot import Pilot
    from textual.screen import Screen

    from tests.tui.conftest import Runs

HOSTILE = ['notes="\\u001b[2J\\u202e[bold]日本語の長い長い長い長い長い文 שלום"', 'tag="muon"']


def write(runs: Runs, name: str, overrides: list[str]) -> WrittenRun:
    run, lock = create_run(name, build_spec(preset_tables("stories"), overrides))
    runs.written.append(WrittenRun(run, lock, 100))
    runs.written[-1].begin()
    runs.written[-1].train(1, 5)
    return runs.written[-1]


def on_screen(screen: Screen[Any]) -> str:
    return "\n".join(strip.text for strip in screen._compositor.render_strips())


def row_of(screen: Screen[Any], key: str) -> str:
    """The row on screen whose first word is this key."""
    return next((row for row in on_screen(screen).splitlines() if row.split()[:1] == [key]), "")


def keys(pilot: Pilot[None]) -> list[str]:
    table = pilot.app.screen.query_one("#sheet-table", DataTable)
    return [str(row.key.value) for row in table.ordered_rows]


def cursor_key(pilot: Pilot[None]) -> str:
    return keys(pilot)[pilot.app.screen.query_one("#sheet-table", DataTable).cursor_row]


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_the_spec_marks_what_differs_from_preset_and_other_run_and_what_was_changed(
    runs: Runs, size: tuple[int, int]
) -> None:
    write(runs, "owl", ["model.depth=6"])
    fox = write(runs, "fox", ["optim.matrix_lr=0.5", *HOSTILE])
    async with Cockpit(fox.run).run_test(size=size) as pilot:
        screen = await opened(pilot)
        await pilot.press("7")
        await until(pilot, lambda: shown(screen) == "spec" and "3 not as in stories" in on_screen(screen))
        assert row_of(screen, "tag").split() == ["tag", "muon", '""']
        await pilot.press("d")
        await until(pilot, lambda: len(keys(pilot)) == 5)
        await until(pilot, lambda: row_of(screen, "matrix_lr").split() == ["matrix_lr", "0.5", "0.16"])
        assert keys(pilot) == ["§run", "tag", "notes", "§optim", "optim.matrix_lr"]
        table = screen.query_one("#sheet-table", DataTable)
        assert cursor_key(pilot) == "tag", "not on the heading of a section, which is about nothing"
        fox.tell("train", SettingChanged(4, "eval.every", 20, 25))
        await until(
            pilot, lambda: screen.state.notes[-1].text == "eval.every is 20 from step 5 on, it was 25"
        )
        await until(
            pilot, lambda: "25 → 20 from 5" in row_of(screen, "every") or "25 → 2" in row_of(screen, "every")
        )
        await pilot.press("v")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        await pilot.press("enter")
        await until(pilot, lambda: row_of(screen, "depth").split() == ["depth", "4", "6"])
        await pilot.press("x")
        await until(pilot, lambda: "model.depth" not in keys(pilot))
        await pilot.press("escape", "slash", *"muon's momentum betw")
        await until(pilot, lambda: keys(pilot) == ["§optim", "optim.muon_momentum"])
        await pilot.press("escape", "escape")
        await until(pilot, lambda: len(keys(pilot)) > 60)
        assert shown(screen) == "spec"
        table = screen.query_one("#sheet-table", DataTable)
        table.move_cursor(row=table.get_row_index("notes"))
        await until(pilot, lambda: "What the run is for" in on_screen(screen))
        text = on_screen(screen)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]" in text, "markup is text"


async def test_the_cursor_stands_on_keys_and_passes_over_headings(runs: Runs) -> None:
    fox = write(runs, "fox", [])
    async with Cockpit(fox.run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press("7")
        await until(pilot, lambda: len(keys(pilot)) > 60)
        every = keys(pilot)
        last_of_top = every[every.index("§model") - 1]
        first = cursor_key(pilot)
        assert first == every[1]
        for key, where in (("k", first), ("G", every[-1]), ("g", first), ("end", every[-1]), ("home", first)):
            await pilot.press(key)
            assert cursor_key(pilot) == where, key
        await until(pilot, lambda: row_of(screen, "run"))  # the first heading, too, is in sight again
        await pilot.press(*["j"] * (every.index(last_of_top) - 1))
        assert cursor_key(pilot) == last_of_top
        await pilot.press("down")
        assert cursor_key(pilot) == every[every.index("§model") + 1]
        await pilot.press("up")
        assert cursor_key(pilot) == last_of_top
        for page in ("pagedown", "pageup"):
            for _ in range(12):
                await pilot.press(page)
                assert not cursor_key(pilot).startswith("§"), page


async def test_where_there_is_little_height_the_rows_have_it_and_not_what_they_mean(runs: Runs) -> None:
    fox = write(runs, "fox", [])
    async with Cockpit(fox.run).run_test(size=(60, 15)) as pilot:
        screen = await opened(pilot)
        await pilot.press("7")
        await until(pilot, lambda: row_of(screen, "seed"))
        assert "What the run is for" not in on_screen(screen)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "decides nothing" in on_screen(screen))


async def test_d_in_the_list_of_runs_shows_in_what_the_marked_ones_differ(runs: Runs) -> None:
    write(runs, "ant", HOSTILE)
    write(runs, "owl", ["model.depth=6"])
    fox = write(runs, "fox", [])
    async with Cockpit(fox.run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press("5")
        await until(pilot, lambda: "3 runs" in on_screen(screen))
        await pilot.press("d")
        await until(pilot, lambda: bool(pilot.app._notifications))
        assert pilot.app.screen is screen, "a run has no difference from itself"
        await pilot.press("down", "d")
        await until(pilot, lambda: isinstance(pilot.app.screen, SpecDiff))
        await until(pilot, lambda: row_of(pilot.app.screen, "depth").split() == ["depth", "4", "6"])
        assert "fox · owl" in on_screen(pilot.app.screen)
        await pilot.press("escape", "space", "space")
        await until(pilot, lambda: "2 marked" in on_screen(screen))
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, SpecDiff))
        await until(pilot, lambda: "owl · ant   3 values differ" in on_screen(pilot.app.screen))
        assert keys(pilot) == ["§run", "tag", "notes", "§model", "model.depth"]
        assert "\x1b" not in on_screen(pilot.app.screen)
        await pilot.press("d")
        await until(pilot, lambda: pilot.app.screen is screen)
