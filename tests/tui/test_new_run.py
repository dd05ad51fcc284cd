"""A run put together, planned and started in the cockpit, with keys pressed and real commands behind them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.screen import Screen

from tests.supervisor.conftest import kill_and_wait
from tests.tui.test_cockpit import MIDDLE, SMALL, shown, until
from trainer_daemon.contract.rundir import RunDir, all_runs, runs_folder
from trainer_daemon.contract.status import observe
from trainer_daemon.supervisor.sweep import kill_run_processes
from tui.app import Cockpit
from tui.screens.choose import Choose
from tui.screens.cockpit import CockpitScreen
from tui.screens.confirm import Confirm
from tui.screens.new_run import FieldInput, FormTable, NewRun

if TYPE_CHECKING:
    from tests.tui.conftest import Runs


@pytest.fixture
def started(runs: Runs) -> Iterator[None]:
    """Ends the runs that a test started and could not see to their end."""
    yield
    for run in all_runs():
        if run.supervisor_is_alive() and (pid := observe(run).pid) is not None:
            kill_and_wait(pid)
        kill_run_processes(run)


def on_screen(screen: Screen[Any]) -> str:
    return "\n".join(strip.text for strip in screen._compositor.render_strips())


async def form(pilot: Pilot[None]) -> NewRun:
    """The form of a new run, opened with its key from the list of runs."""
    await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
    await pilot.press("n")
    await until(
        pilot, lambda: isinstance(pilot.app.screen, NewRun) and bool(pilot.app.screen.query(FormTable))
    )
    screen = pilot.app.screen
    assert isinstance(screen, NewRun)
    await until(pilot, lambda: "sequence_len" in on_screen(screen))
    return screen


async def go_to(pilot: Pilot[None], screen: NewRun, key: str) -> None:
    table = screen.query_one(FormTable)
    table.move_cursor(row=table.get_row_index(key))
    await until(pilot, lambda: table.key_under_cursor == key)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_the_form_checks_what_is_typed_and_plans_it_beside(runs: Runs, size: tuple[int, int]) -> None:
    async with Cockpit(None).run_test(size=size) as pilot:
        screen = await form(pilot)
        await until(pilot, lambda: "1.835M" in on_screen(screen), seconds=120)
        await go_to(pilot, screen, "model.depth")
        await until(pilot, lambda: "whole number from 1 to 128" in on_screen(screen))
        await pilot.press("0")
        await until(pilot, lambda: "greater than or equal to 1 (got 0)" in on_screen(screen))
        await pilot.press("enter")
        assert isinstance(screen.focused, FieldInput), "what is wrong is not taken"
        await pilot.press("backspace", "6", "enter")
        await until(pilot, lambda: screen.draft.typed == {"model.depth": "6"})
        await until(pilot, lambda: isinstance(screen.focused, FormTable))
        await until(
            pilot,
            lambda: "4.621M" in on_screen(screen) and "asking anew" not in on_screen(screen),
            seconds=120,
        )
        assert screen.plan is not None
        assert screen.plan.value["model"]["n_layer"] == 6
        await go_to(pilot, screen, "runtime.device")
        await pilot.press("right")
        await until(pilot, lambda: screen.draft.typed.get("runtime.device") == "cpu")
        await pilot.press("backspace")
        await until(pilot, lambda: screen.draft.typed == {"model.depth": "6"})
        await pilot.press("slash", *"normuon")
        await until(
            pilot, lambda: "muon_beta2" in on_screen(screen) and "sequence_len" not in on_screen(screen)
        )
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(screen.focused, FormTable))
        await pilot.press("escape")
        await until(pilot, lambda: "sequence_len" in on_screen(screen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("n")
        await until(pilot, lambda: pilot.app.screen is screen)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
    assert not list(runs_folder().glob("*"))


async def test_why_a_run_would_not_start_here_stands_beside_the_form_and_below_it_after_enter(
    runs: Runs,
) -> None:
    hostile = "no such \x1b[2J日本\u202e"
    async with Cockpit(None).run_test(size=MIDDLE) as pilot:
        screen = await form(pilot)
        screen._change(screen.draft.with_typed("data.source", hostile))
        await until(pilot, lambda: "no such" in on_screen(screen).split("what it takes")[-1], seconds=120)
        await pilot.press("enter")
        await until(pilot, lambda: "no such" in screen._error, seconds=120)
        text = on_screen(screen)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert isinstance(pilot.app.screen, NewRun), "the form is still there, filled in"


async def test_a_cockpit_that_only_looks_neither_begins_nor_resumes_nor_forks_a_run(runs: Runs) -> None:
    stopped = runs.create("fox", 100)
    stopped.begin()
    stopped.train(1, 20, every=10)
    stopped.end("stopped", "asked to", step=20)
    async with Cockpit(None, is_read_only=True).run_test(size=MIDDLE) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
        screen = pilot.app.screen
        await until(pilot, lambda: "1 run" in on_screen(screen))

        def is_told(times: int) -> bool:
            return len(pilot.app._notifications) == times

        for told, key in enumerate("nRf", 1):
            await pilot.press(key)
            await until(pilot, partial(is_told, told))
        assert pilot.app.screen is screen
        assert all("--readonly" in notice.message for notice in pilot.app._notifications)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_enter_starts_the_run_as_llmctl_does_and_the_cockpit_shows_it_begin(
    runs: Runs, started: None
) -> None:
    async with Cockpit(None).run_test(size=MIDDLE) as pilot:
        screen = await form(pilot)
        draft = screen.draft
        for key, text in {
            "name": "fox",
            "model.depth": "1",
            "train.num_iterations": "2",
            "data.stories": "200",
            "tokenizer.vocab_size": "300",
            "eval.tokens": "8192",
            "runtime.device": "cpu",
        }.items():
            draft = draft.with_typed(key, text)
        screen._change(draft)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen), seconds=240)
        cockpit = pilot.app.screen
        assert isinstance(cockpit, CockpitScreen)
        await until(pilot, lambda: cockpit.run_folder is not None)  # the form goes before the run comes
        run = cockpit.run_folder
        assert run is not None
        assert run.name == "fox"
        assert shown(cockpit) == "charts"
        await until(pilot, lambda: cockpit.state.status.state == "completed", seconds=240)
        assert "2/2" in on_screen(cockpit)
        spec = RunDir(run.path).read_spec()
        assert (spec.preset, spec.model.depth, spec.train.num_iterations) == ("stories", 1, 2)
        # a new run from its checkpoint, out of the list
        await pilot.press("5")
        await until(pilot, lambda: "1 run" in on_screen(cockpit))
        await pilot.press("f")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, NewRun))
        fork = pilot.app.screen
        assert isinstance(fork, NewRun)
        assert fork.draft.checkpoint == "fox@2"
        await until(pilot, lambda: "begins with fox@2" in on_screen(fork))
        await pilot.press("enter")
        await until(pilot, lambda: not fork.is_starting and bool(fork._error), seconds=240)
        assert "the checkpoint is of step 2 and the new run would end at step 2" in fork._error
        fork._change(fork.draft.with_typed("train.num_iterations", "3"))
        await pilot.press("enter")
        await until(pilot, lambda: cockpit.run_folder != run, seconds=240)
        assert cockpit.run_folder is not None
        await until(pilot, lambda: cockpit.state.status.state == "completed", seconds=240)
        assert cockpit.state.status.forked_from == "fox@2"
        assert observe(cockpit.run_folder).step == 3


async def test_a_paste_fills_a_field_in_whole_and_a_click_elsewhere_leaves_it_as_it_was(runs: Runs) -> None:
    async with Cockpit(None).run_test(size=MIDDLE) as pilot:
        screen = await form(pilot)
        await go_to(pilot, screen, "notes")
        pilot.app.post_message(events.Paste("one\r\ntwo\n"))
        await until(pilot, lambda: screen.query_one(FieldInput).value == "one two")
        pilot.app.post_message(events.Paste("\nthree"))
        await pilot.press("enter")
        await until(pilot, lambda: screen.draft.typed == {"notes": "one two three"})
        await pilot.press("x")
        await until(pilot, lambda: isinstance(screen.focused, FieldInput))
        await pilot.click("#form-search")
        await until(pilot, lambda: not screen.query_one("#form-line").display)
        assert screen.draft.typed == {"notes": "one two three"}
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(screen.focused, FormTable))
