"""A line to type in that takes a paste of several lines whole: Textual's own keeps the first and drops the others without a word."""

from typing import ClassVar

from textual import events
from textual.widgets import Input

TAB_SIZE = 4


class LineInput(Input):
    JOINED_BY: ClassVar[str] = " "
    """Stands for the end of a pasted line."""

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        self.replace(joined(event.text, self.JOINED_BY), *self.selection)


def joined(pasted: str, by: str) -> str:
    """What was pasted, on one line; without the line end that terminals copy along."""
    return by.join(pasted.expandtabs(TAB_SIZE).rstrip("\r\n").splitlines())
