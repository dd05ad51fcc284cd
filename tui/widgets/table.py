"""A table that is filled as a whole, and whose columns are as wide as they need to be from the first frame on.

Textual measures automatic columns when it is idle, and keeps each line that it has drawn until the table changes: lines
that were drawn before it was idle stay cut off at the width of the heading. So the widths are set with the rows.
"""

from collections.abc import Sequence

from rich.text import Text
from textual.widgets import DataTable


class Table(DataTable[Text]):
    def fill(self, headings: Sequence[Text], rows: Sequence[tuple[str, Sequence[Text]]]) -> None:
        """`rows` are keys with one cell a heading. The cursor stays where it was, as near as there are rows."""
        at = self.cursor_row
        self.clear(columns=True)
        for place, heading in enumerate(headings):
            widest = max([heading.cell_len, *(cells[place].cell_len for _, cells in rows)])
            self.add_column(heading, width=widest)
        for key, cells in rows:
            self.add_row(*cells, key=key)
        if rows:
            self.move_cursor(row=min(at, len(rows) - 1), animate=False)
