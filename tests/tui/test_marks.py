"""What happened, as marks on curves: folded from the journal, drawn in the cockpit and by `llmctl plot`, put away by a key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest
from textual.widgets import DataTable

from tests.tui.test_cockpit import LARGE, MIDDLE, SMALL, opened, until, words
from trainer_daemon.contract.alerts import alert
from trainer_daemon.contract.events import Resumed, SettingChanged
from trainer_daemon.contract.journal import read_all
from tui.app import Cockpit
from tui.chart.symbols import ASCII
from tui.chart.widget import Chart
from tui.figures import CHARTS, checkpoints_figure, figure, happenings
from tui.panes.charts import ChartGrid
from tui.panes.checkpoints import CheckpointsPane
from tui.run_state import RunState
from tui.settings import Settings

if TYPE_CHECKING:
    from tests.tui.conftest import Runs, WrittenRun


def eventful(runs: Runs) -> WrittenRun:
    """A run in which one of everything that charts mark happened."""
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 100, every=50)
    written.tell("train", SettingChanged(100, "schedule.learning_rate_factor", 0.5, 1.0))
    written.train(101, 120)
    written.tell("train", Resumed(100, "step-00000100", None))
    written.train(101, 150)
    written.tell("train", alert("loss_spike", 140, "the loss jumped"))
    written.tell("train", replace(written.step(151), was_skipped=True))
    written.tell("train", Resumed(100, "step-00000100", None), alert("rolled_back", 100, "not finite"))
    written.train(101, 200)
    return written


def folded(written: WrittenRun) -> RunState:
    state = RunState("fox")
    state.apply(read_all(written.run.journal))
    return state


def test_what_happened_is_marked_by_kind_on_every_axis(runs: Runs) -> None:
    state = folded(eventful(runs))
    assert happenings(state) == {
        "checkpoint": [50, 100],
        "changed": [101],
        "rollback": [100],
        "skipped": [151],
        "spike": [140],
    }, "the first restart went back to the same step as the rollback"
    for axis in ("step", "seconds", "tokens", "flops"):
        drawn = figure(state, CHARTS[0], axis, 0.0)
        assert len(drawn.marks) == 6
        first, last = drawn.series[0].x[[0, -1]]
        assert all(first <= mark.x <= last for mark in drawn.marks)


def test_all_charts_and_the_next_frame_have_the_same_marks(runs: Runs) -> None:
    """Two thousand alerts were made into marks for each of six charts in each frame, at nine times the cost of the curves."""
    state = folded(eventful(runs))
    one, other = (figure(state, spec, "step", 0.0).marks for spec in CHARTS[:2])
    assert len(one) == 6
    assert all(mark is same for mark, same in zip(one, other, strict=True))


def test_a_restart_is_none_of_the_rollbacks(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 60, every=50)
    written.tell("train", Resumed(50, "step-00000050", None))
    written.train(51, 80)
    assert happenings(folded(written)) == {"checkpoint": [50], "restart": [50]}


def test_checkpoints_lie_on_the_held_out_score_or_else_on_the_loss(runs: Runs) -> None:
    state = folded(eventful(runs))
    first, second = state.checkpoints.values()
    drawn = checkpoints_figure(state, [first, second], second, "step", 0.9)
    assert drawn.title == "val bpb"
    assert [mark.y for mark in drawn.marks] == [first.val_bpb, second.val_bpb]
    assert drawn.series[0].smooth is None
    assert [mark.is_chosen for mark in drawn.marks] == [False, True]

    written = runs.create("owl", 400)
    written.begin()
    written.train(1, 60)
    written.save(60)
    state = folded(written)
    (only,) = state.checkpoints.values()
    (mark,) = checkpoints_figure(state, [only], None, "step", 0.0).marks
    losses = state.history.curve("loss_nats")
    assert losses is not None
    assert mark.y == losses.y[-1]
    assert checkpoints_figure(RunState("new"), [], None, "step", 0.0).marks == []


@pytest.mark.parametrize("symbols", ["braille", "ascii"])
async def test_marks_are_on_the_charts_with_a_legend_until_a_key_puts_them_away(
    runs: Runs, symbols: Literal["braille", "ascii"]
) -> None:
    written = eventful(runs)
    settings = Settings(symbols=symbols)
    async with Cockpit(written.run, settings=settings).run_test(size=LARGE) as pilot:
        screen = await opened(pilot)
        letters = ASCII.marks if symbols == "ascii" else "◆±»«×▲"
        told = "events  " + "  ".join(
            f"{letters[place]} {word}"
            for place, word in (
                (0, "checkpoint"),
                (1, "set"),
                (3, "rollback"),
                (4, "skipped"),
                (5, "spike"),
            )
        )
        await until(pilot, lambda: told in words(screen))
        chart = screen.query_one(ChartGrid).charts[0]

        def letters_drawn() -> set[str]:
            plot = "".join(chart.render_line(y).text[8:] for y in range(1, chart.size.height - 1))
            return set(plot) & set(letters)

        await until(pilot, lambda: {letters[0], letters[5]} <= letters_drawn())
        chart.focus()
        await pilot.press("M")
        await until(pilot, lambda: not letters_drawn() and "× skipped" not in words(screen))
        assert not any(c.view.shows_marks for c in screen.query_one(ChartGrid).charts)
        await pilot.press("M")
        await until(pilot, lambda: letters_drawn() and told in words(screen))


async def test_the_checkpoint_under_the_cursor_stands_out_on_the_curve(runs: Runs) -> None:
    written = eventful(runs)
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press("3")
        pane = screen.query_one(CheckpointsPane)
        chart = pane.query_one(Chart)

        def columns(*, chosen: bool) -> list[int]:
            places = []
            for y in range(1, chart.size.height - 1):
                column = 0
                for segment in chart.render_line(y):
                    is_chosen = segment.style is not None and bool(segment.style.reverse)
                    places += [
                        column + at
                        for at, glyph in enumerate(segment.text)
                        if glyph == "◆" and is_chosen == chosen
                    ]
                    column += len(segment.text)
            return places

        await until(pilot, lambda: len(columns(chosen=True)) == len(columns(chosen=False)) == 1)
        assert isinstance(screen.focused, DataTable), "the keys are the table's"
        assert columns(chosen=True) > columns(chosen=False), "the newest is under the cursor first"
        await pilot.press("down")
        await until(pilot, lambda: columns(chosen=True) < columns(chosen=False))


async def test_where_there_is_little_room_the_checkpoints_are_all_there_is(runs: Runs) -> None:
    written = eventful(runs)
    async with Cockpit(written.run).run_test(size=(80, 13)) as pilot:
        screen = await opened(pilot)
        await pilot.press("3")
        await until(pilot, lambda: "138.4 MB" in words(screen))
        await until(pilot, lambda: not screen.query_one(CheckpointsPane).query_one(Chart).display)
        await pilot.resize_terminal(*SMALL)
        await until(pilot, lambda: screen.query_one(CheckpointsPane).query_one(Chart).display)
