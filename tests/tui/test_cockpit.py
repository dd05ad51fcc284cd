"""The cockpit as one uses it: real run folders, real journals, keys pressed."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from textual.pilot import Pilot
from textual.widgets import ContentSwitcher, DataTable

from trainer_daemon.contract.events import (
    CommandDone,
    CoreScored,
    Evaluated,
    ExpertsUsed,
    PhaseChanged,
    PrepareProgress,
    Resumed,
    SampleChunk,
    StateChanged,
)
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import RunDir
from tui.app import Cockpit
from tui.chart.draw import GUTTER
from tui.feed import Feed, open_link
from tui.figures import first_view
from tui.panes.charts import ChartGrid, RunChart, grid_shape
from tui.panes.checkpoints import curve_rows
from tui.panes.pane import Pane
from tui.panes.views import PANES, PaneViews
from tui.screens.cockpit import CockpitScreen
from tui.screens.confirm import Confirm
from tui.screens.help import Help
from tui.widgets.lines import Lines
from tui.widgets.prompt import PromptInput
from tui.widgets.transcript import Transcript

if TYPE_CHECKING:
    from tests.tui.conftest import Runs

SMALL, MIDDLE, LARGE = (80, 24), (120, 40), (200, 60)


async def until(pilot: Pilot[None], is_true: Callable[[], object], seconds: float = 60.0) -> None:
    """Let the app go on until something holds."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"it did not come to pass; {what_is_there(pilot)}"
        await pilot.pause(0.01)


def what_is_there(pilot: Pilot[None]) -> str:
    """For whoever reads a failure."""
    screen = pilot.app.screen
    shown = "\n".join(strip.text for strip in screen._compositor.render_strips())
    return f"{screen} with the focus on {screen.focused}:\n{shown}"


async def opened(pilot: Pilot[None]) -> CockpitScreen:
    """The cockpit, once all that the journal holds is on screen and every view is at hand."""
    await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
    screen = pilot.app.screen
    assert isinstance(screen, CockpitScreen)
    await until(pilot, lambda: screen.is_caught_up and screen.views.are_all_there)
    await looked_again(pilot, screen, 2)
    return screen


async def looked_again(pilot: Pilot[None], screen: CockpitScreen, times: int) -> None:
    """Once it has looked so often more whether anything is to be drawn; by itself it looks once a second at rest."""
    wanted = screen.frames + times

    def has_looked() -> bool:
        screen.wake()
        return screen.frames >= wanted

    await until(pilot, has_looked)


def words(screen: CockpitScreen) -> str:
    """All that is on screen."""
    return "\n".join(strip.text for strip in screen._compositor.render_strips())


def has_line(chart: RunChart) -> bool:
    """Whether most of its columns have dots."""
    rows = [strip.text[GUTTER:] for strip in chart._strips[1:-1]]
    columns = [any("⠀" < character <= "⣿" for character in column) for column in zip(*rows, strict=True)]
    return sum(columns) > len(columns) / 2


def shown(screen: CockpitScreen) -> str | None:
    return screen.query_one("#panes", ContentSwitcher).current


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
async def test_a_finished_run_shows_its_curves_from_disk(runs: Runs, size: tuple[int, int]) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=size) as pilot:
        screen = await opened(pilot)
        for title in ("loss nats", "val bpb", "tokens/s", "MFU %"):
            assert title in words(screen)
        charts = screen.query_one(ChartGrid).shown
        assert all(max(row) >= "⣀" or max(row) >= "⠁" for row in words(screen).splitlines()[5:8])
        assert all(chart._bounds is not None for chart in charts)
        assert "floor 0.62" in words(screen)
        assert "completed" in words(screen)
        assert "400/400" in words(screen)


async def test_nothing_essential_is_cut_off_at_80_by_24(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        rows = words(screen).splitlines()
        assert len(rows) == 24
        assert "fox" in rows[0]
        assert rows[0].rstrip().endswith("from disk")
        for key in ("1 charts 2 3 4 5 6", "/ ask", "T compare answers", "n new run", "? help", "q detach"):
            assert key in rows[-1]
        assert "pause" not in rows[-1]  # of a run that is complete
        assert "›" in rows[-2]
        assert "page 1/2" in words(screen)
        assert len(screen.query_one(ChartGrid).shown) == 4
        for widget in screen.query(RunChart):
            if widget.display:
                assert widget.region.right <= 80
                assert widget.region.bottom <= 22
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "learning rate scale" in words(screen))
        assert "page 2/2" in words(screen)


