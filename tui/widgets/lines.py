"""A block of styled lines that repaints only those that changed: a still figure costs nothing, however often it is shown."""

from collections.abc import Sequence

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Span, Text
from textual.geometry import Region, Size
from textual.strip import Strip

from tui.widgets.ready import Ground, ReadyRows

Spelled = tuple[str, str | Style, list[Span]]
"""All that decides what a Text looks like."""


class Lines(ReadyRows):
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
        self._drawn: list[Spelled] = []
        """What the strips say."""
        self._drawn_on: tuple[int, Ground] | None = None

    def show(self, lines: Sequence[Text]) -> bool:
        """Draw these from now on; whether they take another size, so that all around them is laid out anew."""
        old_size = self._wanted_size()
        self._lines = list(lines)
        self._draw()
        is_another_size = self._wanted_size() != old_size
        if is_another_size:
            self.refresh(layout=True)
        return is_another_size

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
        width, ground = self.content_size.width, self.ground
        old = self._drawn if self._drawn_on == (width, ground) else []
        self._drawn_on = width, ground
        self._drawn = [(line.plain, line.style, list(line.spans)) for line in self._lines]
        changed = [y for y, spelled in enumerate(self._drawn) if y >= len(old) or spelled != old[y]]
        is_longer_or_shorter = len(self._strips) != len(self._lines)
        strips = self._strips[: len(self._lines)]
        strips += [Strip.blank(width)] * (len(self._lines) - len(strips))
        self._strips = strips
        before = [strips[y] for y in changed]
        for y in changed:
            strips[y] = self.filtered(line_strip(self._lines[y], width, ground.style, self.app.console))
        if is_longer_or_shorter:
            self.refresh()
        elif seen := [y for y, strip in zip(changed, before, strict=True) if strips[y] != strip]:
            self.refresh(*(Region(0, y, width, 1) for y in seen))

    def on_resize(self) -> None:
        self._draw()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._draw()

    def get_content_width(self, container: Size, viewport: Size) -> int:  # noqa: ARG002  Textual's signature
        return max((line.cell_len for line in self._lines), default=0)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002
        return len(self._lines)


def line_strip(line: Text, width: int, ground: Style, console: Console) -> Strip:
    """One line as a strip of exactly `width` cells on a ground."""
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
