"""Keys that are quicker than what they are meant for: they wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from textual import events
from textual.widgets import DataTable

from tests.tui.test_alerts_pane import troubled
from tests.tui.test_cockpit import MIDDLE, opened, until
from tui.app import Cockpit
from tui.screens.cockpit import CockpitScreen

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from tests.tui.conftest import Runs


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine under load may take longer to read than a reader waits."""
    monkeypatch.setattr("tui.screens.cockpit.FILL_SECONDS", 60.0)


def typed_at_once(pilot: Pilot[None], keys: str) -> None:
    """As a quick hand, or a paste, has them arrive: all are there before the first is done."""
    for key in keys:
        pilot.app.post_message(events.Key(key, key))


async def test_what_follows_the_key_of_a_view_acts_in_that_view(runs: Runs) -> None:
    written = troubled(runs)
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        typed_at_once(pilot, "8A")
        await until(
            pilot, lambda: all(screen._acknowledged.is_seen(screen.state, a) for a in screen.state.alarms)
        )


async def test_keys_wait_for_rows_that_are_read_behind_them(runs: Runs) -> None:
    for name in ("ant", "bee", "cow"):
        runs.completed(name, 20)
    async with Cockpit(runs.completed("fox", 20)).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        typed_at_once(pilot, "5jj7jjj")
        await until(pilot, lambda: screen.views.current == "spec")
        assert screen.query_one("#runs-table", DataTable).cursor_row == 2
        await until(pilot, lambda: screen.query_one("#sheet-table", DataTable).cursor_row == 4)


async def test_what_is_typed_before_the_first_frame_is_done_after_it(runs: Runs) -> None:
    written = troubled(runs)
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        typed_at_once(pilot, "8Ay")
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
        screen = await opened(pilot)
        await until(pilot, lambda: screen.views.current == "alerts")
        await until(
            pilot, lambda: all(screen._acknowledged.is_seen(screen.state, a) for a in screen.state.alarms)
        )


async def test_q_leaves_before_there_is_anything_to_see(runs: Runs) -> None:
    app = Cockpit(troubled(runs).run)
    async with app.run_test(size=MIDDLE) as pilot:
        typed_at_once(pilot, "q")
        await until(pilot, lambda: app._exit)
