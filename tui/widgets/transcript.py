"""Blocks of text one below the other, following the tail until the reader scrolls away from it. Each block is laid out
once for a width: only the one that is being written costs anything."""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.widgets.lines import line_strip


class Block(NamedTuple):
    key: Hashable
    """Equal as long as the block looks the same."""
    layout: Callable[[int], list[Text]]
    """Its lines, none wider than the width it is given."""
    name: Hashable = None
    """The same however the block looks: a named block that the reader has at the top stays there while others come and go."""


class Transcript(ScrollView, can_focus=True):
    DEFAULT_CSS = """
    Transcript { width: 1fr; height: 1fr; overflow-x: hidden; scrollbar-gutter: stable; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k", "scroll_up", "Up", id="text.up", tooltip="Scroll one line up", show=False),
        Binding("j", "scroll_down", "Down", id="text.down", tooltip="Scroll one line down", show=False),
        Binding("g", "scroll_home", "Top", id="text.top", tooltip="To the beginning", show=False),
        Binding("G", "scroll_end", "Tail", id="text.tail", tooltip="To the end, and follow it", show=False),
    ]

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id, classes=classes)
        self._blocks: Sequence[Block] = ()
        self._laid_out: dict[tuple[Hashable, int], list[Strip]] = {}
        self._strips: list[Strip] = []
        self._tops: list[int] = []
        """Of each block, its first row."""
        self._names: list[Hashable] = []
        self._follows = True
        """The tail stays in sight until the reader scrolls away from it."""
        self._is_placing = False
        """It is not the reader who scrolls."""

    @property
    def follows(self) -> bool:
        """Whether the tail stays in sight."""
        return self._follows

    def follow(self) -> None:
        """Keep the tail in sight from the next blocks on."""
        self._follows = True

    def reveal(self, name: Hashable) -> None:
        """Put the block of this name in the middle; one that is not there changes nothing."""
        if name in self._names:
            self._follows = False
            self._put(self._tops[self._names.index(name)] - self.size.height // 2)

    def _put(self, row: float) -> None:
        """At the top, as far as there are rows; at once, where scrolling waits for a layout."""
        self._is_placing = True
        self.scroll_target_y = self.scroll_y = max(0, min(row, self.max_scroll_y))
        self._is_placing = False

    def show(self, blocks: Sequence[Block]) -> None:
        """Draw these from now on."""
        self._blocks = blocks
        self._lay_out()

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        if not (self.is_attached and width):
            return
        ground, console = self.rich_style, self.app.console
        known, self._laid_out = self._laid_out, {}
        strips: list[Strip] = []
        held, below = self._held()
        self._names, self._tops = [block.name for block in self._blocks], []
        for block in self._blocks:
            at = block.key, width
            if at not in known:
                known[at] = [line_strip(line, width, ground, console) for line in block.layout(width)]
            self._laid_out[at] = known[at]
            self._tops.append(len(strips))
            strips += known[at]
        seen = self._seen()
        self._strips = strips
        self.virtual_size = Size(width, len(strips))
        if self._follows:
            self._put(self.max_scroll_y)
        elif held is not None and held in self._names:
            self._put(self._tops[self._names.index(held)] + below)
        if self._seen() != seen:
            self.refresh()

    def bring_into_sight(self, line: int) -> None:
        """Scroll no further than it takes to show this line."""
        top, height = self.scroll_offset.y, self.size.height
        if not top <= line < top + height:
            self.scroll_target_y = self.scroll_y = line if line < top else line - height + 1

    def _held(self) -> tuple[Hashable, float]:
        """The name of the block that is at the top of what the reader sees, and how many of its rows are above that."""
        at = bisect_right(self._tops, self.scroll_y) - 1
        return (self._names[at], self.scroll_y - self._tops[at]) if at >= 0 else (None, 0)

    def _seen(self) -> list[Strip]:
        top = self.scroll_offset.y
        return self._strips[top : top + self.size.height]

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._follows = new_value >= self.max_scroll_y

    def on_resize(self) -> None:
        self._lay_out()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._laid_out.clear()
        self._lay_out()

    def render_line(self, y: int) -> Strip:
        at = y + self.scroll_offset.y
        if at < len(self._strips):
            return self._strips[at]
        return Strip.blank(self.scrollable_content_region.width, self.rich_style)
