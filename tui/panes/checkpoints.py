"""The checkpoints, with the held-out score of each. Enter talks to one."""

from rich.text import Text
from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import DataTable

from tui.ink import GREEN, hue, palette_of
from tui.panes.pane import Pane
from tui.run_state import Area, Checkpoint, RunState
from tui.widgets.table import Table
from tui.wording import clock, count, fixed, size

FIGURES = ("step", "val bpb", "loss nats", "size", "saved")


class CheckpointsPane(Pane):
    DEFAULT_CSS = """
    CheckpointsPane { padding: 1 2 0 2; }
    CheckpointsPane DataTable { height: 1fr; }
    """

    class Chosen(Message):
        """Talk to this one."""

        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

    stored: frozenset[str] | None = None
    """The folders there are; None while nobody has looked."""

    def compose(self) -> ComposeResult:
        yield Table(cursor_type="row", cell_padding=2, id="checkpoints-table")

    def draw(self, state: RunState, changed: set[Area]) -> None:
        if "checkpoints" not in changed:
            return
        ink = palette_of(self.app)
        best, last = state.best_checkpoint, state.last_checkpoint
        rows = []
        for checkpoint in sorted(state.checkpoints.values(), key=lambda c: -c.step):
            words = [word for word, it in (("best", best), ("newest", last)) if it is checkpoint]
            is_gone = self.stored is not None and checkpoint.path not in self.stored
            cells = [Text(cell, justify="right") for cell in _cells(checkpoint)]
            cells.append(Text("pruned" if is_gone else " · ".join(words), hue(ink, GREEN)))
            if is_gone:
                for cell in cells:
                    cell.style = ink.muted
            rows.append((checkpoint.path, cells))
        headings = [*(Text(name, justify="right") for name in FIGURES), Text()]
        self.query_one(Table).fill(headings, rows)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.row_key.value is not None:
            self.post_message(self.Chosen(event.row_key.value))


def _cells(c: Checkpoint) -> list[str]:
    return [count(c.step), fixed(c.val_bpb, 4), fixed(c.loss_nats, 4), size(c.bytes), clock(c.saved_at)]
