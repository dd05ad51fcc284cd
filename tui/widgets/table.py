"""A table that is filled as a whole, and whose columns are as wide as they need to be from the first frame on.

Textual measures automatic columns when it is idle, and keeps each line that it has drawn until the table changes: lines
that were drawn before it was idle stay cut off at the width of the heading. So the widths are set with the rows.
"""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable

Rows = Sequence[tuple[str, Sequence[Text]]]
"""Keys with one cell a heading."""


class Table(DataTable[Text]):
    DEFAULT_CSS = """
    Table, Table:focus { background: $background; background-tint: $background 0%; }
    Table { scrollbar-size-vertical: 1; scrollbar-size-horizontal: 1; }
    Table > .datatable--header { background: $background; color: $text-muted; text-style: none; }
    Table > .datatable--cursor { background: $surface; color: $foreground; }
    Table:focus > .datatable--cursor { background: $block-cursor-background; color: $foreground; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", id="table.down", tooltip="The next row, as ↓ does", show=False),
        Binding("k", "cursor_up", "Up", id="table.up", tooltip="The row before, as ↑ does", show=False),
        Binding("g,home", "scroll_top", "Top", id="table.top", tooltip="The first row", show=False),
        Binding("G,end", "scroll_bottom", "End", id="table.end", tooltip="The last row", show=False),
    ]

    def fill(self, headings: Sequence[Text], rows: Rows, fields: Sequence[str] | None = None) -> None:
        """Show these from now on, and repaint what differs. `fields`: keys of the columns, where a click on one matters.

        The cursor stays on its row, or where it was, as near as there are rows.
        """
        if self._has_room_for(headings, rows):
            self._update(rows)
            return
        under_cursor, at = self.key_under_cursor, self.cursor_row
        self.clear(columns=True)
        for place, heading in enumerate(headings):
            widest = max([heading.cell_len, *(cells[place].cell_len for _, cells in rows)])
            self.add_column(heading, width=widest, key=fields[place] if fields else None)
        for key, cells in rows:
            self.add_row(*cells, key=key)
        keys = [key for key, _ in rows]
        if keys:
            row = keys.index(under_cursor) if under_cursor in keys else min(at, len(keys) - 1)
            self.move_cursor(row=row, animate=False)

    @property
    def key_under_cursor(self) -> str | None:
        """Of the row; None where there is none."""
        if not self.is_valid_coordinate(self.cursor_coordinate):
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    def _has_room_for(self, headings: Sequence[Text], rows: Rows) -> bool:
        """Whether rows and columns are the same ones in the same places, and wide enough."""
        columns = self.ordered_columns
        return (
            [_look(column.label) for column in columns] == [_look(heading) for heading in headings]
            and [row.key.value for row in self.ordered_rows] == [key for key, _ in rows]
            and all(
                cell.cell_len <= column.width
                for _, cells in rows
                for cell, column in zip(cells, columns, strict=True)
            )
        )

    def _update(self, rows: Rows) -> None:
        for y, (_, cells) in enumerate(rows):
            for x, cell in enumerate(cells):
                if _look(cell) != _look(self.get_cell_at(Coordinate(y, x))):
                    self.update_cell_at(Coordinate(y, x), cell)


def _look(text: Text) -> tuple[object, ...]:
    return text.plain, text.style, text.spans, text.justify
