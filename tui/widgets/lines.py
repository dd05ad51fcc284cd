"""A block of styled lines that repaints only those that changed: a still figure costs nothing, however often it is shown."""

from collections.abc import Sequence

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import RenderResult
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget


class Lines(Widget):
    """As many rows as it is given; `height: auto` follows. Longer lines are cut, never wrapped."""

    DEFAULT_CSS = "Lines { height: auto; width: 1fr; }"

    def __init__(
        self,
        lines: Sequence[Text] = (),
        *,
        id: str | None = None,  # noqa: A002  Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._lines = list(lines)
        self._strips: list[Strip] = []

    def show(self, lines: Sequence[Text]) -> None:
        """Draw these from now on."""
        old_size = self._wanted_size()
        self._lines = list(lines)
        self._draw()
        if self._wanted_size() != old_size:
            self.refresh(layout=True)

    def _wanted_size(self) -> tuple[int | None, int | None]:
        """Cells (wide, high) that the lines decide on; None where the layout decides."""
        width, height = self.styles.width, self.styles.height
        return (
            max((line.cell_len for line in self._lines), default=0) if width and width.is_auto else None,
            len(self._lines) if height and height.is_auto else None,
        )

    def _draw(self) -> None:
        if not self.is_attached:
            return
        width, ground = self.content_size.width, self.rich_style
        strips = [line_strip(line, width, ground, self.app.console) for line in self._lines]
        old, self._strips = self._strips, strips
        if len(old) != len(strips):
            self.refresh()
        elif changed := [y for y, strip in enumerate(strips) if strip != old[y]]:
            self.refresh(*(Region(0, y, width, 1) for y in changed))

    def on_resize(self) -> None:
        self._draw()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._draw()

    def get_content_width(self, container: Size, viewport: Size) -> int:  # noqa: ARG002  Textual's signature
        return max((line.cell_len for line in self._lines), default=0)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        if y < len(self._strips):
            return self._strips[y]
        return Strip.blank(self.content_size.width, self.rich_style)

    def render(self) -> RenderResult:
        raise AssertionError("drawn line by line")


def line_strip(line: Text, width: int, ground: Style, console: Console) -> Strip:
    """One line as a strip of exactly `width` cells on the widget's own ground. That is handed over because asking Textual
    for it line by line costs more than all the drawing."""
    if line.cell_len > width:
        line = line.copy()
        line.truncate(width, overflow="ellipsis")
    if line.spans:
        segments = list(line.render(console, end=""))
    else:  # Rich leaves out the base style of a text without spans
        segments = [
            Segment(line.plain, line.style if isinstance(line.style, Style) else Style.parse(line.style))
        ]
    return Strip(segments).apply_style(ground).adjust_cell_length(width, ground)
