"""All runs on this machine, looked at anew every few seconds while they are in sight: picked by a query, sorted by a
column, the pinned ones on top. What a key does, it does to the marked runs, or to the one under the cursor."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widget import Widget
from textual.widgets import DataTable, Input
from textual.worker import get_current_worker

from trainer_daemon.contract.rundir import RunDir, all_runs
from trainer_daemon.contract.text import printable
from tui.ink import GLYPH_OF_STATE, HUE_OF_STATE, SKY, VERMILION, hue, palette_of
from tui.key_names import Hint, cockpit_of
from tui.overlay import Overlay
from tui.panes.pane import Pane
from tui.run_columns import COLUMNS, Column, arranged, columns_that_fit, sort_that_comes_next
from tui.run_query import EXAMPLE, Query, QueryError, parse_query
from tui.run_row import RunRow, read_row
from tui.run_state import Area, RunState
from tui.run_view import RunView, load_view, store_view
from tui.screens.run_acts import Act
from tui.screens.spec_diff import SpecDiff
from tui.widgets.lines import Lines
from tui.widgets.search import SearchInput
from tui.widgets.table import Table

LOOK_SECONDS = 3.0
NARROW = 100
"""Below that width columns stand closer together."""
MARK, PIN = "▌", "◆"
LEAD_WIDTH = 2
"""Cells before a name: a mark and a pin."""


class RunsPane(Pane):
    DEFAULT_CSS = """
    RunsPane { padding: 1 2 0 2; layout: vertical; }
    RunsPane DataTable { height: 1fr; }
    RunsPane #runs-head { height: 1; }
    RunsPane #runs-count { width: auto; margin-left: 2; }
    RunsPane #runs-word { height: 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "query", "Pick", id="runs.query", tooltip=f"Pick runs by a query such as {EXAMPLE}"),
        Binding("space", "mark", "Mark", id="runs.mark", tooltip="Mark this run, or take its mark away"),
        Binding(
            "o",
            "overlay",
            "Overlay",
            id="runs.overlay",
            tooltip="Lay the curves of the marked runs, or of this one, over those of the open one, or take them out",
        ),
        Binding(
            "p",
            "pin",
            "Pin",
            id="runs.pin",
            tooltip="Keep the marked runs, or this one, at the top; or no more",
        ),
        Binding(
            "d",
            "diff",
            "Diff of specs",
            id="runs.diff",
            tooltip="In what the specs of the marked runs differ, or of this one and the open one",
        ),
        Binding(
            "s",
            "sort",
            "Sort",
            id="runs.sort",
            tooltip="Sort by the next column; a click on its title does too",
        ),
        Binding("S", "turn_sort", "Sort the other way", id="runs.turn_sort", tooltip="The last first"),
        Binding(
            "R",
            "wish('resume')",
            "Resume",
            id="runs.resume",
            tooltip="Go on with this run from its newest good checkpoint; asks first",
        ),
        Binding(
            "f",
            "wish('fork')",
            "Fork",
            id="runs.fork",
            tooltip="A new run that begins with a checkpoint of this one, filled in as a form",
        ),
        Binding(
            "X",
            "remove",
            "Delete",
            id="runs.remove",
            tooltip="Delete the marked runs, or this one, whole; shows what goes and asks for the name",
        ),
    ]

    FILLS_ITSELF = True
    HINTS: ClassVar[Sequence[Hint]] = (
        ("run.new", "new"),
        ("runs.query", "pick"),
        ("runs.mark", "mark"),
        ("runs.overlay", "overlay"),
        ("runs.diff", "diff"),
        ("runs.pin", "pin"),
        ("runs.resume", "resume"),
        ("runs.fork", "fork"),
        ("runs.remove", "delete"),
        ("runs.sort", "sort"),
    )

    class Chosen(Message):
        """Open this one."""

        def __init__(self, run: RunDir) -> None:
            super().__init__()
            self.run = run

    class Found(Message):
        """There are runs now where there were none, or the other way round: other keys do something."""

    class Wanted(Message):
        """Go on with this one, or begin another from it."""

        def __init__(self, act: Act, row: RunRow) -> None:
            super().__init__()
            self.act: Act = act
            self.row = row

    class Doomed(Message):
        """Delete these, whole."""

        def __init__(self, rows: Sequence[RunRow]) -> None:
            super().__init__()
            self.rows = rows

    class Overlaid(Message):
        """Lay these over the one that is open, or take them out."""

        def __init__(self, runs: Sequence[RunDir]) -> None:
            super().__init__()
            self.runs = runs

    def __init__(self, overlay: Overlay, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._overlay = overlay
        self._rows: Sequence[RunRow] | None = None
        """The newest first; None while nobody has looked."""
        self._marked: dict[str, None] = {}
        """Names, in the order of marking."""
        self._query = Query("", ())
        self._error: QueryError | None = None
        self._view = load_view()
        self._around: tuple[str, tuple[str, ...], str] | None = None
        """(open run, runs over it, theme) of the last drawing."""

    def compose(self) -> ComposeResult:
        with Horizontal(id="runs-head"):
            yield SearchInput(f"{self._key_names['runs.query']} picks runs: {EXAMPLE}", id="runs-query")
            yield Lines([Text()], id="runs-count")
        yield Lines([Text()], id="runs-word")
        yield Table(cursor_type="row", id="runs-table")

    def on_mount(self) -> None:
        self._looking = self.set_interval(LOOK_SECONDS, self._look_if_in_sight, pause=True)

    @property
    def first_focus(self) -> Widget:
        return self.query_one(Table)

    def draw(self, state: RunState, changed: set[Area]) -> None:
        """The list is not of this run's state; what is open, over it, and in which colours is."""
        around = state.status.name, tuple(self._overlay.names), self.app.theme
        if around != self._around or {"samples", "checkpoints"} <= changed:
            self._around = around
            self._draw()

    def on_show(self) -> None:
        self._looking.resume()
        self.look()

    def on_hide(self) -> None:
        self._looking.pause()

    def on_resize(self) -> None:
        self._draw()

    @property
    def hints(self) -> Sequence[Hint]:
        return self.HINTS if self._rows else self.HINTS[:1]  # without a run, one can be begun

    # Looking

    def _look_if_in_sight(self) -> None:
        if self.is_on_screen:
            self.look()

    @work(thread=True, group="runs", exclusive=True)
    def look(self) -> None:
        """Read what there is anew, behind the keys."""
        worker = get_current_worker()
        found: list[RunRow] = []
        for run in reversed(all_runs()):
            if worker.is_cancelled:
                return
            found.append(read_row(run))
        self.app.call_from_thread(self._take, found)

    def _take(self, found: Sequence[RunRow]) -> None:
        had_some, self._rows = bool(self._rows), found
        if bool(found) != had_some:
            self.post_message(self.Found())
        for name in set(self._marked) - {row.name for row in found}:
            del self._marked[name]
        self._draw()

    # Drawing

    def _draw(self) -> None:
        if self._rows is None or not self.size.width:
            return
        rows = arranged(self._rows, self._query, self._view)
        self._draw_table(rows)
        ink = palette_of(self.app)
        words = [f"{len(rows)} of {len(self._rows)}" if self._query.terms else _runs(len(rows))]
        if self._marked:
            words.append(f"{len(self._marked)} marked")
        self.query_one("#runs-count", Lines).show([Text(" · ".join(words), ink.muted)])
        self.query_one("#runs-word", Lines).show([self._word(rows)])
        self.is_filled.set()

    def _word(self, rows: Sequence[RunRow]) -> Text:
        """Under the query: what is wrong with it, or why the list is empty."""
        ink = palette_of(self.app)
        if (error := self._error) is not None:
            message = f"^ {printable(str(error))}"
            room = max(0, self.size.width - len(message))
            return Text(" " * min(error.column, room) + message, hue(ink, VERMILION))
        if rows:
            return Text()
        nothing = f"there are no runs yet; {self._key_names['run.new']} begins one"
        return Text("no run is like that" if self._rows else nothing, ink.muted)

    @property
    def _key_names(self) -> Mapping[str, str]:
        return cockpit_of(self.app).key_names

    def _draw_table(self, rows: Sequence[RunRow]) -> None:
        table = self.query_one(Table)
        table.cell_padding = 1 if self.size.width < NARROW else 2
        columns = columns_that_fit(rows, self.size.width, table.cell_padding)
        cells = [(row.name, self._cells(row, columns)) for row in rows]
        table.fill(self._heads(columns), cells, ["name", "state", *(column.field for column in columns)])

    def _heads(self, columns: Sequence[Column]) -> list[Text]:
        ink = palette_of(self.app)
        arrow = "↓" if self._view.falling else "↑"

        def head(title: str, field: str, *, is_words: bool) -> Text:
            is_sorted_by = field == self._view.sort
            words = f"{title} {arrow}" if is_sorted_by else title
            return Text(words, hue(ink, SKY) if is_sorted_by else "", justify="left" if is_words else "right")

        named = [head(" " * LEAD_WIDTH + "run", "name", is_words=True), head("state", "state", is_words=True)]
        return named + [head(column.title, column.field, is_words=column.is_words) for column in columns]

    def _cells(self, row: RunRow, columns: Sequence[Column]) -> list[Text]:
        ink = palette_of(self.app)
        mark = (MARK, hue(ink, SKY)) if row.name in self._marked else (" ", "")
        pin = (PIN, ink.muted) if row.name in self._view.pinned else (" ", "")
        name = Text.assemble(mark, pin, (row.name, ink.title))
        if row.name in (overlaid := self._overlay.names):
            name.append(" ━", hue(ink, 1 + overlaid.index(row.name)))
        status = row.status
        if status is None:
            return [name, Text("unreadable", ink.muted), *(Text() for _ in columns)]
        state = Text(f"{GLYPH_OF_STATE[status.state]} {status.state}", hue(ink, HUE_OF_STATE[status.state]))
        return [
            name,
            state,
            *(Text(c.cell(status, row.spec), justify="left" if c.is_words else "right") for c in columns),
        ]

    # The query

    def action_query(self) -> None:
        self.query_one(SearchInput).focus()

    @on(SearchInput.Left)
    def _leave_query(self, message: SearchInput.Left) -> None:
        message.stop()
        self.query_one(Table).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Picked while it is typed, by the terms that can be understood."""
        event.stop()
        try:
            self._query, self._error = parse_query(event.value), None
        except QueryError as e:
            self._query, self._error = e.understood, e
        self._draw()

    def go_back(self) -> bool:
        """Take the marks away, then the query."""
        if self._marked:
            self._marked.clear()
        elif self._query.text or self._error:
            self.query_one(SearchInput).value = ""
        else:
            return False
        self._draw()
        return True

    # Keys

    def acted_on(self) -> list[RunRow]:
        """The marked runs in the order of marking, else the one under the cursor."""
        rows = {row.name: row for row in self._rows or ()}
        names = list(self._marked) or [self.query_one(Table).key_under_cursor or ""]
        return [rows[name] for name in names if name in rows]

    def action_mark(self) -> None:
        if (name := self.query_one(Table).key_under_cursor) is None:
            return
        if name in self._marked:
            del self._marked[name]
        else:
            self._marked[name] = None
        self._draw()
        self.query_one(Table).action_cursor_down()

    def action_overlay(self) -> None:
        if rows := self.acted_on():
            self.post_message(self.Overlaid([row.run for row in rows]))

    def action_diff(self) -> None:
        rows = self.acted_on()
        if len(rows) == 1 and self._around is not None:
            open_name = self._around[0]
            rows = [row for row in self._rows or () if row.name == open_name != rows[0].name] + rows
        specs = [(row.name, row.spec) for row in rows if row.spec is not None]
        if len(specs) < 2:
            mark = self._key_names["runs.mark"]
            self.notify(
                f"mark the runs to compare with {mark}, two at least", severity="warning", markup=False
            )
        else:
            self.app.push_screen(SpecDiff(specs))

    def action_remove(self) -> None:
        if rows := self.acted_on():
            self.post_message(self.Doomed(rows))

    def action_wish(self, act: Act) -> None:
        name = self.query_one(Table).key_under_cursor
        for row in self._rows or ():
            if row.name == name:
                self.post_message(self.Wanted(act, row))

    def action_pin(self) -> None:
        if rows := self.acted_on():
            self._change_view(self._view.with_pins_turned([row.name for row in rows]))

    def action_sort(self) -> None:
        field, falling = sort_that_comes_next(self._view.sort)
        self._change_view(replace(self._view, sort=field, falling=falling))

    def action_turn_sort(self) -> None:
        self._change_view(replace(self._view, falling=not self._view.falling))

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        field = event.column_key.value or ""
        falls = any(column.falling for column in COLUMNS if column.field == field)
        self._change_view(
            replace(
                self._view,
                sort=field,
                falling=falls ^ (field == self._view.sort and falls == self._view.falling),
            )
        )

    def _change_view(self, view: RunView) -> None:
        self._view = view
        try:
            store_view(view)
        except OSError as e:
            self.notify(f"it holds for this session only: {e}", severity="warning", markup=False)
        self._draw()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        for row in self._rows or ():
            if row.name == event.row_key.value:
                self.post_message(self.Chosen(row.run))


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
