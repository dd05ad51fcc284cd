"""A chart written to a file: the pixels of a picture are read back, the numbers too."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from textual.widgets import Input

from tests.tui.test_cockpit import MIDDLE, opened, until
from trainer_daemon.contract.errors import LlmctlError, RefusedError, SpecError
from tui.app import Cockpit
from tui.chart.export import write_chart
from tui.chart.figure import Figure, Mark, Reference, Series
from tui.chart.palette import LIGHT
from tui.chart.vector import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from tui.chart.view import View
from tui.screens.type_in import TypeIn

if TYPE_CHECKING:
    from tests.tui.conftest import Runs

STEPS = np.arange(101.0)
FALLING = np.where((STEPS > 40) & (STEPS < 60), np.nan, 3.0 - STEPS / 100)
CURVE = Figure(
    "loss nats", [Series("", STEPS, FALLING)], [Reference(2.5, "floor")], [Mark(80.0, "checkpoint")]
)


def pixels(file: Path) -> np.ndarray:
    """(height, width, 3)"""
    image = pytest.importorskip("PIL.Image", reason="the extra png is not installed")
    with image.open(file) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def rows_of(picture: np.ndarray, colour: tuple[int, int, int], column: int) -> list[int]:
    """Where a column of pixels has that colour, or nearly."""
    return np.flatnonzero(np.abs(picture[:, column] - np.array(colour)).sum(axis=1) < 60).tolist()


def line_colour() -> tuple[int, int, int]:
    assert LIGHT.lines[0].color is not None
    red, green, blue = LIGHT.lines[0].color.get_truecolor()
    return red, green, blue


def test_a_png_has_its_curve_where_its_axes_say_and_nothing_in_the_gap(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="the extra png is not installed")
    write_chart(tmp_path / "curve.png", CURVE, View(smoothing=0.0, shows_marks=False), "fox")
    picture = pixels(tmp_path / "curve.png")
    assert picture.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert picture[0, 0].tolist() == [255, 255, 255]
    data_width = WIDTH - LEFT - RIGHT
    columns = {step: round(2 * (LEFT + data_width * step / 104)) for step in (10, 30, 50, 70, 90)}
    heights = {step: rows_of(picture, line_colour(), column) for step, column in columns.items()}
    assert heights.pop(50) == [], "a gap is a gap"
    middles = {step: np.mean(rows) for step, rows in heights.items()}
    falls = (middles[90] - middles[10]) / 80
    top, bottom = 2 * TOP, 2 * (HEIGHT - BOTTOM)
    assert falls == pytest.approx((bottom - top) / 108, rel=0.03), "one nat is all the axis but its margins"
    for step, middle in middles.items():
        assert middle == pytest.approx(middles[10] + falls * (step - 10), abs=3)


def test_a_png_shows_marks_and_names_and_hides_what_lies_beyond_its_axes(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="the extra png is not installed")
    for name, view in {
        "with": View(smoothing=0.0),
        "without": View(smoothing=0.0, shows_marks=False),
    }.items():
        write_chart(tmp_path / f"{name}.png", CURVE, view, "fox")
    marked, bare = pixels(tmp_path / "with.png"), pixels(tmp_path / "without.png")
    diamond = np.argwhere((marked != bare).any(axis=2))
    assert len(diamond) > 100
    assert diamond[:, 0].min() >= 2 * TOP
    narrow = View(smoothing=0.0, y=(2.4, 2.6), shows_marks=False)
    write_chart(tmp_path / "narrow.png", CURVE, narrow, "fox")
    cut = pixels(tmp_path / "narrow.png")
    column = round(2 * (LEFT + (WIDTH - LEFT - RIGHT) * 10 / 104))
    assert rows_of(cut, line_colour(), column) == [], "2.9 is above this axis"
    title = bare[: 2 * TOP - 12, 2 * LEFT : 4 * LEFT]
    assert (title < 128).any(), "the title is written"


def test_a_table_has_every_point_and_an_empty_cell_for_what_is_not_known(tmp_path: Path) -> None:
    ghost = Series("", np.array([5.0]), np.array([9.0]), is_ghost=True)
    other = Series("owl", np.array([1.0, 2.0]), np.array([2.5, np.nan]), np.array([2.5, 2.5]))
    write_chart(tmp_path / "curve.csv", Figure("loss nats", [CURVE.series[0], other, ghost]), View(), "fox")
    rows = list(csv.reader(io.StringIO((tmp_path / "curve.csv").read_text(encoding="utf-8"))))
    assert rows[0] == ["run", "branch", "step", "loss nats", "smoothed"]
    assert rows[1] == ["fox", "", "0.0", "3.0", ""]
    assert rows[51] == ["fox", "", "50.0", "", ""]
    assert rows[-3:] == [
        ["owl", "", "1.0", "2.5", "2.5"],
        ["owl", "", "2.0", "", "2.5"],
        ["fox", "cut off", "5.0", "9.0", ""],
    ]


def test_what_cannot_be_written_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match=r"\.svg, \.png, \.csv"):
        write_chart(tmp_path / "curve.pdf", CURVE, View(), "fox")
    with pytest.raises(RefusedError, match="cannot write"):
        write_chart(tmp_path / "nowhere" / "curve.svg", CURVE, View(), "fox")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(LlmctlError, match=r"pip install 'llmctl\[png\]'"):
        write_chart(tmp_path / "curve.png", CURVE, View(), "fox")
    assert not list(tmp_path.iterdir())


async def test_a_chart_of_the_cockpit_is_written_by_a_key(runs: Runs, tmp_path: Path) -> None:
    run = runs.completed("fox", 40)
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press("e")
        await until(
            pilot, lambda: isinstance(pilot.app.screen, TypeIn) and bool(pilot.app.screen.query(Input))
        )
        entry = pilot.app.screen.query_one(Input)
        assert entry.value == "fox-loss.svg"
        entry.value = str(tmp_path / "loss.csv")
        await until(pilot, lambda: entry.has_focus)
        await pilot.press("enter")
        await until(pilot, lambda: any("wrote" in notice.message for notice in pilot.app._notifications))
        assert pilot.app.screen is screen
    rows = (tmp_path / "loss.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "run,branch,step,loss nats,smoothed"
    assert len(rows) == 41
    async with Cockpit(run, is_read_only=True).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press("e")
        await until(pilot, lambda: any("--readonly" in notice.message for notice in pilot.app._notifications))
        assert pilot.app.screen is screen
