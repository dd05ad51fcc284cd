"""What a key on a run of the list leads to: going on with it, or a new run that begins with one of its checkpoints."""

from collections.abc import Callable
from typing import Literal

from rich.text import Text
from textual.app import App

from trainer_daemon.contract.events import RESUMABLE_STATES
from trainer_daemon.contract.rundir import RunDir
from tui.run_row import RunRow
from tui.screens.choose import Choose
from tui.screens.confirm import Confirm
from tui.screens.new_run import NewRun
from tui.wording import UNKNOWN, count, fixed

Act = Literal["resume", "fork"]


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
