"""Jump mode: a letter on everything that can have the keys; the letter gives them to it."""

from collections.abc import Sequence
from string import ascii_lowercase

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widget import Widget

from tui.widgets.lines import Lines

LETTERS = "asdfghjkl" + "".join(sorted(set(ascii_lowercase) - set("asdfghjkl")))
"""Those under the fingers first."""


class Letter(Lines):
    DEFAULT_CSS = """
    Letter { position: absolute; width: 3; height: 1; background: $primary; color: $background; text-style: bold; }
    """


class Jump(ModalScreen[Widget | None]):
    """The widget whose letter was typed; None after any other key."""

    DEFAULT_CSS = "Jump { background: transparent; }"

    def __init__(self, targets: Sequence[Widget]) -> None:
        super().__init__()
        self.targets = dict(zip(LETTERS, targets, strict=False))

    def compose(self) -> ComposeResult:
        for letter, target in self.targets.items():
            label = Letter([Text(f" {letter} ")])
            label.styles.offset = target.region.offset
            yield label

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss(self.targets.get(event.key))
