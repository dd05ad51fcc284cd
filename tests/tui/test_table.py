"""Tables in the cockpit: whole cells from the first frame on."""

from rich.text import Text
from textual.app import App, ComposeResult

from tui.widgets.table import Table


class OneTable(App[None]):
    CSS = "Table { height: 1fr; }"

    def compose(self) -> ComposeResult:
        yield Table(cursor_type="row")


def lines(table: Table) -> str:
    return "\n".join(table.render_line(y).text for y in range(table.size.height))


async def test_a_cell_wider_than_its_heading_is_whole_though_nobody_was_idle_since() -> None:
    async with OneTable().run_test(size=(60, 10)) as pilot:
        table = pilot.app.query_one(Table)
        for megabytes in ("138.4 MB", "11,138.4 MB"):
            table.fill([Text("step"), Text("size")], [("400", [Text("400"), Text(megabytes)])])
            assert megabytes in lines(table)
            await pilot.pause()
            assert megabytes in lines(table)


async def test_the_cursor_stays_where_it_was_as_near_as_there_are_rows() -> None:
    async with OneTable().run_test(size=(60, 10)) as pilot:
        table = pilot.app.query_one(Table)
        rows = [(str(step), [Text(str(step))]) for step in range(5)]
        table.fill([Text("step")], rows)
        await pilot.press("down", "down", "down")
        table.fill([Text("step")], rows)
        assert table.cursor_row == 3
        table.fill([Text("step")], rows[:2])
        assert table.cursor_row == 1
        table.fill([Text("step")], [])
        assert table.row_count == 0


async def test_the_letters_of_vi_and_home_and_end_move_in_every_table() -> None:
    async with OneTable().run_test(size=(60, 6)) as pilot:
        table = pilot.app.query_one(Table)
        table.fill([Text("step")], [(str(step), [Text(str(step))]) for step in range(20)])
        for key, row in (("j", 1), ("j", 2), ("k", 1), ("G", 19), ("g", 0), ("end", 19), ("home", 0)):
            await pilot.press(key)
            assert table.cursor_row == row, key
