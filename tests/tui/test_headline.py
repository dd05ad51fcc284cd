"""The lines of text around the charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trainer_daemon.contract.alerts import alert
from trainer_daemon.contract.events import TrainStep
from trainer_daemon.contract.journal import Record, read_all
from tui import headline
from tui.chart.palette import DARK
from tui.run_state import RunState

if TYPE_CHECKING:
    from tests.tui.conftest import Runs


KEYS = {"pane.log": "4", "run.ask": "/", "pane.alerts": "8"}


def folded(runs: Runs, name: str = "fox") -> RunState:
    state = RunState(name)
    state.apply(read_all(runs.completed(name).journal))
    return state


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("name", ["fox", "a-name-of-" + 50 * "x"])
def test_the_header_fills_its_row_exactly_and_begins_with_the_state(
    runs: Runs, width: int, name: str
) -> None:
    line = headline.headline(folded(runs, name), "disk", 0.0, width, DARK)
    assert line.cell_len == width
    assert line.plain.startswith(" ✓ completed")


def test_a_header_of_80_cells_has_progress_time_left_and_link(runs: Runs) -> None:
    written = runs.create("stories-of-owls", 5000)
    written.begin()
    written.train(1, 300)
    state = RunState("stories-of-owls")
    state.apply(read_all(written.run.journal))
    words = headline.headline(state, "live", 0.0, 80, DARK).plain
    for word in ("running", "stories-of-owls", "300/5,000", "6.0 %", "ETA 1h", "live"):
        assert word in words


def test_a_run_that_falls_silent_says_for_how_long(runs: Runs) -> None:
    written = runs.create("fox")
    written.begin()
    written.train(1, 3)
    state = RunState("fox")
    state.apply(read_all(written.run.journal))
    assert "live" in headline.headline(state, "live", 5.0, 120, DARK).plain
    assert "silent for 45s" in headline.headline(state, "live", 45.0, 120, DARK).plain


def test_a_completed_run_says_in_one_line_how_to_talk_to_its_model(runs: Runs) -> None:
    lines = headline.banner(folded(runs), 80, DARK, KEYS)
    assert [line.plain for line in lines] == [" press / and talk to the model, or: llmctl chat fox@best"]


def test_a_failed_run_says_why_and_what_to_type_next(runs: Runs) -> None:
    written = runs.create("fox")
    written.begin()
    written.train(1, 50, every=25)
    written.end("failed", "rank 1: CUDA out of memory", 50)
    state = RunState("fox")
    state.apply(read_all(written.run.journal))
    words = " ".join(line.plain.strip() for line in headline.banner(state, 60, DARK, KEYS))
    assert "rank 1: CUDA out of memory" in words
    assert "llmctl resume fox" in words
    assert all(line.cell_len <= 60 for line in headline.banner(state, 60, DARK, KEYS))


def test_an_alert_is_in_the_banner_for_a_while_and_in_the_log_for_good(runs: Runs) -> None:
    written = runs.create("fox")
    written.begin()
    written.train(1, 50)
    written.tell("train", alert("loss_spike", 50, "the loss jumped to 99 nats from a usual 3"))
    state = RunState("fox")
    state.apply(read_all(written.run.journal))
    assert "jumped to 99 nats" in headline.banner(state, 80, DARK, KEYS)[0].plain
    narrow = [line.plain for line in headline.banner(state, 60, DARK, KEYS)]
    assert len(narrow) == 2
    assert narrow[1].endswith(" … 8 has the rest"), "not in the middle of a sentence, as if that were all"
    assert max(map(len, narrow)) <= 60
    assert "the rest" not in headline.banner(state, 900, DARK, KEYS)[0].plain
    assert "Likely cause" in state.notes[-1].text
    assert state.notes[-1].level == "warning"
    state.status.step += headline.ALERT_STEPS + 1
    assert headline.banner(state, 80, DARK, KEYS) == []


def test_the_column_of_readings_leaves_out_whole_groups(runs: Runs) -> None:
    state = folded(runs)
    everything = headline.readings(state, 100, DARK)
    assert all(line.cell_len in (0, headline.READINGS_WIDTH) for line in everything)
    for height in range(1, len(everything)):
        fewer = headline.readings(state, height, DARK)
        assert len(fewer) <= height
        assert [line.plain for line in fewer] == [line.plain for line in everything[: len(fewer)]]
        assert not fewer or fewer[-1].plain


def test_the_column_says_where_a_step_s_time_goes_and_how_much_memory_it_takes(runs: Runs) -> None:
    words = "\n".join(line.plain for line in headline.readings(folded(runs), 100, DARK))
    for reading in ("data 2%", "compute 71%", "wait 3%", "optimizer 24%", "2.1 GB", "3.9 GB"):
        assert reading in words


def test_a_journal_of_before_there_was_a_time_split_leaves_it_out() -> None:
    step = TrainStep(1, 2.0, 0.5, 1.0, 0.25, 100, 400.0, None, 0.1)
    state = RunState("fox")
    state.apply([Record("train", 1, 1000.0, 0.0, 1, step.kind(), step)])
    words = "\n".join(line.plain for line in headline.readings(state, 100, DARK))
    assert "step time" in words
    assert "compute" not in words
