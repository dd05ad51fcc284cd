"""A table of spec values under the headings of their sections, and below it what the key under the cursor means."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import set_cell_size
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from tui.chart.palette import Palette
from tui.ink import palette_of
from tui.spec_table import description_of, name_in_section, section_of
from tui.widgets.lines import Lines
from tui.widgets.table import Table

FOOT_ROWS = 4
LEAST_HEIGHT_WITH_FOOT = 10
"""Below it the rows have all the room: where a key cannot be found, nobody asks what it means."""
LEAST_COLUMN = 8
SECTION_MARK = "§"
"""Begins the row key of a heading, as no key of a spec does."""


@dataclass(frozen=True, slots=True)
class SheetRow:
    key: str
    name: Text
    cells: Sequence[Text]
    """One for each heading beside the key's."""
    foot: Sequence[Text]
    """Values too long for a cell."""
    about: str = ""
    """What it means; empty: what the spec says of the key."""


class SheetTable(Table):
    """Its cursor stands on keys alone: it passes headings over on its way."""

    def validate_cursor_coordinate(self, value: Coordinate) -> Coordinate:
        row, column = super().validate_cursor_coordinate(value)
        if self._is_heading(row):  # which a key follows, and other keys come before
            row += -1 if 0 < row < self.cursor_row else 1
        return super().validate_cursor_coordinate(Coordinate(row, column))

    def watch_cursor_coordinate(self, old_coordinate: Coordinate, new_coordinate: Coordinate) -> None:
        super().watch_cursor_coordinate(old_coordinate, new_coordinate)
        if new_coordinate.row == 1 and old_coordinate.row > 1:
            self.scroll_home(animate=False)  # the first heading comes into sight with its first key

    def _is_heading(self, row: int) -> bool:
        rows = self.ordered_rows
        return row < len(rows) and (rows[row].key.value or "").startswith(SECTION_MARK)


class SpecSheet(Vertical):
    DEFAULT_CSS = f"""
    SpecSheet {{ height: 1fr; }}
    SpecSheet Table {{ height: 1fr; }}
    SpecSheet #sheet-foot {{ height: {FOOT_ROWS}; margin-top: 1; }}
    SpecSheet.-low #sheet-foot {{ display: none; }}
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._rows: dict[str, SheetRow] = {}

    def compose(self) -> ComposeResult:
        yield self.make_table()
        yield Lines(id="sheet-foot")

    def on_resize(self) -> None:
        self.set_class(self.size.height < LEAST_HEIGHT_WITH_FOOT, "-low")

    def make_table(self) -> SheetTable:
        return SheetTable(cursor_type="row", id="sheet-table")

    def show(self, headings: Sequence[Text], rows: Sequence[SheetRow]) -> None:
        """`headings`: of the columns beside the key's. Cells are cut where there is no room."""
        table = self.query_one(Table)
        table.cell_padding = 1
        ink = palette_of(self.app)
        self._rows = {row.key: row for row in rows}
        widths = column_widths(headings, rows, self.size.width)
        filled: list[tuple[str, Sequence[Text]]] = []
        section = ""
        for row in rows:
            if section_of(row.key) != section:
                section = section_of(row.key)
                filled.append(
                    (SECTION_MARK + section, [Text(section, ink.title), *(Text() for _ in headings)])
                )
            name = Text("  ") + row.name
            filled.append(
                (row.key, [name, *(cut(cell, width) for cell, width in zip(row.cells, widths, strict=True))])
            )
        table.fill([Text("key"), *(cut(head, w) for head, w in zip(headings, widths, strict=True))], filled)
        self._draw_foot(table.key_under_cursor, ink)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._draw_foot(event.row_key.value if event.row_key else None, palette_of(self.app))

    def _draw_foot(self, key: str | None, ink: Palette) -> None:
        row = self._rows.get(key or "")
        lines: list[Text] = []
        if row is not None:
            lines = [Text(row.key, ink.title), *row.foot]
            words = Text(row.about or description_of(row.key), ink.muted)
            lines += words.wrap(self.app.console, max(20, self.size.width - 2))
        self.query_one("#sheet-foot", Lines).show(lines[:FOOT_ROWS])


def column_widths(headings: Sequence[Text], rows: Sequence[SheetRow], width: int) -> list[int]:
    """Cells for each column beside the key's: what it needs, but where there is too little room an equal share."""
    name_width = max([3, *(len(name_in_section(row.key)) for row in rows)]) + 2
    room = width - name_width - 2 * (1 + len(headings)) - 1
    needs = [
        max([heading.cell_len, *(row.cells[place].cell_len for row in rows)])
        for place, heading in enumerate(headings)
    ]
    widths = [0] * len(needs)
    left = len(needs)
    for place in sorted(
        range(len(needs)), key=needs.__getitem__
    ):  # the modest ones first, the rest is shared
        widths[place] = min(needs[place], max(LEAST_COLUMN, room // left))
        room -= widths[place]
        left -= 1
    return widths


def cut(text: Text, width: int) -> Text:
    """At most `width` cells of it."""
    if text.cell_len <= width:
        return text
    cut_text = set_cell_size(text.plain, max(0, width - 1)).rstrip() + "…"
    return Text(cut_text, text.style)
