"""The checkpoints, with the held-out score of each, and where each lies on the curve. Enter talks to one; other keys have
llmctl check it, keep it, …"""

import time
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import DataTable

from tui.chart.figure import Figure
from tui.chart.symbols import Symbols
from tui.chart.widget import Chart
from tui.feed import Shelf
from tui.figures import checkpoints_figure
from tui.ink import GREEN, VERMILION, hue, palette_of
from tui.key_names import Hint
from tui.panes.pane import Pane
from tui.run_state import Area, Checkpoint, RunState
from tui.screens.checkpoint_acts import Act
from tui.store import XAxis
from tui.widgets.table import Table
from tui.wording import age, count, fixed, size

LEAST_HEIGHT = 20
"""From so many rows on there is room for the curve, however long the table is."""
CURVE_SHARE = 0.4
"""Of the rows, at least, from there on."""
LEAST_CURVE = 6
"""Rows below which a curve says nothing."""
FIGURES = ("step", "val bpb", "loss nats", "size", "age")
WIDE = 90
"""Cells of the view from which on there are two between figures, not one."""
AGE_SECONDS = 30.0
"""Between two looks at the clock."""


class CheckpointsPane(Pane):
    DEFAULT_CSS = """
    CheckpointsPane { padding: 1 2 0 2; }
    CheckpointsPane Chart { margin-bottom: 1; }
    CheckpointsPane DataTable { height: 1fr; }
    """

    HINTS: ClassVar[Sequence[Hint]] = (
        ("⏎", "sample"),
        ("checkpoint.verify", "verify"),
        ("checkpoint.pin", "pin"),
        ("checkpoint.fork", "fork"),
        ("checkpoint.export", "export"),
        ("checkpoint.delete", "delete"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "wish('verify')", "Verify", id="checkpoint.verify", tooltip="Hash every file anew"),
        Binding(
            "p",
            "wish('pin')",
            "Pin",
            id="checkpoint.pin",
            tooltip="Keep it whatever the rules say, or no more",
        ),
        Binding(
            "f",
            "wish('fork')",
            "Fork",
            id="checkpoint.fork",
            tooltip="A new run that begins with it; asks what is to be different",
        ),
        Binding(
            "x", "wish('export')", "Export", id="checkpoint.export", tooltip="As safetensors; asks where to"
        ),
        Binding("d", "wish('delete')", "Delete", id="checkpoint.delete", tooltip="Remove it; asks first"),
    ]

    class Chosen(Message):
        """Talk to this one."""

        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

    class Wanted(Message):
        """Do something with this one."""

        def __init__(self, act: Act, path: str) -> None:
            super().__init__()
            self.act: Act = act
            self.path = path

    def __init__(self, shelf: Shelf, symbols: Symbols, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._shelf = shelf
        self._symbols = symbols
        self._state: RunState | None = None

    def compose(self) -> ComposeResult:
        chart = Chart(self._figure, id="checkpoints-chart")
        chart.set_reactive(Chart.symbols, self._symbols)
        yield chart
        yield Table(cursor_type="row", cell_padding=2, id="checkpoints-table")

    def on_mount(self) -> None:
        self.set_interval(AGE_SECONDS, self._grow_older)

    def _grow_older(self) -> None:
        if self._state is not None and self.is_on_screen:
            self._draw_table(self._state)

    @property
    def first_focus(self) -> Widget:
        return self.query_one(Table)

    def on_resize(self) -> None:
        self.query_one(Table).cell_padding = 2 if self.size.width >= WIDE else 1
        self._share_rows()

    def _share_rows(self) -> None:
        """What the table does not need is the curve's."""
        chart = self.query_one(Chart)
        rows = curve_rows(self.size.height, self.query_one(Table).row_count + 1)
        chart.display = rows > 0
        chart.styles.height = rows

    def _figure(self, axis: XAxis, decay: float) -> Figure:
        if self._state is None:
            return Figure("")
        every = self._state.checkpoints.values()
        stored = [c for c in every if not self._shelf.lacks(c.path)]
        return checkpoints_figure(self._state, stored, self._chosen, axis, decay)

    def on_data_table_row_highlighted(self) -> None:
        self.query_one(Chart).redraw()

    def draw(self, state: RunState, changed: set[Area]) -> None:
        self._state = state
        if "checkpoints" in changed:
            self._draw_table(state)
        if changed & {"curves", "checkpoints"}:
            self.query_one(Chart).redraw()

    def _draw_table(self, state: RunState) -> None:
        ink = palette_of(self.app)
        best = state.best_checkpoint
        now, rows = time.time(), []
        for checkpoint in sorted(state.checkpoints.values(), key=lambda c: -c.step):
            words = ["best"] * (checkpoint is best) + ["pinned"] * (checkpoint.path in self._shelf.pinned)
            words += state.checkpoint_words.get(checkpoint.step, {}).values()
            is_gone = self._shelf.lacks(checkpoint.path)
            cells = [Text(cell, justify="right") for cell in _cells(checkpoint, now)]
            colour = VERMILION if "damaged" in words else GREEN
            cells.append(Text("pruned" if is_gone else " · ".join(words), hue(ink, colour)))
            if is_gone:
                for cell in cells:
                    cell.style = ink.muted
            rows.append((checkpoint.path, cells))
        headings = [*(Text(name, justify="right") for name in FIGURES), Text()]
        self.query_one(Table).fill(headings, rows)
        self._share_rows()

    @property
    def _under_cursor(self) -> str | None:
        table = self.query_one(Table)
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    @property
    def _chosen(self) -> Checkpoint | None:
        return self._state.checkpoints.get(self._under_cursor or "") if self._state else None

    def action_wish(self, act: Act) -> None:
        if (path := self._under_cursor) is not None:
            self.post_message(self.Wanted(act, path))

    def to_copy(self, state: RunState) -> tuple[str, str] | None:
        checkpoint = state.checkpoints.get(self._under_cursor or "")
        if checkpoint is None:
            return None
        return "a command", f'llmctl sample {state.status.name}@{checkpoint.step} "Once upon a time"'

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.row_key.value is not None:
            self.post_message(self.Chosen(event.row_key.value))


def curve_rows(height: int, table_rows: int) -> int:
    """Rows for the curve above a table that needs so many of `height`; 0 where what is left would say nothing."""
    left = height - table_rows - 1
    if height >= LEAST_HEIGHT:
        return max(left, round(height * CURVE_SHARE))
    return left if left >= LEAST_CURVE else 0


def _cells(c: Checkpoint, now: float) -> list[str]:
    return [count(c.step), fixed(c.val_bpb, 4), fixed(c.loss_nats, 4), size(c.bytes), age(now - c.saved_at)]
