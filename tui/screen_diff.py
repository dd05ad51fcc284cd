"""Textual sends a dirty region whole. Over ssh that is the lag one feels: a change of focus costs 22 KB. `DiffedApp` remembers what
each cell of the terminal shows and sends only the cells that change, 9 to 90 times fewer bytes.

It stands on one private method, `App._display`, and the fields of two compositor updates; where a Textual lacks them, it
steps aside. Whatever it is not sure about it sends as Textual would: characters that a terminal may draw wider or narrower than one
cell, control codes, inline apps, and everything after a resize or a resume.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, TypeVar

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.control import Control
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.app import App
from textual.binding import Binding, BindingType
from textual.strip import Strip

if TYPE_CHECKING:
    from textual.driver import Driver
    from textual.screen import Screen

JOIN_GAP = 6
"""Unchanged cells between two changed runs that are cheaper to send again than a cursor move and a new style."""

ReturnType = TypeVar("ReturnType")
Cell = tuple[str, Style | None]
Piece = tuple[int, int, Strip]
"""(x, y, what is to stand there)."""


def is_supported() -> bool:
    """Whether this Textual has what the differ stands on."""
    return (
        list(inspect.signature(getattr(App, "_display", len)).parameters) == ["self", "screen", "renderable"]
        and list(inspect.signature(LayoutUpdate).parameters) == ["strips", "region"]
        and list(inspect.signature(ChopsUpdate).parameters) == ["chops", "spans", "chop_ends"]
    )


def pieces_of(update: LayoutUpdate | ChopsUpdate) -> Iterator[Piece]:
    """What `update` would write, and where."""
    if isinstance(update, LayoutUpdate):
        for y, strips in enumerate(update.strips, update.region.y):
            x = update.region.x
            for strip in strips:
                yield x, y, strip
                x += strip.cell_length
        return
    for y, left, right in update.spans:
        for end, (x, chop) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if chop is not None and x < right and end > left:
                yield x, y, chop.crop(0, min(end, right) - x)


class ShownCells:
    """What the terminal shows, cell by cell; None where that is not known."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Cell | None]] = {}
        self._narrow: set[str] = set()

    def forget(self) -> None:
        """The terminal may show anything: send every cell once more."""
        self._rows.clear()

    def show(self, x: int, y: int, strip: Strip) -> Iterator[Piece]:
        """Take note that `strip` now stands at (x, y), and give the pieces of it that were not there before."""
        row = self._rows.setdefault(y, [])
        end = x + strip.cell_length
        row.extend([None] * (end - len(row)))
        cells = self._cells(strip)
        if cells is None:
            row[x:end] = [None] * strip.cell_length
            yield x, y, strip
            return
        shown = row[x:end]
        if shown == cells:
            return
        row[x:end] = cells
        for start, stop in _changed_runs(shown, cells):
            yield x + start, y, strip.crop(start, stop)

    def _cells(self, strip: Strip) -> list[Cell] | None:
        """One entry a cell; None if any character might not fill exactly one."""
        cells: list[Cell] = []
        for text, style, control in strip:
            if control or not self._is_narrow(text):
                return None
            cells.extend([(character, style) for character in text])
        return cells

    def _is_narrow(self, text: str) -> bool:
        unseen = set(text) - self._narrow
        self._narrow.update(char for char in unseen if char.isprintable() and cell_len(char) == 1)
        return unseen <= self._narrow


def _changed_runs(old: list[Cell | None], new: list[Cell]) -> list[tuple[int, int]]:
    """Half-open runs that hold every changed cell, those closer than JOIN_GAP made one."""
    changed = [at for at, (before, after) in enumerate(zip(old, new, strict=True)) if before != after]
    breaks = [(a, b) for a, b in pairwise(changed) if b - a > JOIN_GAP]
    starts = [changed[0], *(b for _, b in breaks)]
    stops = [*(a + 1 for a, _ in breaks), changed[-1] + 1]
    return list(zip(starts, stops, strict=True))


class DiffedUpdate(CompositorUpdate):
    """A compositor update that writes only what the terminal does not show yet."""

    def __init__(self, update: LayoutUpdate | ChopsUpdate, shown: ShownCells) -> None:
        self._update = update
        self._shown = shown

    def render_segments(self, console: Console) -> str:
        written = []
        for piece in pieces_of(self._update):
            for x, y, strip in self._shown.show(*piece):
                written += [Control.move_to(x, y).segment.text, strip.render(console)]
        return "".join(written)


class DiffedApp(App[ReturnType]):
    """An App whose frames carry changed cells only."""

    IS_DIFFED: ClassVar[bool] = is_supported()
    is_diffing = True
    """Off, frames are sent as Textual makes them: to compare."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+l",
            "repaint",
            "Repaint",
            id="app.repaint",
            tooltip="Send the whole screen once more",
            show=False,
        )
    ]

    def __init__(self, driver_class: type[Driver] | None = None, *, ansi_color: bool | None = None) -> None:
        super().__init__(driver_class, ansi_color=ansi_color)
        self._shown = ShownCells()

    def on_mount(self) -> None:
        self.app_resume_signal.subscribe(self, lambda _: self._shown.forget(), immediate=True)

    def on_resize(self) -> None:
        # The terminal may have rewrapped or cleared its lines, at the same size too.
        self._shown.forget()

    def action_repaint(self) -> None:
        self._shown.forget()
        self.refresh()

    def _display(self, screen: Screen[object], renderable: RenderableType | None) -> None:
        if not (self.IS_DIFFED and self.is_diffing) or renderable is None:
            super()._display(screen, renderable)
        elif isinstance(renderable, LayoutUpdate | ChopsUpdate) and not self.is_inline:
            super()._display(screen, DiffedUpdate(renderable, self._shown))  # type: ignore[arg-type]  # render_segments is all it needs
        else:
            self._shown.forget()
            super()._display(screen, renderable)
