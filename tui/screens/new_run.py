"""A form for a run that is not started yet: what it begins with, what is to be otherwise, and beside it what it will take.

    a key typed -> Draft (checked as it is typed) -> llmctl run --dry-run, behind the keys -> the plan
                                                  -> Enter: llmctl run --detach -> the cockpit opens it

Keys are few so that every letter can be text: what is typed on a field fills it in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Input

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.text import printable
from tui.ink import GREEN, SKY, VERMILION, hue, palette_of
from tui.key_names import cockpit_of, fitted_hints
from tui.launching import (
    PLAN_SECONDS,
    START_SECONDS,
    Answer,
    Question,
    plan_rows,
    what_is_missing,
)
from tui.screens.confirm import Confirm
from tui.spec_table import NAME, PRESET, name_in_section, spelled
from tui.widgets.line_input import LineInput, joined
from tui.widgets.lines import Lines
from tui.widgets.search import SearchInput
from tui.widgets.spec_sheet import SheetRow, SheetTable, SpecSheet

if TYPE_CHECKING:
    from tui.spec_form import Draft

WIDE = 100
"""From this width on the plan stands beside the form, else below it."""
PLAN_WIDTH = 40
LOOK_SECONDS = 1 / 10
"""How often it is looked whether llmctl has answered."""


class FormTable(SheetTable):
    """The fields; every letter that is typed here fills one in."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "left", "turn(-1)", "Before", id="form.before", tooltip="The choice before, where there are some"
        ),
        Binding("right", "turn(1)", "Next", id="form.next", tooltip="The next choice"),
        Binding("delete,backspace", "reset", "Reset", id="form.reset", tooltip="As it was in the beginning"),
        Binding("enter", "start", "Start", id="form.start", tooltip="Start the run as it stands"),
    ]

    class Typed(Message):
        """A field is to be filled in, beginning with this text."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Turned(Message):
        """Another of the choices, so many places on."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by

    class Reset(Message):
        """As it was in the beginning."""

    class Started(Message):
        """The form is filled in."""

    def on_key(self, event: events.Key) -> None:
        if event.is_printable and event.character and event.character != "/":
            event.stop()
            self.post_message(self.Typed(event.character))

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        if text := joined(event.text, FieldInput.JOINED_BY).strip():
            self.post_message(self.Typed(text))

    def action_turn(self, by: int) -> None:
        self.post_message(self.Turned(by))

    def action_reset(self) -> None:
        self.post_message(self.Reset())

    def action_start(self) -> None:
        self.post_message(self.Started())


class FormSheet(SpecSheet):
    def make_table(self) -> SheetTable:
        return FormTable(cursor_type="row", id="sheet-table")


