"""Ranks and devices: who is slow, what is hot, where a step's time goes. Drawn from looks that the supervisor takes now and
then, so it costs the ranks nothing."""

from textual.app import ComposeResult
from textual.containers import VerticalScroll

from tui.chart.symbols import Symbols
from tui.ink import palette_of
from tui.panes.pane import Pane
from tui.run_state import Area, RunState
from tui.system_view import system_lines
from tui.widgets.lines import Lines

MARGIN = 5
"""Cells at the sides, the scrollbar's among them."""


class SystemPane(Pane):
    DEFAULT_CSS = """
    SystemPane { padding: 1 2 0 2; }
    SystemPane VerticalScroll { scrollbar-size-vertical: 1; }
    SystemPane Lines { height: auto; }
    """

    def __init__(self, symbols: Symbols, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._symbols = symbols
        self._state: RunState | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="system-scroll"):
            yield Lines(id="system-lines")

    def draw(self, state: RunState, changed: set[Area]) -> None:
        self._state = state
        if changed & {"status", "curves", "system"}:
            width, height = max(self.size.width - MARGIN, 20), self.size.height
            self.query_one(Lines).show(
                system_lines(state, width, height, palette_of(self.app), self._symbols)
            )

    def on_resize(self) -> None:
        if self._state is not None:
            self.draw(self._state, {"system"})
