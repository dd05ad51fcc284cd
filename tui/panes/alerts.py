"""What went wrong, the newest first, and about the one under the cursor all that is known: what was seen, the likely cause,
what to do, the evidence. Enter reads it alone and puts the charts at that step."""

from collections.abc import Sequence
from typing import ClassVar

from rich.console import Console
from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import DataTable

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.rundir import RunDir
from tui.acknowledged import Acknowledged
from tui.alarms import Alarm, suggested_command
from tui.chart.palette import Palette
from tui.evidence import MOST_BYTES, evidence_lines
from tui.ink import HUE_OF_LEVEL, SKY, hue, palette_of
from tui.key_names import Hint, cockpit_of
from tui.panes.pane import Pane
from tui.run_state import Area, RunState
from tui.widgets.lines import Lines
from tui.widgets.table import Table
from tui.wording import clock, count

GLYPHS = {"warning": "!", "error": "✗"}
MARGIN = 5
"""Cells at the sides, the scrollbar's among them."""
WOULD_STAND_HERE = (
    "Here would stand a loss that jumps, is not finite, or falls no more; a rank that is slow, hangs or dies; a checkpoint "
    "that could not be saved: each with its likely cause, what to do, and a command for it. {charts} has the curves."
)
READABLE = 80
"""Cells of a line that the eye finds back from."""
BESIDE_WORDS = 40
"""Cells of a row that are not the words themselves."""


