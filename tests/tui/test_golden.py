"""Every screen looks as it is on file: text and styles, in three sizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from textual.pilot import Pilot

from tests.tui.golden import COMMAND, FOLDER, Picture, difference, differences
from tests.tui.golden_world import WALKS, Scenery, Size, Walk, every_name, walk, world

ROUTES = [(route, size) for route in WALKS for size in route.sizes]


@pytest.fixture(scope="module")
def scenery() -> Iterator[Scenery]:
    with world() as written:
        yield written


def names(value: Walk | Size) -> str:
    return value.name if isinstance(value, Walk) else f"{value[0]}x{value[1]}"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("route", "size"), ROUTES, ids=names)
async def test_every_screen_looks_as_it_is_on_file(route: Walk, size: Size, scenery: Scenery) -> None:
    found: list[str] = []

    async def compare(name: str, pilot: Pilot[None]) -> None:
        if len(found) < 3:  # each one that is not met is waited for
            found.extend(filter(None, [await difference(name, pilot)]))

    await walk(route, size, scenery, compare)
    message = f"meant? write the files anew with `{COMMAND}`, look at their diff, and commit them\n\n"
    assert not found, message + "\n\n".join(found)


def test_no_file_is_left_of_a_screen_that_is_gone() -> None:
    assert {file.stem for file in FOLDER.glob("*")} == every_name(), f"write them anew: {COMMAND}"


def test_a_file_holds_all_of_a_picture() -> None:
    styles = [f"#{number:06x}" for number in range(60)]
    drawn = Picture(["é ▌ fox", ""], [["none", "bold red", "none"], [*styles, "none"]])
    assert Picture.of_file(drawn.file_text()) == drawn


def test_a_difference_names_the_row_the_cells_and_both_styles() -> None:
    wanted = Picture(["step 1", "loss"], [["none"] * 6, ["none"] * 4])
    now = Picture(["step 2", "loss"], [["none"] * 6, ["none", "bold", "bold", "none"]])
    told = differences(wanted, now, "charts-80x24")
    assert "-step 1\n+step 2" in told
    assert "row 2, cells 2-3, 'os': none  →  bold" in told
    assert differences(wanted, wanted, "charts-80x24") == ""
