"""All runs on this machine, looked at anew every few seconds while they are in sight. Enter opens one, o lays it over the
one that is open."""

import time
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable
from textual.worker import get_current_worker

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.rundir import RunDir, all_runs
from trainer_daemon.contract.status import RunStatus, observe
from tui.chart.axis import compact, duration
from tui.ink import GLYPH_OF_STATE, HUE_OF_STATE, hue, palette_of
from tui.panes.pane import Pane
from tui.run_state import Area, RunState
from tui.widgets.table import Table
from tui.wording import UNKNOWN, count, fixed

LOOK_SECONDS = 3.0
FIGURES = ("step", "val bpb", "ETA", "heard", "loss nats", "tokens/s")
NARROW, FIGURES_NARROW = 100, 4
"""Below that width only the first figures are shown."""


class RunsPane(Pane):
    DEFAULT_CSS = """
    RunsPane { padding: 1 2 0 2; }
    RunsPane DataTable { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "o",
            "overlay",
            "Overlay",
            id="runs.overlay",
            tooltip="Lay this run's curves over those of the open one, or take them out",
        ),
    ]

    class Chosen(Message):
        """Open this one."""

        def __init__(self, run: RunDir) -> None:
            super().__init__()
            self.run = run

    class Overlaid(Message):
        """Lay this one over the one that is open, or take it out."""

        def __init__(self, run: RunDir) -> None:
            super().__init__()
            self.run = run

    def __init__(self, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self.overlaid: Sequence[str] = ()
        """The runs that lie over the open one, in the order of their colours."""
        self._runs: dict[str, RunDir] = {}

    def compose(self) -> ComposeResult:
        yield Table(cursor_type="row", id="runs-table")

    def on_mount(self) -> None:
        self.set_interval(LOOK_SECONDS, self._look_if_in_sight)

    def draw(self, state: RunState, changed: set[Area]) -> None:
        """The runs are not of this run's state: nothing to do."""

    def on_show(self) -> None:
        self._look()

    def _look_if_in_sight(self) -> None:
        if self.is_on_screen:
            self._look()

    @work(thread=True, group="runs", exclusive=True)
    def _look(self) -> None:
        worker = get_current_worker()
        found: list[tuple[RunDir, RunStatus | str]] = []
        for run in reversed(all_runs()):
            if worker.is_cancelled:
                return
            try:
                found.append((run, observe(run)))
            except (LlmctlError, OSError) as e:
                found.append((run, str(e)))
        self.app.call_from_thread(self._show, found)

    def _show(self, found: list[tuple[RunDir, RunStatus | str]]) -> None:
        table = self.query_one(Table)
        ink = palette_of(self.app)
        self._runs = {run.name: run for run, _ in found}
        is_narrow = self.size.width < NARROW
        figures = FIGURES[:FIGURES_NARROW] if is_narrow else FIGURES
        table.cell_padding = 1 if is_narrow else 2
        rows = []
        for run, status in found:
            if isinstance(status, str):
                rows.append(
                    (run.name, [Text(run.name), Text("unreadable", ink.muted), *([Text()] * len(figures))])
                )
                continue
            word = Text(
                f"{GLYPH_OF_STATE[status.state]} {status.state}", hue(ink, HUE_OF_STATE[status.state])
            )
            numbers = [Text(cell, justify="right") for cell in _cells(status)[: len(figures)]]
            title = Text(run.name, ink.title)
            if run.name in self.overlaid:
                place = 1 + self.overlaid.index(run.name)
                title.append(" ━", hue(ink, place))
            rows.append((run.name, [title, word, *numbers]))
        table.fill([Text("run"), Text("state"), *(Text(name, justify="right") for name in figures)], rows)

    def action_overlay(self) -> None:
        table = self.query_one(Table)
        if table.row_count:
            key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key
            self.post_message(self.Overlaid(self._runs[key.value or ""]))
            self._look()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        run = self._runs.get(event.row_key.value or "")
        if run is not None:
            self.post_message(self.Chosen(run))


def _cells(s: RunStatus) -> list[str]:
    of = f"/{count(s.total_steps)}" if s.total_steps else ""
    return [
        f"{count(s.step)}{of}",
        fixed(s.val_bpb, 4),
        UNKNOWN if s.eta_seconds is None else duration(max(1.0, s.eta_seconds)),
        UNKNOWN if s.updated_at is None else f"{duration(max(1.0, time.time() - s.updated_at))} ago",
        fixed(s.loss_nats, 4),
        UNKNOWN if s.tokens_per_second is None else compact(s.tokens_per_second),
    ]
