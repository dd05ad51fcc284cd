"""A widget whose rows are strips that it keeps ready. The compositor gets them as they are: Textual's way asks each row of each
widget beside a changed one for borders, padding, opacity and filters at every frame, which was a quarter of the cockpit's work."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.style import Style
from textual.app import RenderResult
from textual.color import Color
from textual.containers import Horizontal
from textual.filter import LineFilter
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import ContentSwitcher


class Ground(NamedTuple):
    """What rows are put on."""

    style: Style
    background: Color
    filters: Sequence[LineFilter]
    """For terminals of few colours."""
    is_bare: bool
    """Nothing is around the rows, so that they are all there is of the widget."""


class Grounded(Widget):
    """Knows its ground."""

    _ground: Ground | None = None

    @property
    def ground(self) -> Ground:
        """Found out once for every change of styles: it asks all ancestors for theirs."""
        if self._ground is None:
            is_bare = not any(self.styles.gutter) and self.opacity == 1.0
            self._ground = Ground(
                self.rich_style, self.background_colors[1], self.app.get_line_filters(), is_bare
            )
        return self._ground

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._ground = None

    def filtered(self, strip: Strip) -> Strip:
        """`strip` in the colours that the terminal has. Textual does the same again to what is not bare, to no effect."""
        ground = self.ground
        for line_filter in ground.filters:
            strip = strip.apply_filter(line_filter, ground.background)
        return strip


class Backdrop(Grounded):
    """What lies behind other widgets, and shows nothing itself but its ground."""

    def render_lines(self, crop: Region) -> list[Strip]:
        if any(self.styles.border.spacing):
            return super().render_lines(crop)
        return [self.filtered(Strip.blank(crop.width, self.ground.style))] * crop.height


class Side(Horizontal, Backdrop):
    """Side by side."""


class Views(ContentSwitcher, Backdrop):
    """One of several."""


class ReadyRows(Grounded):
    """Draws by putting `filtered` strips on its `ground` into `_strips`; what lies below them is blank."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id, classes=classes)
        self._strips: list[Strip] = []

    def render_lines(self, crop: Region) -> list[Strip]:
        ground = self.ground
        if not ground.is_bare:
            return super().render_lines(crop)
        width = self.size.width
        rows = self._strips[crop.y : crop.bottom]
        if missing := crop.height - len(rows):
            rows += [self.filtered(Strip.blank(width, ground.style))] * missing
        # between a change of size and the drawing for it
        rows = [
            row if row.cell_length == width else row.adjust_cell_length(width, ground.style) for row in rows
        ]
        return rows if crop.width == width else [row.crop(crop.x, crop.right) for row in rows]

    def render_line(self, y: int) -> Strip:
        if y < len(self._strips):
            return self._strips[y]
        return Strip.blank(self.content_size.width, self.ground.style)

    def render(self) -> RenderResult:
        raise AssertionError("drawn row by row")