async def test_at_120_by_40_all_charts_figures_sample_and_events_are_in_sight(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        assert len(screen.query_one(ChartGrid).shown) == 6
        for word in ("above floor", "gradient norm", "Once upon a time", "checkpoint saved", "2 × cpu"):
            assert word in words(screen)


async def test_what_a_live_run_reports_is_drawn_as_it_comes(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 50)
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        assert "50/400" in words(screen)
        written.train(51, 80)
        await until(pilot, lambda: "80/400" in words(screen))
        written.tell("train", Evaluated(80, 1.2345, 3.0, 1000, 1.0), PhaseChanged("paused", 80))
        await until(pilot, lambda: "paused" in words(screen))
        assert "1.2345" in words(screen)
        assert "P resume" in words(screen)
        written.tell("train", Resumed(60, "step-60", None), PhaseChanged("running", 60))
        written.train(61, 62)
        await until(pilot, lambda: "62/400" in words(screen))
        assert [ghost.x[0] for ghost in screen.state.history.ghosts("loss_nats")] == [61]


async def test_the_smoothing_fits_a_run_whose_length_comes_to_be_known_after_the_first_frame(
    runs: Runs,
) -> None:
    written = runs.create("fox", 400)
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        loss, val, *_ = screen.query_one(ChartGrid).charts
        assert loss.view == first_view(loss.spec, None)
        await pilot.press("tab", "s")
        looked = val.view
        written.begin()
        written.train(1, 5)
        fitting = first_view(loss.spec, 400)
        assert fitting != first_view(loss.spec, None)
        await until(pilot, lambda: loss.view == fitting)
        assert val.view == looked, "what the reader chose stays"


async def test_nothing_is_repainted_while_nothing_changes(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        repainted: list[object] = []
        for widget in screen.query("*"):
            if isinstance(widget, RunChart | Lines | Transcript):
                original = widget.refresh
                widget.refresh = lambda *regions, _original=original, **options: (  # type: ignore[method-assign]
                    repainted.append(regions) or _original(*regions, **options)  # type: ignore[func-returns-value]
                )
        await looked_again(pilot, screen, 5)
        assert repainted == []


async def test_a_cockpit_on_which_nothing_happens_rests_until_it_is_woken(runs: Runs) -> None:
    """It ticked twenty times a second whatever there was to do, 1 % of a core for a screen left open over night."""
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await until(pilot, lambda: not screen._ticking._active.is_set())
        screen._changed.add("samples")
        assert not screen.is_at_rest
        screen.wake()
        await until(pilot, lambda: screen.is_settled and not screen._ticking._active.is_set())


async def test_a_run_whose_processes_are_gone_shows_as_crashed_with_the_way_on(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 50, every=25)
    written.die()
    async with Cockpit(written.run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await until(pilot, lambda: "crashed" in words(screen))
        assert "llmctl resume fox" in words(screen)


async def test_what_is_prepared_shows_as_bars_until_there_is_a_curve(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.tell("daemon", StateChanged("starting", "", 1, 1))
    written.tell("train", PhaseChanged("preparing", 0), PrepareProgress("tokenizer", 5_000, 10_000, "bytes"))
    async with Cockpit(written.run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        row = next(row for row in words(screen).splitlines() if "tokenizer" in row)
        assert "5k of 10k bytes" in row
        assert "━" in row
        written.plan()
        written.train(1, 5)
        await until(pilot, lambda: "loss nats" in words(screen))
        assert "tokenizer" not in words(screen)


# Keys


async def test_q_leaves_and_says_nothing_to_the_run(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 5)
    async with Cockpit(written.run).run_test(size=SMALL) as pilot:
        await opened(pilot)
        await pilot.press("q")
        await until(pilot, lambda: not pilot.app.is_running)
    assert not list(written.run.journal.glob("control-*"))


async def test_a_view_is_there_at_its_key_though_the_run_be_still_read(runs: Runs) -> None:
    """All others but the charts are put together once the curves are drawn, which no key waits for."""
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 5)
    is_heard = threading.Event()

    def open_late(run: RunDir, after: dict[str, int]) -> Feed:
        assert is_heard.wait(60)
        return open_link(run, after)

    async with Cockpit(written.run, open_late).run_test(size=MIDDLE) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
        screen = pilot.app.screen
        assert isinstance(screen, CockpitScreen)
        await until(pilot, lambda: screen.views.is_mounted)
        await pilot.press("7")
        await until(pilot, lambda: screen.views.current == "spec" and "aspect_ratio" in words(screen))
        assert [pane.id for pane in screen.views.there] == ["charts", "spec"]
        is_heard.set()
        await until(pilot, lambda: screen.is_settled)
        assert {pane.id for pane in screen.views.there} == set(PANES)
        assert screen.views.current == "spec"


async def test_no_other_view_is_put_together_before_the_curves_are_drawn(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven others to load, compose and lay out would come between."""
    complete = PaneViews.complete
    drawn: list[bool] = []

    async def note_and_complete(views: PaneViews) -> None:
        drawn.append(has_line(views.query(RunChart).first()))
        await complete(views)

    monkeypatch.setattr(PaneViews, "complete", note_and_complete)
    async with Cockpit(runs.completed()).run_test(size=MIDDLE) as pilot:
        await opened(pilot)
    assert drawn == [True]


async def test_a_history_that_is_read_is_drawn_though_the_terminal_still_takes_the_frame_before(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for the next look, a twentieth of a second later."""
    monkeypatch.setattr("tui.screens.cockpit.is_writing", lambda _app: True)
    async with Cockpit(runs.completed()).run_test(size=MIDDLE) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
        screen = pilot.app.screen
        await until(pilot, lambda: any(has_line(chart) for chart in screen.query(RunChart)))


@pytest.mark.parametrize(
    ("key", "pane", "word"),
    [
        ("2", "samples", "Once upon a time"),
        ("3", "checkpoints", "138.4 MB"),
        ("4", "log", "checkpoint saved"),
        ("5", "runs", "completed"),
    ],
)
async def test_the_number_keys_go_to_the_views_and_escape_comes_back(
    runs: Runs, key: str, pane: str, word: str
) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press(key)
        await until(pilot, lambda: word in words(screen) and shown(screen) == pane)
        await pilot.press("escape")
        await until(pilot, lambda: shown(screen) == "charts")


async def test_enter_gives_a_chart_all_the_room_and_escape_gives_it_back_then_takes_the_crosshair(
    runs: Runs,
) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        grid = screen.query_one(ChartGrid)
        await pilot.press("tab", "enter")
        await until(pilot, lambda: len(grid.shown) == 1)
        assert grid.shown[0].spec.name == "val"
        await pilot.press("c", "left", "m")
        assert grid.shown[0].view.anchor is not None
        await pilot.press("escape")
        await until(pilot, lambda: len(grid.shown) == 6)
        assert all(chart.view.cursor is not None for chart in grid.charts)
        await pilot.press("escape")
        await until(pilot, lambda: all(c.view.cursor is c.view.anchor is None for c in grid.charts))


async def test_charts_share_their_window_and_keep_their_own_scale(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        loss, val, *_ = screen.query_one(ChartGrid).charts
        await pilot.press("plus", "y", "x", "x")
        await until(pilot, lambda: val.x_axis == "tokens")
        assert loss.view.log_y
        assert not val.view.log_y
        await pilot.press("plus")
        await until(pilot, lambda: val.view.x_span == loss.view.x_span and val.view.x_span is not None)


async def test_runs_are_laid_over_each_other_and_taken_out_again(runs: Runs) -> None:
    other, run = runs.completed("owl"), runs.completed("fox")
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press("5")
        table = screen.query_one("#runs-table", DataTable)
        await until(pilot, lambda: table.row_count == 2)
        table.move_cursor(row=table.get_row_index(other.name))
        await pilot.press("o")
        await until(pilot, lambda: "owl ━" in words(screen))
        await pilot.press("1")
        await until(pilot, lambda: "━fox" in words(screen) and "━owl" in words(screen))
        loss = screen.query_one(ChartGrid).charts[0]
        figure = loss._figure("step", 0.9)
        assert [(series.label, series.colour) for series in figure.series] == [("fox", 0), ("owl", 1)]
        assert [len(series.x) for series in figure.series] == [400, 400]
        await pilot.press("5")
        table.move_cursor(row=table.get_row_index(other.name))
        await pilot.press("o", "1")
        await until(pilot, lambda: "━owl" not in words(screen) and "loss nats" in words(screen))


async def test_stop_asks_and_no_does_nothing(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 5)
    async with Cockpit(written.run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press("exclamation_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("enter", "n")
        await until(pilot, lambda: pilot.app.screen is screen)
        await pilot.press("exclamation_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        assert not list(pilot.app._notifications)
        # nobody serves this folder, so that a command that is sent comes back refused
        await pilot.press("y")
        await until(pilot, lambda: "no supervisor" in "".join(n.message for n in pilot.app._notifications))


async def test_a_command_to_a_completed_run_answers_what_can_still_be_done(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE, notifications=True) as pilot:
        screen = await opened(pilot)
        await pilot.press("P")
        await until(pilot, lambda: "begin another from it with: llmctl" in words(screen))


async def test_help_lists_the_keys_with_what_they_do(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=LARGE) as pilot:
        screen = await opened(pilot)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))
        text = "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())
        for word in ("Leave; the run goes on", "Logarithmic or linear y axis", "Save, then end the run"):
            assert word in text
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)


# Talking to the model


async def test_letters_in_the_prompt_line_are_text_and_no_commands(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press("slash")
        await pilot.press(*"q2P!?")
        assert screen.query_one(PromptInput).value == "q2P!?"
        assert shown(screen) == "charts"
        await pilot.press("escape")
        await pilot.press("2")
        await until(pilot, lambda: shown(screen) == "samples")


async def test_the_settings_of_sampling_are_typed_into_the_prompt(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE, notifications=True) as pilot:
        screen = await opened(pilot)
        await pilot.press("i", *"/t 0.3", "enter", *"/k off", "enter", *"/n 7", "enter", *"/seed 5", "enter")
        await until(pilot, lambda: screen.prompting.sampling.seed == 5)
        assert screen.prompting.sampling.arguments("Once", seed=99) == {
            "prompt": "Once",
            "max_tokens": 7,
            "temperature": 0.3,
            "top_k": None,
            "seed": 5,
        }
        before = screen.prompting.sampling
        await pilot.press(*"/warmth 3", "enter")
        await until(pilot, lambda: "understood are" in words(screen))
        assert screen.prompting.sampling == before


async def test_a_prompt_goes_to_the_best_checkpoint_of_an_ended_run_and_failure_is_told(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press("slash", *"Lily saw", "enter")
        await until(pilot, lambda: shown(screen) == "samples")
        # the folder of this checkpoint is empty, so the worker cannot serve it
        await until(pilot, lambda: screen.state.samples[-1].is_done, seconds=60)
        sample = screen.state.samples[-1]
        assert sample.prompt == "Lily saw"
        assert sample.checkpoint == "step-00000400"
        assert sample.error


async def test_a_question_that_the_next_one_interrupts_does_not_stay_open(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press("slash", *"One", "enter", *"Two", "enter")
        await until(pilot, lambda: [s.prompt for s in screen.state.samples][-2:] == ["One", "Two"])
        assert screen.state.samples[-2].is_done
        assert screen.state.samples[-2].error == "interrupted by the next one"


async def test_enter_on_a_checkpoint_makes_it_the_one_that_answers(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press("3", "down", "enter")
        await until(pilot, lambda: "step 350 ›" in words(screen))
        assert isinstance(screen.focused, PromptInput)


async def test_text_that_streams_in_is_followed_and_shown_while_it_grows(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 200, every=10)
    async with Cockpit(written.run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press("2")
        written.tell("train", SampleChunk("r1", " a fox"))
        await until(pilot, lambda: " a fox▌" in words(screen))
        written.tell("train", SampleChunk("r1", " and an owl"))
        await until(pilot, lambda: "a fox and an owl▌" in words(screen))
        await pilot.press("home")
        await until(pilot, lambda: "a fox and an owl" not in words(screen))
        top = words(screen)
        written.tell("train", SampleChunk("r1", " and more"), CommandDone("r9", "save", ok=True, message=""))
        await until(pilot, lambda: screen.state.notes[-1].text == "save done" and screen.is_settled)
        assert words(screen) == top, "who scrolled away stays where they are"


# Several runs


async def test_without_a_run_the_list_opens_and_enter_chooses_one(runs: Runs) -> None:
    runs.completed("fox", 80)
    runs.completed("owl", 40)
    async with Cockpit(None).run_test(size=SMALL) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
        screen = pilot.app.screen
        assert isinstance(screen, CockpitScreen)
        await until(
            pilot, lambda: [t for t in screen.query("#runs-table").results(DataTable) if t.row_count == 2]
        )
        await until(
            pilot, lambda: "no run is open   5 lists them" in words(screen) and "o overlay" in words(screen)
        )
        await pilot.press("down", "enter")
        await until(pilot, lambda: "80/80" in words(screen))
        assert "no run is open" not in words(screen)
        assert shown(screen) == "charts"
        assert screen.state.status.name == "fox"


async def test_where_there_are_no_runs_one_can_be_begun_and_nothing_else_is_offered(runs: Runs) -> None:
    async with Cockpit(None).run_test(size=SMALL) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
        screen = pilot.app.screen
        assert isinstance(screen, CockpitScreen)
        await until(pilot, lambda: "there are no runs yet; n begins one" in words(screen))
        await until(pilot, lambda: "n new" in words(screen))
        assert "overlay" not in words(screen)


async def test_switching_runs_leaves_nothing_of_the_first_behind(runs: Runs) -> None:
    first, second = runs.completed("fox", 80), runs.completed("owl", 40)
    async with Cockpit(first).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        screen.open_run(second)
        await until(pilot, lambda: "40/40" in words(screen) and screen.is_settled)
        assert "80/80" not in words(screen)
        curve = screen.state.history.curve("loss_nats")
        assert curve is not None
        assert curve.x[-1] == 40


# What comes from outside


class BrokenFeed:
    link_state = "disk"

    def poll(self, timeout_seconds: float) -> list[Record]:  # noqa: ARG002
        raise RuntimeError("a bug of ours")

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


async def test_a_bug_in_the_feed_is_not_swallowed(runs: Runs) -> None:
    run = runs.completed()
    with pytest.raises(RuntimeError, match="a bug of ours"):
        async with Cockpit(run, lambda _run, _after: BrokenFeed()).run_test() as pilot:  # type: ignore[arg-type, return-value]
            await until(pilot, lambda: not pilot.app.is_running)


async def test_a_folder_that_is_gone_is_told_and_the_cockpit_stays(tmp_path: Path, runs: Runs) -> None:
    async with Cockpit(RunDir(tmp_path / "gone"), open_link).run_test(size=MIDDLE) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
        await pilot.pause(0.2)
        assert pilot.app.is_running


@pytest.mark.parametrize(
    ("size", "charts", "shape"),
    [
        ((80, 20), 6, (2, 2)),
        ((92, 29), 6, (2, 3)),
        ((172, 47), 6, (3, 2)),
        ((80, 20), 2, (2, 1)),
        ((80, 17), 1, (1, 1)),
        ((30, 6), 6, (1, 1)),
    ],
)
def test_the_grid_shows_as_many_charts_as_can_be_read(
    size: tuple[int, int], charts: int, shape: tuple[int, int]
) -> None:
    assert grid_shape(*size, charts) == shape


async def test_a_mixture_has_charts_of_its_experts_and_other_runs_have_none(runs: Runs) -> None:
    plain = runs.completed("plain", 40)
    written = runs.create("mixture", 40)
    written.begin()
    for step in range(1, 41):
        written.train(step, step)
        if step % 10 == 0:
            shares = [[0.5, 0.3, 0.2], [0.4, 0.4 + step / 1000, 0.2 - step / 1000]]
            written.tell("train", ExpertsUsed(step, 10, 1.1, 0.9, 0.5, 0.2 - step / 1000, shares, [0.8, 1.0]))
    written.end()
    written.close()
    async with Cockpit(written.run).run_test(size=LARGE) as pilot:
        screen = await opened(pilot)
        grid = screen.query_one(ChartGrid)
        await until(pilot, lambda: len(grid.offered) == 10)
        titles = {chart.spec.title for chart in grid.offered}
        assert {"busiest expert %", "idlest expert %", "balance loss", "router entropy nats"} <= titles
        curves = {m: screen.state.history.curve(m) for m in ("idlest_share", "busiest_share.1")}
        assert [curve is not None and curve.y.round(3).tolist() for curve in curves.values()] == [
            [0.19, 0.18, 0.17, 0.16],
            [0.41, 0.42, 0.43, 0.44],
        ]
        screen.open_run(plain)
        await until(pilot, lambda: len(grid.offered) == 6)


async def test_core_has_a_chart_and_a_figure_where_a_run_is_asked_for_it(runs: Runs) -> None:
    """Of the tasks that were asked first: one task that is asked in between is another scale."""
    plain = runs.completed("plain", 40)
    written = runs.create("asked", 40)
    written.begin()
    for step in range(1, 41):
        written.train(step, step)
        if step % 10 == 0:
            written.tell("train", CoreScored(step, None, step / 100, 3, ["copa"], 1.0))
    written.tell("train", CoreScored(40, None, 0.9, 1, ["copa", "piqa"], 1.0))
    written.end()
    written.close()
    async with Cockpit(written.run).run_test(size=LARGE) as pilot:
        screen = await opened(pilot)
        await until(pilot, lambda: len(screen.query_one(ChartGrid).shown) == 7)
        curve = screen.state.history.curve("mean_centred", "step")
        assert curve is not None
        assert curve.y.tolist() == [0.1, 0.2, 0.3, 0.4]
        await until(pilot, lambda: "CORE's 1" in words(screen))
        screen.open_run(plain)
        await until(pilot, lambda: len(screen.query_one(ChartGrid).shown) == 6)


async def test_the_way_out_is_named_however_little_room_there_is(runs: Runs) -> None:
    run = runs.completed("fox", 40)
    async with Cockpit(run).run_test(size=LARGE) as pilot:
        screen = await opened(pilot)
        keys = screen.query_one("#keys", Lines)
        for width in (200, 120, 80, 60, 48, 30, 20):
            await pilot.resize_terminal(width, 24)
            for number in (1, 3, 5, 8):
                await pilot.press(str(number))
                await until(pilot, lambda n=number: shown(screen) == PANES[n - 1] and screen.is_settled)  # type: ignore[misc]
                await until(pilot, lambda: keys.render_line(0).text.rstrip().endswith("q detach"))
                if number == 3 and width >= 120:
                    row = " ".join(keys.render_line(0).text.split())
                    assert "d delete ? help" in row, "keys before the names of other views"


async def test_the_curve_above_the_checkpoints_has_the_rows_that_the_table_does_not_need(runs: Runs) -> None:
    run = runs.completed("fox", 100)
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press("3")
        table = screen.query_one("#checkpoints-table", DataTable)
        await until(pilot, lambda: table.row_count == 8 and table.size.height == 9)
        assert screen.query_one("#checkpoints-chart").size.height > 20
    assert curve_rows(30, table_rows=3) == 26
    assert curve_rows(30, table_rows=40) == 12, "of a long table one sees a part"
    assert curve_rows(12, table_rows=8) == 0, "a curve of three rows says nothing"


async def test_views_that_stay_are_not_looked_through_for_garbage(runs: Runs) -> None:
    """It took 70 ms each time, in which no frame came."""
    run = runs.completed("fox", 40)
    gc.disable()  # as `run_cockpit` does, which has the process for itself
    try:
        async with Cockpit(run).run_test(size=MIDDLE) as pilot:
            await opened(pilot)
            await until(pilot, lambda: not any(isinstance(thing, Pane) for thing in gc.get_objects()))
            assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.enable()
