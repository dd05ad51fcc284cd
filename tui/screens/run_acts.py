"""What a key on a run of the list leads to: going on with it, a new run that begins with one of its checkpoints, its end."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from rich.text import Text
from textual.app import App

from trainer_daemon.contract.events import RESUMABLE_STATES
from trainer_daemon.contract.rundir import RunDir, bytes_of_its_own
from tui.key_names import cockpit_of
from tui.run_row import RunRow
from tui.screens.choose import Choose
from tui.screens.confirm import Confirm
from tui.screens.new_run import NewRun
from tui.screens.type_in import TypeIn
from tui.wording import UNKNOWN, count, fixed, size

Act = Literal["resume", "fork"]
MOST_NAMED = 6
"""Runs that a question names one by one."""


def begin(
    app: App[None], act: Act, row: RunRow, *, resume: Callable[[RunDir], None], show: Callable[[RunDir], None]
) -> None:
    """Ask what has to be asked. `resume` goes on with the run, `show` opens one that was begun."""
    if act == "fork":
        _fork(app, row, show)
        return
    state = row.status.state if row.status else "unreadable"
    if state in RESUMABLE_STATES:
        app.push_screen(
            Confirm(
                f"Resume {row.name}?",
                "It goes on from its newest good checkpoint; steps after that are made again.",
            ),
            lambda is_sure: resume(row.run) if is_sure else None,
        )
    elif state == "paused":
        resume(row.run)
    else:
        advice = "; begin a new run from it with f" if state == "completed" else ""
        app.notify(f"{row.name} is {state}{advice}", severity="warning", markup=False)


def _fork(app: App[None], row: RunRow, show: Callable[[RunDir], None]) -> None:
    from trainer_daemon.engine.checkpoint.store import list_checkpoints
    from tui.spec_form import draft_of_fork

    infos = list(reversed(list_checkpoints(row.run.checkpoints)))
    spec = row.spec
    if not infos or spec is None:
        app.notify(f"{row.name} has no checkpoint to begin with", severity="warning", markup=False)
        return
    rows = [
        Text(f"step {count(info.step):>10}   val bpb {fixed(info.val_bpb, 4) if info.val_bpb else UNKNOWN}")
        for info in infos
    ]

    def fill_in(place: int | None) -> None:
        if place is not None:
            draft = draft_of_fork(f"{row.name}@{infos[place].step}", spec)
            app.push_screen(NewRun(draft), lambda begun: show(begun) if begun else None)

    app.push_screen(Choose(f"A new run that begins with a checkpoint of {row.name}", rows), fill_in)


async def remove(app: App[object], rows: Sequence[RunRow], send: Callable[[Sequence[str]], None]) -> None:
    """Show what goes and what it frees, and have `llmctl rm` delete the runs once it was typed which."""
    for row in rows:
        if row.run.supervisor_is_alive() or row.run.ranks_are_alive():
            key = cockpit_of(app).key_names["run.stop"]
            app.notify(
                f"{row.name} is still going, nothing was deleted; first open it and stop it with {key}, "
                f"or: llmctl stop {row.name}",
                severity="warning",
                timeout=10,
                markup=False,
            )
            return
    try:
        freed = [await asyncio.to_thread(bytes_of_its_own, row.run) for row in rows]
    except OSError as e:
        app.notify(f"nothing was deleted: {e}", severity="warning", markup=False)
        return
    names = [row.name for row in rows]
    what = names[0] if len(names) == 1 else f"{len(names)} runs"
    going = [f"{_in_short(row)}, {size(own)}" for row, own in zip(rows, freed, strict=True)]
    if len(going) > MOST_NAMED:
        going[MOST_NAMED - 1 :] = [f"and {len(going) - MOST_NAMED + 1} more"]
    app.push_screen(
        TypeIn(
            f"Delete {what}?",
            "\n".join(going)
            + f"\nCurves, logs and checkpoints go for good, {size(sum(freed))} become free. A fork keeps what it began "
            f"with. To do it, type {'the name of the run' if len(names) == 1 else what}:",
            expected=what,
        ),
        lambda typed: send(["rm", *names, "--yes"]) if typed else None,
    )


def _in_short(row: RunRow) -> str:
    if row.status is None:
        return f"{row.name}: unreadable"
    return f"{row.name}: {row.status.state} at step {count(row.status.step)}"