class FieldInput(LineInput):
    """Where one field is filled in."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Leave", id="field.leave", tooltip="Leave the field as it was"),
    ]

    class Left(Message):
        """It stays as it was."""

    def action_leave(self) -> None:
        self.post_message(self.Left())


class NewRun(Screen[RunDir | None]):
    """The run that was started; None where none was."""

    DEFAULT_CSS = f"""
    NewRun {{ layout: vertical; }}
    NewRun #form-title {{ height: 1; background: $surface; margin-bottom: 1; }}
    NewRun #form-body {{ height: 1fr; layout: horizontal; padding: 0 2; }}
    NewRun #form-fields {{ width: 1fr; height: 1fr; }}
    NewRun #form-plan {{ width: {PLAN_WIDTH}; height: 1fr; margin-left: 3; }}
    NewRun #form-search {{ height: 1; }}
    NewRun #form-line {{ height: 1; background: $surface; }}
    NewRun #form-key {{ width: auto; background: $surface; padding: 0 1; }}
    NewRun FieldInput, NewRun FieldInput:focus {{
        width: 1fr; background: $surface; background-tint: transparent; padding: 0;
    }}
    NewRun #form-word {{ height: 2; padding: 0 2; }}
    NewRun #form-keys {{ height: 1; }}
    NewRun.-narrow #form-body {{ layout: vertical; }}
    NewRun.-narrow #form-plan {{ width: 1fr; height: 4; margin: 0; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash",
            "search",
            "search",
            id="form.search",
            tooltip="All fields with this in their name or meaning",
        ),
        Binding("escape", "leave", "leave", id="form.leave", tooltip="Start nothing"),
    ]

    AUTO_FOCUS = "FormTable"
    """From the first moment on: keys that come with the one that opened the form are a field's, not the search's."""

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self.draft = draft
        self.plan: Answer | None = None
        """What llmctl says of the draft, or of the one before while it is asked."""
        self._planned: Draft | None = None
        """Of which draft the plan is."""
        self._planning: tuple[Draft, Question] | None = None
        self._starting: Question | None = None
        self._sought = ""
        self._editing: str | None = None
        """Key of the field that is being filled in."""
        self._error = ""

    @property
    def is_starting(self) -> bool:
        return self._starting is not None

    def compose(self) -> ComposeResult:
        yield Lines([Text()], id="form-title")
        with Horizontal(id="form-body"):
            with Vertical(id="form-fields"):
                yield SearchInput(
                    f"{self._key_names['form.search']} searches all fields and what they mean",
                    id="form-search",
                )
                yield FormSheet(id="form-sheet")
            yield Lines(id="form-plan")
        with Horizontal(id="form-line"):
            yield Lines([Text()], id="form-key")
            yield FieldInput(id="form-field", compact=True, select_on_focus=False)
        yield Lines([Text()], id="form-word")
        yield Lines([Text()], id="form-keys")

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        self.query_one("#form-line").display = False
        self.query_one(FormTable).focus()
        self._draw()  # at once: a key that comes now needs a field that it is for
        self.set_interval(LOOK_SECONDS, self._look)
        self._ask_plan()

    def on_resize(self) -> None:
        self.set_class(self.size.width < WIDE, "-narrow")
        self.call_after_refresh(self._draw)

    # Drawing

    def _draw(self) -> None:
        if not self.is_attached:
            return
        ink = palette_of(self.app)
        begins = (
            f"begins with {self.draft.checkpoint}" if self.draft.checkpoint else f"preset {self.draft.preset}"
        )
        number = len(self.draft.typed)
        title = Text.assemble(
            (" + ", hue(ink, GREEN)),
            ("starting …" if self.is_starting else "new run", ink.title),
            (f"   {begins}", ink.muted),
            (f" · {number} changed" if number else "", ink.muted),
        )
        self._lines("form-title").show([title])
        self._draw_fields()
        self._lines("form-plan").show(self._plan_lines())
        words = Text(printable(self._error), hue(ink, VERMILION)).wrap(
            self.app.console, max(20, self.size.width - 4)
        )
        self._lines("form-word").show(words[:2])
        self._lines("form-keys").show([self._keys()])

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#{name}", Lines)

    def _draw_fields(self) -> None:
        ink = palette_of(self.app)
        values, begun = self.draft.values(), self.draft.begun_values()
        fields = self.draft.fields
        rows = []
        for key in self.draft.shown_keys(self._sought):
            known = fields[key]
            if key == NAME:
                is_changed, value, before = bool(self.draft.name), self.draft.name or "–", ""
            else:
                is_changed = key in self.draft.typed
                value, before = spelled(values[key]), spelled(begun[key]) if is_changed else ""
            turns = "‹ › " if len(known.choices) > 1 and not known.bounds else ""
            rows.append(
                SheetRow(
                    key,
                    Text(name_in_section(key), "" if is_changed else ink.muted),
                    [Text(value, hue(ink, SKY) if is_changed else ""), Text(before or turns, ink.muted)],
                    [Text(known.rule, hue(ink, SKY))] if known.rule else [],
                    about=known.description,
                )
            )
        self.query_one(FormSheet).show([Text("value"), Text("instead of")], rows)

    def _plan_lines(self) -> list[Text]:
        ink = palette_of(self.app)
        is_narrow = self.has_class("-narrow")
        if self.plan is None:
            return [Text("asking what it takes …", ink.muted)]
        width = max(20, self._lines("form-plan").size.width)
        problem = printable(what_is_missing(self.plan))
        wrapped = Text(problem, hue(ink, VERMILION)).wrap(self.app.console, width)
        missing = list(wrapped) if problem else []  # a wrapped nothing is a line of its own
        is_old = self._planned != self.draft
        head = Text("asking anew …" if is_old else "what it takes", ink.muted)
        if self.plan.value is None:
            return [head, *missing]
        rows = plan_rows(self.plan.value)
        if is_narrow:
            told = [
                f"{what} {words}".strip() for what, words in rows if what not in ("", "model", "hardware")
            ]
            lines = [
                Text(line.plain, ink.muted) for line in Text(" · ".join(told)).wrap(self.app.console, width)
            ]
            return [*lines[:2], *missing[:2]] if missing else lines[:4]
        lines = [Text.assemble((f"{what:<12}", ink.muted), words) for what, words in rows]
        notes: list[Text] = []
        for note in self.plan.value["notes"]:
            notes += [Text(), *Text(printable(note), ink.muted).wrap(self.app.console, width)]
        return [head, Text(), *lines, *([Text(), *missing] if missing else []), *notes]

    def _keys(self) -> Text:
        ink = palette_of(self.app)
        if self._editing is not None:
            hints, always = [("⏎", "take it")], [("field.leave", "leave it as it was")]
        else:
            hints = [("form.start", "start"), ("a…z", "fill in"), ("␣", "edit"), ("form.next", "choose")]
            hints += [("form.reset", "reset"), ("form.search", "all fields")]
            always = [("form.leave", "leave")]
        return Text(" ") + fitted_hints(hints, always, self.size.width - 1, self._key_names, ink)

    @property
    def _key_names(self) -> Mapping[str, str]:
        return cockpit_of(self.app).key_names

    # The plan

    def _ask_plan(self) -> None:
        if self._planning is None and self._planned != self.draft:
            self._planning = self.draft, Question(self.draft.plan_words(), PLAN_SECONDS)

    def _look(self) -> None:
        """Take what llmctl has answered."""
        if self._planning is not None and (answer := self._planning[1].answer) is not None:
            self.plan, self._planned, self._planning = answer, self._planning[0], None
            self._ask_plan()
            self._draw()
        if self._starting is not None and (answer := self._starting.answer) is not None:
            self._starting = None
            self._take_start(answer)

    # Filling in

    @property
    def _key(self) -> str | None:
        key = self.query_one(FormTable).key_under_cursor
        return key if key in self.draft.fields else None

    @on(FormTable.Typed)
    def _edit(self, message: FormTable.Typed) -> None:
        if self.is_starting or (key := self._key) is None:
            return
        begun = "" if message.text != " " else self._present(key)
        self._editing = key
        line = self.query_one(FieldInput)
        self.query_one("#form-line").display = True
        self._lines("form-key").show([Text.assemble((key, hue(palette_of(self.app), SKY)), " ›")])
        line.value = begun or message.text.strip()
        line.cursor_position = len(line.value)
        line.focus()
        self._draw()

    def _present(self, key: str) -> str:
        if key == NAME:
            return self.draft.name
        value = self.draft.values()[key]
        return self.draft.typed.get(key, spelled(value) if value is not None else "")

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if isinstance(event.input, SearchInput):
            self._sought = event.value.strip()
            self._draw()
            self._go_to_first_found()
        elif self._editing is not None:
            self._try(self._editing, event.value)
        self._draw()

    def _go_to_first_found(self) -> None:
        """What is typed next is for it; the row that had the cursor may be another field's now."""
        table = self.query_one(FormTable)
        if self._sought and (found := self.draft.shown_keys(self._sought)):
            table.move_cursor(row=table.get_row_index(found[0]), animate=False)

    def _try(self, key: str, text: str) -> Draft | None:
        """The draft with this field filled in; None, and the reason below, where it is wrong."""
        try:
            draft = self.draft.with_typed(key, text)
        except SpecError as e:
            self._error = str(e)
            return None
        self._error = ""
        return draft

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self._editing is not None and (draft := self._try(self._editing, event.value)) is not None:
            self._end_editing()
            self._change(draft)
            self.query_one(FormTable).action_cursor_down()
        self._draw()

    @on(FieldInput.Left)
    def _end_editing(self) -> None:
        self._close_field()
        self.query_one(FormTable).focus()

    def _close_field(self) -> None:
        self._editing, self._error = None, ""
        self.query_one("#form-line").display = False
        self._draw()

    def on_descendant_focus(self) -> None:
        """A click elsewhere leaves the field as it was; else its text would stand there while keys do something else."""
        if self._editing is not None and not isinstance(self.focused, FieldInput):
            self._close_field()

    def _change(self, draft: Draft) -> None:
        self.draft, self._error = draft, ""
        self._ask_plan()
        self._draw()

    @on(FormTable.Turned)
    def _turn(self, message: FormTable.Turned) -> None:
        if self.is_starting or (key := self._key) is None:
            return
        choices = self.draft.fields[key].choices
        if not choices:
            return
        present = self.draft.preset if key == PRESET else self._present(key)
        at = choices.index(present) if present in choices else -1 if message.by > 0 else 0
        draft = self._try(key, choices[(at + message.by) % len(choices)])
        if draft is not None:
            self._change(draft)
        self._draw()

    @on(FormTable.Reset)
    def _reset(self) -> None:
        if not self.is_starting and (key := self._key) is not None:
            try:
                draft = self.draft.without(key)
            except SpecError as e:
                self._error = str(e)
                self._draw()
            else:
                self._change(draft)

    # Leaving

    def action_search(self) -> None:
        self.query_one(SearchInput).focus()

    @on(SearchInput.Left)
    def _leave_search(self) -> None:
        self.query_one(FormTable).focus()

    def action_leave(self) -> None:
        if self._sought:
            self.query_one(SearchInput).value = ""
        elif self.is_starting:
            self.notify("it is being started; that is not taken back here", severity="warning")
        elif self.draft.typed or self.draft.name:
            self.app.push_screen(
                Confirm("Leave without starting?", "What was filled in is forgotten."), self._leave_if
            )
        else:
            self.dismiss(None)

    def _leave_if(self, is_sure: bool | None) -> None:
        if is_sure:
            self.dismiss(None)

    @on(FormTable.Started)
    def _start(self) -> None:
        if not self.is_starting:
            self._starting, self._error = Question(self.draft.start_words(), START_SECONDS), ""
            self._draw()

    @on(DataTable.RowSelected)
    def _start_by_click(self, event: DataTable.RowSelected) -> None:
        event.stop()  # a click on a row chooses a field; only Enter starts

    def _take_start(self, answer: Answer) -> None:
        if answer.value is not None:
            self.dismiss(RunDir(Path(answer.value["path"])))
            return
        self._error = answer.error
        self._draw()
