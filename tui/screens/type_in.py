"""A line to type: the name of what is to be killed, where to export to, what a fork changes."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from tui.key_names import cockpit_of
from tui.widgets.line_input import LineInput


class TypeIn(ModalScreen[str | None]):
    """What was typed; None after escape. With `expected`, nothing else is taken."""

    DEFAULT_CSS = """
    TypeIn { align: center middle; background: $background 60%; }
    TypeIn > Vertical {
        width: 72; max-width: 94%; height: auto; padding: 1 2; background: $surface; border: round $warning;
    }
    TypeIn Input { background: $panel; border: none; height: 1; padding: 0 1; margin-top: 1; }
    TypeIn #answers { margin-top: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "No", id="type_in.leave", tooltip="Leave everything as it is"),
    ]

    def __init__(
        self, question: str, consequence: str, *, initial: str = "", expected: str | None = None
    ) -> None:
        super().__init__()
        self._question = question
        self._consequence = consequence
        self._initial = initial
        self._expected = expected

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._question, "bold"), id="question")
            yield Static(Text(self._consequence), id="consequence")
            yield LineInput(self._initial, compact=True, select_on_focus=False)
            yield Static(Text(f"⏎  do it      {self._leave_key}  no"), id="answers")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self._expected is None or event.value == self._expected:
            self.dismiss(event.value)
        else:
            told = f'only "{self._expected}" does it      {self._leave_key}  no'
            self.query_one("#answers", Static).update(Text(told))

    @property
    def _leave_key(self) -> str:
        return cockpit_of(self.app).key_names["type_in.leave"]
