"""A line that picks what a list shows, while it is typed. Every key in it is text but enter, escape and down."""

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from tui.widgets.line_input import LineInput


class SearchInput(LineInput):
    DEFAULT_CSS = """
    SearchInput, SearchInput:focus {
        width: 1fr; background: $background; background-tint: transparent; padding: 0;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape,down",
            "leave",
            "Leave",
            id="search.leave",
            tooltip="Back to the list; what was typed stays",
        ),
    ]

    class Left(Message):
        """The reader is done here."""

    def __init__(self, placeholder: str, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(placeholder=placeholder, id=id, compact=True, select_on_focus=False)

    def action_leave(self) -> None:
        self.post_message(self.Left())

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Left())
