"""The list of runs: picked, sorted, marked, pinned, laid over each other, with keys pressed on real run folders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input

from tests.tui.test_cockpit import MIDDLE, SMALL, opened, shown, until, words
from trainer_daemon.contract.rundir import bytes_of_its_own, delete_run, find_run
from tui.app import Cockpit
from tui.run_view import RunView, load_view, store_view, view_file
from tui.screens.cockpit import CockpitScreen
from tui.screens.type_in import TypeIn
from tui.wording import size as in_words

if TYPE_CHECKING:
    from tests.tui.conftest import Runs


def listed(screen: CockpitScreen) -> list[str]:
    """The names in the table, from top to bottom."""
    return [str(row.key.value) for row in screen.query_one("#runs-table", DataTable).ordered_rows]


async def list_of_runs(pilot: Pilot[None], count: int) -> CockpitScreen:
    """The cockpit without a run, once the list is read."""
    await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
    screen = pilot.app.screen
    assert isinstance(screen, CockpitScreen)
    await until(pilot, lambda: f"{count} runs" in words(screen) and len(listed(screen)) == count)
    return screen


def write_three(runs: Runs) -> None:
    """ant has 30 steps, cat 10, and cow, the newest, 20; cat runs still."""
    runs.completed("ant", 30)
    cat = runs.create("cat", 10)
    cat.begin()
    cat.train(1, 10)
    runs.completed("cow", 20)


async def test_a_query_picks_while_it_is_typed_and_its_error_stands_below_where_it_is(runs: Runs) -> None:
    write_three(runs)
    async with Cockpit(None).run_test(size=SMALL) as pilot:
        screen = await list_of_runs(pilot, 3)
        assert "3 runs" in words(screen)
        await pilot.press("slash", *"c st")
        await until(pilot, lambda: listed(screen) == [])
        assert "no run is like that" in words(screen)
        await pilot.press(*"ate:live")
        await until(pilot, lambda: listed(screen) == ["cat"])
        assert "1 of 3" in words(screen)
        await pilot.press(*" vla<1")
        await until(pilot, lambda: "did you mean" in words(screen))
        rows = words(screen).splitlines()
        at = next(y for y, row in enumerate(rows) if "vla<1" in row)
        assert rows[at + 1].index("^") == rows[at].index("vla<1")
        assert listed(screen) == ["cat"], "the other terms hold"
        await pilot.press("escape", "escape")
        await until(pilot, lambda: listed(screen) == ["cow", "cat", "ant"])
        assert screen.query_one("#runs-query", Input).value == ""
        assert shown(screen) == "runs"


async def test_sorting_goes_round_the_columns_and_the_cursor_stays_on_its_run(runs: Runs) -> None:
    write_three(runs)
    async with Cockpit(None).run_test(size=MIDDLE) as pilot:
        screen = await list_of_runs(pilot, 3)
        await pilot.press("down", "down")
        await pilot.press("s")
        await until(pilot, lambda: listed(screen) == ["ant", "cat", "cow"])
        assert "run ↑" in words(screen)
        table = screen.query_one("#runs-table", DataTable)
        await until(pilot, lambda: table.cursor_row == 0)
        await pilot.press("s", "s")
        await until(pilot, lambda: listed(screen) == ["ant", "cow", "cat"])
        assert "step ↓" in words(screen)
        await pilot.press("S")
        await until(pilot, lambda: listed(screen) == ["cat", "cow", "ant"] and table.cursor_row == 2)
    assert load_view() == RunView((), "step", falling=False)


async def test_pins_stand_on_top_and_outlive_the_cockpit(runs: Runs) -> None:
    write_three(runs)
    async with Cockpit(None).run_test(size=MIDDLE) as pilot:
        screen = await list_of_runs(pilot, 3)
        await pilot.press("down", "down", "p")
        await until(pilot, lambda: listed(screen) == ["ant", "cow", "cat"])
        assert "◆ant" in words(screen)
    async with Cockpit(None).run_test(size=MIDDLE) as pilot:
        screen = await list_of_runs(pilot, 3)
        assert listed(screen)[0] == "ant"
        await pilot.press("p")
        await until(pilot, lambda: listed(screen) == ["cow", "cat", "ant"])
    assert load_view().pinned == ()


async def test_all_marked_runs_are_laid_over_the_open_one_and_taken_out_together(runs: Runs) -> None:
    write_three(runs)
    open_run = runs.completed("fox", 40)
    async with Cockpit(open_run).run_test(size=MIDDLE) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
        screen = pilot.app.screen
        assert isinstance(screen, CockpitScreen)
        await pilot.press("5")
        await until(pilot, lambda: len(listed(screen)) == 4)
        await pilot.press("space", "space", "space")
        await until(pilot, lambda: "3 marked" in words(screen))
        await pilot.press("o")
        await until(pilot, lambda: screen.overlay.names == ["cow", "cat"])
        await until(pilot, lambda: "▌ cow ━" in words(screen) and "▌ cat ━" in words(screen))
        await pilot.press("o")
        await until(pilot, lambda: screen.overlay.names == [])
        await pilot.press("escape")
        await until(pilot, lambda: "marked" not in words(screen))
        assert shown(screen) == "runs"
        await pilot.press("escape")
        await until(pilot, lambda: shown(screen) == "charts")


async def test_a_run_that_cannot_be_read_stands_in_the_list_and_disturbs_nothing(runs: Runs) -> None:
    write_three(runs)
    broken = runs.completed("ill", 5)
    broken.spec_file.write_text('{"preset": "\x1b[2J[red]"')
    async with Cockpit(None).run_test(size=SMALL) as pilot:
        screen = await list_of_runs(pilot, 4)
        await pilot.press("space", "p", "o", "s")
        await until(pilot, lambda: "ill" in listed(screen))
        assert "\x1b" not in words(screen)
        await pilot.press("slash", *"ill", "enter")
        await until(pilot, lambda: listed(screen) == ["ill"])


@pytest.mark.parametrize(
    "stored", ["", "[]", '{"pinned": 3, "sort": "", "falling": false}', '{"pinned": ["a"]}']
)
def test_a_stored_view_that_is_not_ours_is_passed_over(runs: Runs, stored: str) -> None:
    store_view(RunView(("fox",), "step", falling=True))
    assert load_view() == RunView(("fox",), "step", falling=True)
    view_file().write_text(stored)
    assert load_view() == RunView()
    view_file().write_text(json.dumps({"pinned": ["a", 3], "sort": "nowhere", "falling": True}))
    assert load_view() == RunView(("a",), "nowhere", falling=True)


@pytest.mark.slow
async def test_runs_are_deleted_by_typing_which_and_one_that_is_open_is_closed(runs: Runs) -> None:
    write_three(runs)
    ill = runs.completed("ill", 5)
    ill.spec_file.write_text("{")
    size = bytes_of_its_own(ill)
    async with Cockpit(find_run("cow")).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press("5")
        await until(pilot, lambda: listed(screen) == ["ill", "cow", "cat", "ant"])
        await pilot.press("down", "down", "X")
        await until(pilot, lambda: any("llmctl stop cat" in n.message for n in pilot.app._notifications))
        assert pilot.app.screen is screen, "cat is still going"

        await pilot.press("up", "up", "X")
        await until(pilot, lambda: isinstance(pilot.app.screen, TypeIn))
        question = "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())
        assert "Delete ill?" in question
        assert in_words(size) in question
        await pilot.press(*"cow", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, TypeIn) and ill.path.exists())
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)

        await pilot.press("space", "space")  # ill and cow, which is open
        await until(pilot, lambda: "2 marked" in words(screen))
        await pilot.press("X")
        await until(pilot, lambda: isinstance(pilot.app.screen, TypeIn))
        await pilot.press(*"2 runs", "enter")
        await until(pilot, lambda: listed(screen) == ["cat", "ant"] and screen.run_folder is None)
        await until(
            pilot, lambda: any("ill and cow are deleted" in n.message for n in pilot.app._notifications)
        )
        await pilot.press("1", "4", "7", "8", "5", "g", "enter")
        await until(pilot, lambda: screen.state.status.name == "cat" and screen.is_caught_up)


async def test_a_run_that_somebody_else_deletes_is_closed_and_that_is_said(runs: Runs) -> None:
    write_three(runs)
    open_run = find_run("cow")
    async with Cockpit(open_run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        screen.overlay.toggle(find_run("ant"))
        await until(pilot, lambda: screen.overlay.is_caught_up)
        for name in ("ant", "cow"):
            delete_run(find_run(name))
        await until(pilot, lambda: shown(screen) == "runs" and listed(screen) == ["cat"])
        assert screen.run_folder is None
        assert any("cow was deleted" in n.message for n in pilot.app._notifications)
        await until(pilot, lambda: screen.overlay.names == [])
