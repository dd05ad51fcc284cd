"""The spec of the run in sight: every value, what it is in its preset and in another run, what became of it while it trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import SettingChanged
from trainer_daemon.contract.rundir import RunDir, all_runs
from trainer_daemon.contract.text import printable
from tui.chart.palette import Palette
from tui.ink import GREEN, ORANGE, SKY, hue, palette_of
from tui.key_names import Hint, cockpit_of
from tui.panes.pane import Pane
from tui.run_state import Area, RunState
from tui.screens.choose import Choose
from tui.spec_table import SpecLine, description_of, name_in_section, preset_of, spec_lines, spelled
from tui.widgets.lines import Lines
from tui.widgets.search import SearchInput
from tui.widgets.spec_sheet import SheetRow, SpecSheet
from tui.widgets.table import Table

if TYPE_CHECKING:
    from trainer_daemon.contract.spec import RunSpec


@dataclass(frozen=True, slots=True)
class ReadSpecs:
    """What was read from disk for one drawing."""

    spec: RunSpec
    preset: RunSpec | None
    other: RunSpec | None
    other_name: str


class SpecPane(Pane):
    DEFAULT_CSS = """
    SpecPane { padding: 1 2 0 2; layout: vertical; }
    SpecPane #spec-head { height: 1; margin-bottom: 1; }
    SpecPane #spec-words { width: auto; margin-left: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash",
            "search",
            "Search",
            id="spec.search",
            tooltip="Only keys and descriptions with this in them",
        ),
        Binding(
            "d",
            "turn_differing",
            "Only what differs",
            id="spec.differing",
            tooltip="Only what is not as in the preset, or everything",
        ),
        Binding("v", "versus", "Versus", id="spec.versus", tooltip="Compare with another run's spec"),
        Binding("x", "alone", "Alone", id="spec.alone", tooltip="Compare with no other run"),
    ]

    FILLS_ITSELF = True
    HINTS: ClassVar[Sequence[Hint]] = (
        ("spec.search", "search"),
        ("spec.differing", "what differs"),
        ("spec.versus", "versus"),
        ("spec.alone", "alone"),
    )

    def __init__(self, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._run: RunDir | None = None
        self._other: RunDir | None = None
        self._specs: ReadSpecs | None = None
        self._is_read = False
        """Specs are read when they are first looked at: that loads pydantic, a fifth of a second that charts do not wait for."""
        self._error = ""
        self._changes: Sequence[SettingChanged] = ()
        self._sought = ""
        self._is_differing_only = False

    def compose(self) -> ComposeResult:
        with Horizontal(id="spec-head"):
            key = cockpit_of(self.app).key_names["spec.search"]
            yield SearchInput(f"{key} searches keys and what they mean", id="spec-search")
            yield Lines([Text()], id="spec-words")
        yield SpecSheet(id="spec-sheet")

    @property
    def first_focus(self) -> Widget:
        return self.query_one(Table)

    def follow(self, run: RunDir | None) -> None:
        """Show this run's spec from now on."""
        self._run, self._specs, self._error, self._changes = run, None, "", ()
        if self._other is not None and run is not None and self._other.path == run.path:
            self._other = None
        self._is_read = False
        self.is_filled.clear()

    def draw(self, state: RunState, changed: set[Area]) -> None:
        has_changed = len(state.setting_changes) != len(self._changes)
        self._changes = tuple(state.setting_changes) if has_changed else self._changes
        if has_changed or not self._is_read:
            self._is_read = True
            self._read()
        if has_changed or {"samples", "checkpoints"} <= changed:
            self._draw()

    def on_resize(self) -> None:
        self._draw()

    # Reading

    @work(thread=True, group="spec", exclusive=True)
    def _read(self) -> None:
        from trainer_daemon.contract.settings import present_spec

        run, other = self._run, self._other
        if run is None:
            return
        try:
            spec = present_spec(run)
            specs = ReadSpecs(
                spec, preset_of(spec), present_spec(other) if other else None, other.name if other else ""
            )
        except (LlmctlError, OSError) as e:
            self.app.call_from_thread(self._take, run, None, str(e))
        else:
            self.app.call_from_thread(self._take, run, specs, "")

    def _take(self, run: RunDir, specs: ReadSpecs | None, error: str) -> None:
        if run is self._run:
            self._specs, self._error = specs, error
            self._draw()
            self.is_filled.set()

    # Drawing

    def _draw(self) -> None:
        if not self.size.width:
            return
        ink = palette_of(self.app)
        self.query_one("#spec-words", Lines).show([Text(self._words(), ink.muted)])
        specs = self._specs
        if specs is None:
            self.query_one(SpecSheet).show([Text(printable(self._error)[:120], ink.muted)], [])
            return
        every = spec_lines(specs.spec, specs.preset, specs.other, self._changes)
        lines = [line for line in every if self._is_wanted(line)]
        headings = [
            Text("value"),
            Text(f"preset {printable(specs.spec.preset or '')}" if specs.preset else ""),
        ]
        if specs.other is not None:
            headings.append(Text(specs.other_name))
        if self._changes:
            headings.append(Text("changed"))
        rows = [
            _row(line, ink, has_other=specs.other is not None, has_changes=bool(self._changes))
            for line in lines
        ]
        self.query_one(SpecSheet).show(headings, rows)

    def _is_wanted(self, line: SpecLine) -> bool:
        if self._is_differing_only and not line.is_special:
            return False
        return self._sought in f"{line.key} {description_of(line.key)}".casefold()

    def _words(self) -> str:
        specs = self._specs
        if specs is None:
            return ""
        lines = spec_lines(specs.spec, specs.preset, specs.other, self._changes)
        parts = (
            [
                f"{sum(line.differs_from_preset for line in lines)} not as in {printable(specs.spec.preset or '')}"
            ]
            if specs.preset
            else ["no preset"]
        )
        if specs.other is not None:
            parts.append(f"{sum(line.differs_from_other for line in lines)} not as in {specs.other_name}")
        if self._is_differing_only:
            parts.append("only these")
        return " · ".join(parts)

    # Keys

    def action_search(self) -> None:
        self.query_one(SearchInput).focus()

    @on(SearchInput.Left)
    def _leave_search(self, message: SearchInput.Left) -> None:
        message.stop()
        self.query_one(Table).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._sought = event.value.strip().casefold()
        self._draw()

    def go_back(self) -> bool:
        """Take away what was searched, then what is compared with."""
        if self._sought:
            self.query_one(SearchInput).value = ""
        elif self._is_differing_only:
            self._is_differing_only = False
            self._draw()
        else:
            return False
        return True

    def action_turn_differing(self) -> None:
        self._is_differing_only = not self._is_differing_only
        self._draw()

    def action_alone(self) -> None:
        self._other = None
        self._read()

    def action_versus(self) -> None:
        runs = [run for run in reversed(all_runs()) if self._run is None or run.path != self._run.path]
        if not runs:
            self.notify("there is no other run", severity="warning")
            return

        def choose(place: int | None) -> None:
            if place is not None:
                self._other = runs[place]
                self._read()

        self.app.push_screen(Choose("Compare with", [Text(run.name) for run in runs]), choose)


def _row(line: SpecLine, ink: Palette, *, has_other: bool, has_changes: bool) -> SheetRow:
    """What is as everywhere stays quiet; what differs is told with its other value."""
    name = Text(name_in_section(line.key), "" if line.is_special else ink.muted)
    value = Text(spelled(line.value), hue(ink, SKY) if line.is_special else ink.muted)
    cells = [value, Text(spelled(line.in_preset) if line.differs_from_preset else "", ink.muted)]
    if has_other:
        cells.append(Text(spelled(line.in_other) if line.differs_from_other else "", hue(ink, GREEN)))
    if has_changes:
        cells.append(Text(line.change_words(), hue(ink, ORANGE)))
    return SheetRow(line.key, name, cells, [value] if value.cell_len > 24 else [])
