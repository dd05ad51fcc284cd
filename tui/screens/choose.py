"""One of several, chosen with a key: checkpoints, favourite prompts."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option


class Choose(ModalScreen[int | None]):
    """The place of what was chosen; None when nothing was."""

    DEFAULT_CSS = """
    Choose { align: center middle; background: $background 60%; }
    Choose > Vertical {
        width: 84; max-width: 96%; height: auto; max-height: 80%; padding: 1 2; background: $surface;
        border: round $primary;
    }
    Choose OptionList, Choose OptionList:focus {
        height: auto; max-height: 24; background: $surface; background-tint: transparent; border: none; padding: 0;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Leave", id="choose.leave", tooltip="Choose nothing"),
        Binding("j", "down", "Down", id="choose.down", tooltip="The next one", show=False),
        Binding("k", "up", "Up", id="choose.up", tooltip="The one before", show=False),
    ]

    def __init__(self, title: str, rows: Sequence[Text]) -> None:
        super().__init__()
        self._title = title
        self._rows = rows

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._title, "bold"))
            yield OptionList(*(Option(row) for row in self._rows))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(event.option_index)

    def action_down(self) -> None:
        self.query_one(OptionList).action_cursor_down()

    def action_up(self) -> None:
        self.query_one(OptionList).action_cursor_up()
