"""One question, answered with a key."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.key_names import cockpit_of


class Confirm(ModalScreen[bool]):
    """True for y; False for n and escape. Enter does nothing: what cannot be undone is not the default."""

    DEFAULT_CSS = """
    Confirm { align: center middle; background: $background 60%; }
    Confirm > Vertical {
        width: 64; max-width: 90%; height: auto; padding: 1 2; background: $surface; border: round $warning;
    }
    Confirm #answers { margin-top: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="confirm.yes", tooltip="Do it"),
        Binding("n,escape,q", "answer(False)", "No", id="confirm.no", tooltip="Leave everything as it is"),
    ]

    def __init__(self, question: str, consequence: str) -> None:
        super().__init__()
        self._question = question
        self._consequence = consequence

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._question, "bold"), id="question")
            yield Static(Text(self._consequence), id="consequence")
            keys = cockpit_of(self.app).key_names
            yield Static(Text(f"{keys['confirm.yes']}  yes      {keys['confirm.no']}  no"), id="answers")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)
