"""What every view of the cockpit is."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from textual.containers import Container
from textual.widget import Widget

from trainer_daemon.contract.rundir import RunDir
from tui.key_names import Hint
from tui.run_state import Area, RunState
from tui.widgets.ready import Backdrop


class Pane(Container, Backdrop):
    """One view. Drawn only while it is in sight; when it comes into sight, all areas are said to have changed."""

    DEFAULT_CSS = "Pane { height: 1fr; width: 1fr; }"
    HINTS: ClassVar[Sequence[Hint]] = ()
    """For the last row, where the view has keys of its own."""
    FILLS_ITSELF: ClassVar[bool] = False
    """What it shows is read when it is looked at, and it says itself when that is there; others show all when they are drawn."""

    def __init__(self, *, id: str, classes: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id, classes=classes)
        self.is_filled = asyncio.Event()
        """It shows what there is: keys that were typed meanwhile wait for it, since they would have acted on nothing."""

    @property
    def hints(self) -> Sequence[Hint]:
        """Those of `HINTS` whose keys do something now."""
        return self.HINTS

    def draw(self, state: RunState, changed: set[Area]) -> None:
        """Show what changed. Reads the state, never writes it."""
        raise NotImplementedError

    def follow(self, run: RunDir | None) -> None:
        """Show this run from now on, or none. For what is not in its state: files that are read when they are looked at."""

    @property
    def first_focus(self) -> Widget | None:
        """What gets the keys when it comes into sight."""
        return next((w for w in self.query("*") if w.can_focus and w.display), None)

    def to_copy(self, state: RunState) -> tuple[str, str] | None:  # noqa: ARG002
        """(what it is, the text) for the clipboard; None where the view has nothing of its own to give."""
        return None

    def turn(self, pages: int) -> None:
        """Go `pages` on, where the view has pages."""

    def go_back(self) -> bool:
        """Undo the last look closer; False if there was none."""
        return False