class AlertsPane(Pane):
    DEFAULT_CSS = """
    AlertsPane { padding: 1 2 0 2; layout: vertical; }
    AlertsPane DataTable { max-height: 40%; overflow-x: hidden; }
    AlertsPane VerticalScroll { height: 1fr; margin-top: 1; scrollbar-size-vertical: 1; }
    AlertsPane Lines { height: auto; }
    AlertsPane.-alone DataTable, AlertsPane.-none DataTable { display: none; }
    AlertsPane.-alone VerticalScroll { margin-top: 0; }
    """
    HINTS: ClassVar[Sequence[Hint]] = (
        ("⏎", "evidence"),
        ("alerts.seen", "seen"),
        ("alerts.all_seen", "all seen"),
        ("app.copy", "copy"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "a", "acknowledge", "Seen", id="alerts.seen", tooltip="This one is seen, or is not after all"
        ),
        Binding("A", "acknowledge_all", "All seen", id="alerts.all_seen", tooltip="All of this run are seen"),
    ]

    class Sought(Message):
        """Put the charts at this step."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    class Turned(Message):
        """Others than before are seen: whoever counts those that are not counts anew."""

    def __init__(self, acknowledged: Acknowledged, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id, classes="-none")
        self.run_folder: RunDir | None = None
        self.acknowledged = acknowledged
        self._state: RunState | None = None
        self._evidence: dict[str, str] = {}
        """By the path of the record: its text, or why it cannot be read."""
        self._refused: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        yield Table(cursor_type="row", id="alerts-table")
        with VerticalScroll(id="alert-scroll"):
            yield Lines(id="alert-lines")

    def follow(self, run: RunDir | None) -> None:
        """Show this run's alerts from now on."""
        self.run_folder = run
        self._evidence.clear()
        self._refused.clear()
        self.remove_class("-alone")

    @property
    def hints(self) -> Sequence[Hint]:
        return () if self.has_class("-none") else self.HINTS

    # Drawing

    def draw(self, state: RunState, changed: set[Area]) -> None:
        self._state = state
        if "alerts" not in changed:
            return
        ink = palette_of(self.app)
        room = max(self.size.width - BESIDE_WORDS - MARGIN, 10)
        headings = [Text(), Text("step", justify="right"), Text("at"), Text("alert"), Text("what was seen")]
        rows = [(alarm.key, self._cells(state, alarm, room, ink)) for alarm in reversed(state.alarms)]
        table = self.query_one(Table)
        is_first = bool(rows) and self.has_class("-none")
        self.set_class(not rows, "-none")
        table.fill(headings, rows)
        # not `auto`: that is measured when Textual is idle, which may be after the table came into sight with no height
        table.styles.height = 1 + len(rows)
        if is_first and self.is_on_screen and self.screen.focused in (None, self.query_one(VerticalScroll)):
            self.call_after_refresh(table.focus)  # it is not there to be focused before it is laid out
        self._draw_details()

    def _cells(self, state: RunState, alarm: Alarm, room: int, ink: Palette) -> list[Text]:
        is_seen = self.acknowledged.is_seen(state, alarm)
        style = ink.muted if is_seen else Style.null()
        words = Text(alarm.seen.replace("\n", " "), style)
        words.truncate(room, overflow="ellipsis")
        glyph = Text(GLYPHS[alarm.level], ink.muted if is_seen else hue(ink, HUE_OF_LEVEL[alarm.level]))
        title = Text(alarm.title, style if is_seen else hue(ink, HUE_OF_LEVEL[alarm.level]))
        return [
            glyph,
            Text(count(alarm.step), style, justify="right"),
            Text(clock(alarm.wall), ink.muted),
            title,
            words,
        ]

    @property
    def chosen(self) -> Alarm | None:
        """The one under the cursor."""
        key = self.query_one(Table).key_under_cursor
        alarms = self._state.alarms if self._state else []
        return next((alarm for alarm in alarms if alarm.key == key), None)

    def _draw_details(self) -> None:
        if self._state is None:
            return
        ink, width = palette_of(self.app), max(self.size.width - MARGIN, 20)
        alarm = self.chosen
        if alarm is None:
            self.query_one(Lines).show(self._nothing(width, ink))
            return
        steps = [c.step for c in self._state.checkpoints.values()]
        command = suggested_command(alarm, self._state.status.name, steps, has_ended=self._state.has_ended)
        self.query_one(Lines).show(
            [*_told(alarm, width, ink), self._command_line(command), *self._evidence_lines(alarm, width, ink)]
        )

    def _nothing(self, width: int, ink: Palette) -> list[Text]:
        """Why it is empty, and what it is for."""
        assert self._state is not None
        so_far = "" if self._state.has_ended else " so far"
        words = Text(WOULD_STAND_HERE.format(charts=cockpit_of(self.app).key_names["pane.charts"]), ink.muted)
        return [Text(f"nothing has gone wrong{so_far}"), Text(), *_wrapped(words, min(width, READABLE))]

    def _command_line(self, command: str) -> Text:
        ink, key = palette_of(self.app), cockpit_of(self.app).key_names["app.copy"]
        return Text.assemble((command, hue(ink, SKY)), (f"   {key} copies it", ink.muted))

    def _evidence_lines(self, alarm: Alarm, width: int, ink: Palette) -> list[Text]:
        if alarm.record is None:
            return []
        heading = [Text(), Text.assemble(("evidence  ", ink.title), (alarm.record, ink.muted))]
        if (why := self._refused.get(alarm.record)) is not None:
            return [*heading, Text(why, ink.muted)]
        if (text := self._evidence.get(alarm.record)) is not None:
            return [*heading, *evidence_lines(text, width, ink)]
        if self.run_folder is not None:
            self._read(self.run_folder, alarm.record)
        return [*heading, Text("reading …", ink.muted)]

    @work(thread=True, group="evidence", exclusive=True)
    def _read(self, run: RunDir, record: str) -> None:
        from trainer_daemon.link.client import request_log

        text, offset, why = "", 0, None
        try:
            while len(text) <= MOST_BYTES:
                part, following, size = request_log(run, record, offset)
                text += part
                if following == offset or following >= size:
                    break
                offset = following
        except (LlmctlError, OSError) as e:
            why = str(e)
        self.app.call_from_thread(
            self._take, run, record, text, why or ("" if text else "it is not there any more")
        )

    def _take(self, run: RunDir, record: str, text: str, why: str) -> None:
        if run is self.run_folder:
            (self._refused if why else self._evidence)[record] = why or text
            self._draw_details()

    # Keys

    @on(DataTable.RowHighlighted)
    def _show_highlighted(self) -> None:
        self.query_one(VerticalScroll).scroll_home(animate=False)
        self._draw_details()

    @on(DataTable.RowSelected)
    def _read_alone(self) -> None:
        if (alarm := self.chosen) is not None:
            self.add_class("-alone")
            self.query_one(VerticalScroll).focus()
            self.post_message(self.Sought(alarm.step))

    def action_acknowledge(self) -> None:
        if self._state is not None and (alarm := self.chosen) is not None:
            self._turn([alarm], is_seen=not self.acknowledged.is_seen(self._state, alarm))

    def action_acknowledge_all(self) -> None:
        if self._state is not None:
            self._turn(self._state.alarms, is_seen=True)

    def _turn(self, alarms: Sequence[Alarm], *, is_seen: bool) -> None:
        assert self._state is not None
        try:
            self.acknowledged.turn(self._state.status.name, [a.key for a in alarms], is_seen=is_seen)
        except OSError as e:
            self.notify(f"what is seen could not be kept: {e}", severity="warning", markup=False)
        self.post_message(self.Turned())

    def to_copy(self, state: RunState) -> tuple[str, str] | None:
        alarm = self.chosen
        if alarm is None:
            return None
        steps = [c.step for c in state.checkpoints.values()]
        command = suggested_command(alarm, state.status.name, steps, has_ended=state.has_ended)
        return "a command", command

    def go_back(self) -> bool:
        was_alone = self.has_class("-alone")
        self.remove_class("-alone")
        if was_alone:
            self.query_one(Table).focus()
        return was_alone

    def on_resize(self) -> None:
        if self._state is not None:
            self.draw(self._state, {"alerts"})


def _told(alarm: Alarm, width: int, ink: Palette) -> list[Text]:
    """What was seen, why, and what to do, under each other, with a gap below."""
    title = Text.assemble(
        (f"{GLYPHS[alarm.level]} {alarm.title}", hue(ink, HUE_OF_LEVEL[alarm.level]) + Style(bold=True)),
        (f"   step {count(alarm.step)}   {clock(alarm.wall)}", ink.muted),
    )
    lines = [title, *_wrapped(Text(alarm.seen), width)]
    for label, words in (("likely cause", alarm.cause), ("what to do", alarm.fix)):
        lines += [Text(), Text(label, ink.muted), *_wrapped(Text(words), width)]
    return [*lines, Text()]


def _wrapped(text: Text, width: int) -> list[Text]:
    return list(text.wrap(Console(width=width), width))
