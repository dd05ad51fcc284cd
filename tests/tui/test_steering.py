"""What keys do to runs and checkpoints: the command line's own commands, after a question where something is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.cli.conftest import add_checkpoint
from tests.supervisor.conftest import Daemons, daemons, wait_until_over
from tests.tui.test_cockpit import opened, until, words
from trainer_daemon.contract.events import CheckpointSaved
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import observe
from tui.app import Cockpit
from tui.errands import Errand, said_of_checkpoint
from tui.run_state import RunState
from tui.screens.checkpoint_acts import fork_words
from tui.screens.cockpit import CockpitScreen
from tui.screens.confirm import Confirm
from tui.screens.type_in import TypeIn
from tui.wording import age

if TYPE_CHECKING:
    from tests.tui.conftest import Runs

__all__ = ["daemons"]


def with_checkpoints(runs: Runs, *steps: int) -> RunDir:
    """A completed run with whole checkpoints of these steps."""
    written = runs.create("fox", 40)
    written.begin()
    written.train(1, 40)
    for step in steps:
        path = add_checkpoint(written.run, step)
        written.tell("train", CheckpointSaved(step, path.name, 138_412_032, 2.0, 0.8))
    written.end()
    written.close()
    return written.run


def told(screen: CockpitScreen) -> str:
    """The newest line of the ticker."""
    return screen.state.notes[-1].text


def row_of(screen: CockpitScreen, step: int) -> str:
    """What the table of checkpoints says of this one."""
    rows = [line.split() for line in words(screen).splitlines()]
    return next((" ".join(row) for row in rows if row[:1] == [str(step)] and "MB" in row), "")


async def asked(pilot: Pilot[None], key: str, kind: type[Confirm | TypeIn]) -> None:
    await pilot.press(key)
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "<1m"), (59, "<1m"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86_399, "23h"), (200_000, "2d")],
)
def test_an_age_is_told_in_its_leading_unit(seconds: float, said: str) -> None:
    assert age(seconds) == said


def test_what_takes_long_stands_beside_its_checkpoint_while_it_lasts() -> None:
    state = RunState("fox")
    errand = Errand(RunDir(Path("nowhere")), ["export", "fox@40", "out"])
    with patch.object(Errand, "is_over", False):
        assert said_of_checkpoint(errand, state) == {"checkpoints"}
    assert state.checkpoint_words == {40: {"export": "exporting"}}
    errand.join()
    said_of_checkpoint(errand, state)
    assert state.checkpoint_words == {40: {}}
    of_no_checkpoint = Errand(RunDir(Path("nowhere")), ["presets"])
    of_no_checkpoint.join()
    assert said_of_checkpoint(of_no_checkpoint, state) == set()


@pytest.mark.slow
async def test_checkpoints_are_checked_kept_and_deleted_by_keys(runs: Runs) -> None:
    run = with_checkpoints(runs, 20, 40)
    async with Cockpit(run).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press("3")
        await until(pilot, lambda: "v verify" in words(screen) and "best" in row_of(screen, 40))
        await pilot.press("v")
        await until(pilot, lambda: told(screen) == "verify: all 1 files of fox@40 are what was written")
        await until(pilot, lambda: row_of(screen, 40).endswith("best · whole"))
        (run.checkpoints / "step-00000040" / "model.safetensors").write_bytes(b"other")
        await pilot.press("v")
        await until(pilot, lambda: "1 of 1 files are not what was written" in told(screen))
        await until(pilot, lambda: row_of(screen, 40).endswith("best · damaged"))

        await pilot.press("down", "p")
        await until(pilot, lambda: told(screen).startswith("pin: step 20 is pinned"))
        await until(pilot, lambda: row_of(screen, 20).endswith("pinned"))
        await asked(pilot, "d", Confirm)
        await pilot.press("enter", "n")
        await until(pilot, lambda: pilot.app.screen is screen)
        await asked(pilot, "d", Confirm)
        await pilot.press("y")
        await until(pilot, lambda: "step 20 of fox is pinned; first: llmctl unpin fox@20" in told(screen))
        await pilot.press("p")
        await until(pilot, lambda: "step 20 is not pinned" in told(screen))
        await asked(pilot, "d", Confirm)
        await pilot.press("y")
        await until(pilot, lambda: "step 20 of fox is deleted" in told(screen))
        await until(pilot, lambda: "pruned" in words(screen))
        assert not (run.checkpoints / "step-00000020").exists()

        await pilot.press("up")
        await asked(pilot, "x", TypeIn)
        assert pilot.app.screen.query_one(Input).value == "fox-40"
        await pilot.press("enter")
        await until(pilot, lambda: told(screen).startswith("export: "))
        await until(pilot, lambda: row_of(screen, 40).endswith("best · damaged"))
        await asked(pilot, "f", TypeIn)
        await pilot.press(*"model.depth=9", "enter")
        await until(pilot, lambda: "fork: a fork keeps the shapes of its checkpoint" in told(screen))


def test_what_is_typed_for_a_fork_becomes_its_options() -> None:
    assert fork_words("fox@40", " a.b=1  c=2 ") == [
        "fork",
        "fox@40",
        "--set",
        "a.b=1",
        "--set",
        "c=2",
        "--detach",
    ]


@pytest.mark.fault
async def test_a_run_is_killed_by_typing_its_name_and_resumed_after_a_question(daemons: Daemons) -> None:
    run = daemons.start("fox")
    async with Cockpit(run).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await until(pilot, lambda: screen.state.status.state == "running")
        await asked(pilot, "ctrl+k", TypeIn)
        await pilot.press(*"owl", "enter")
        await until(pilot, lambda: 'only "fox" does it' in words(pilot.app.screen))  # type: ignore[arg-type]
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert observe(run).state == "running"
        await asked(pilot, "ctrl+k", TypeIn)
        await pilot.press(*"fox", "enter")
        wait_until_over(run, daemons.pid)
        await until(pilot, lambda: screen.state.has_ended and told(screen).startswith("kill: "))
        await asked(pilot, "P", Confirm)
        await pilot.press("n")
        await until(pilot, lambda: pilot.app.screen is screen)


async def test_read_only_sends_nothing_and_says_so(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 5)
    written.save(5)
    async with Cockpit(written.run, is_read_only=True).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        assert "read-only" in words(screen).splitlines()[0]
        for key in ("P", "C", "E", "colon", "exclamation_mark", "ctrl+k"):
            pilot.app.clear_notifications()
            await pilot.press(key)
            await until(pilot, lambda: any("it only looks" in n.message for n in pilot.app._notifications))
            assert pilot.app.screen is screen
        await pilot.press("3")
        for key in ("p", "d", "f", "x"):
            pilot.app.clear_notifications()
            await pilot.press(key)
            await until(pilot, lambda: any("it only looks" in n.message for n in pilot.app._notifications))
            assert pilot.app.screen is screen
    assert not list(written.run.journal.glob("control-*"))
