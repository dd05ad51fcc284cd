"""What `tests.bench.cockpit` measures, each run as a process on a pty of its own:

    cockpit    the whole cockpit as it comes, six charts (five of them with points), on runs whose records come from memory, so
               that the columns hold every point
    cockpit4   the same with four charts, each with all points
    charts     four of our charts and nothing else
    plotext    the same four with textual-plotext, given all points
    plotext2   the same, given two points a pixel column, as one would who knows that it is slow

Each writes a byte to the pipe REPORT for every update that it was given, once all runs have their history.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Grid
from textual.widget import Widget
from textual.widgets import Static

from tests.tui.conftest import WrittenRun
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import RunDir, create_run
from trainer_daemon.contract.spec import RunSpec
from tui.app import Cockpit
from tui.chart.figure import Figure, Series
from tui.chart.view import View
from tui.chart.widget import Chart
from tui.feed import FeedOpener, LinkState
from tui.figures import CHARTS
from tui.panes import charts
from tui.panes.charts import ChartGrid
from tui.screen_diff import DiffedApp
from tui.screens.cockpit import CockpitScreen
from tui.store import Column, Ema, FloatArray, XAxis
from tui.terminal import is_writing

UPDATE_SECONDS = 0.1
BATCH = 5000
SHOWN = 4
TAIL_SHARE = 0.1
NAMES = ("fox", "owl", "hen", "elk")


def report() -> None:
    os.write(int(os.environ["REPORT"]), b".")


class MemoryFeed:
    """All steps so far at once, then one each tenth of a second."""

    link_state: LinkState = "disk"

    def __init__(self, written: WrittenRun, steps: int, on_update: Callable[[], None]) -> None:
        self._records = self._steps_of(written)
        self._waiting = steps
        self._due = 0.0
        self._on_update = on_update

    def _steps_of(self, written: WrittenRun) -> Iterator[Record]:
        for step in range(1, sys.maxsize):
            now = time.time()
            yield Record("train", step + 10, now, now, 1, "train_step", written.step(step))

    def poll(self, timeout_seconds: float) -> list[Record]:
        if self._waiting:
            many = min(BATCH, self._waiting)
            self._waiting -= many
            return [next(self._records) for _ in range(many)]
        now = time.monotonic()
        if now < self._due:
            time.sleep(min(timeout_seconds, self._due - now))
            return []
        self._due = max(self._due + UPDATE_SECONDS, now)
        self._on_update()
        return [next(self._records)]

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


def cockpit(steps: int, runs: int, view: str) -> None:
    """The cockpit on the first of `runs` runs, the others laid over it."""
    written: dict[str, WrittenRun] = {}
    for name in NAMES[:runs]:
        run, lock = create_run(name, RunSpec())
        written[name] = WrittenRun(run, lock, total_steps=round(steps * 1.2))
        written[name].begin()

    def open_feed(run: RunDir, _after: dict[str, int]) -> MemoryFeed:
        is_first = run.name == NAMES[0]
        return MemoryFeed(written[run.name], steps, app.report if is_first else lambda: None)

    def prepare(screen: CockpitScreen) -> None:
        for name in NAMES[1:runs]:
            screen.overlay.toggle(written[name].run)
        if view == "tail":
            chart = screen.query_one(ChartGrid).charts[0]
            chart.view = replace(chart.view, x_span=TAIL_SHARE * steps)

    app = PreparedCockpit(written[NAMES[0]].run, open_feed, prepare, steps, runs)
    app.run(mouse=False)
    for held in written.values():
        held.close()


class PreparedCockpit(Cockpit):
    """A cockpit to which something is done once its screen stands."""

    def __init__(
        self,
        run: RunDir,
        open_feed: FeedOpener,
        prepare: Callable[[CockpitScreen], None],
        steps: int,
        runs: int,
    ) -> None:
        super().__init__(run, open_feed)
        self._prepare = prepare
        self._steps, self._runs = steps, runs
        self._has_history = False

    def report(self) -> None:
        if self._has_history:
            report()

    def on_mount(self) -> None:
        self._looking = self.set_interval(0.05, self._look)

    def _look(self) -> None:
        screen = self.screen
        if isinstance(screen, CockpitScreen) and screen.state.history.metrics:
            if self._prepare is not _done:
                prepare, self._prepare = self._prepare, _done
                prepare(screen)
            curves = [s.history.curve("loss_nats") for s in (screen.state, *screen.overlay.states)]
            if len(curves) == self._runs and all(c is not None and len(c.x) >= self._steps for c in curves):
                self._has_history = True
                self._looking.stop()


def _done(_screen: CockpitScreen) -> None: ...


class Curve:
    """Loss-like noise that grows by a point at a time, with its exponential mean."""

    def __init__(self, points: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._total = 2 * points
        self._ema = Ema(0.98)
        self._columns = Column(), Column(), Column()
        self.grow(points)

    def grow(self, points: int = 1) -> None:
        x = np.arange(len(self._columns[0]), len(self._columns[0]) + points, dtype=np.float64)
        y = 1.5 + 6 * np.exp(-x / self._total / 0.05) + self._random.normal(0, 0.1, points)
        for column, added in zip(self._columns, (x, y, self._ema.extend(y)), strict=True):
            column.extend(added)
        self.x, self.y, self.smooth = (column.values for column in self._columns)

    def seen(self, view: str) -> slice:
        return slice(round(-TAIL_SHARE * len(self.x)), None) if view == "tail" else slice(None)


class FourCharts(DiffedApp[None]):
    """Each update adds a point to each curve and draws all four. `c` shows or hides a word."""

    CSS = "Grid { grid-size: 2 2; height: 1fr; } Static#word { height: 1; }"
    BINDINGS = [Binding("c", "word", "word")]  # noqa: RUF012  as Textual writes them

    def __init__(self, points: int, curves: int, view: str) -> None:
        super().__init__()
        self._curves = [
            [Curve(points, 10 * chart + curve) for curve in range(curves)] for chart in range(SHOWN)
        ]
        self._view = view

    def compose(self) -> ComposeResult:
        yield Static("word -", id="word")
        with Grid():
            yield from self.charts()

    def charts(self) -> Iterator[Widget]:
        raise NotImplementedError

    def draw(self) -> None:
        raise NotImplementedError

    def on_mount(self) -> None:
        self.set_interval(UPDATE_SECONDS, self._update)

    def _update(self) -> None:
        for curves in self._curves:
            for curve in curves:
                curve.grow()
        self.draw()
        report()

    def action_word(self) -> None:
        word = self.query_one("#word", Static)
        word.update("word !" if str(word.content) == "word -" else "word -")


class OurCharts(FourCharts):
    def charts(self) -> Iterator[Widget]:
        for index, curves in enumerate(self._curves):
            chart = Chart(partial(self._figure, curves), id=f"chart-{index}")
            span = TAIL_SHARE * len(curves[0].x) if self._view == "tail" else None
            chart.set_reactive(Chart.view, View(x_span=span))
            yield chart

    @staticmethod
    def _figure(curves: list[Curve], axis: XAxis, _decay: float) -> Figure:
        series = [Series(NAMES[i], c.x, c.y, c.smooth, colour=i) for i, c in enumerate(curves)]
        return Figure("loss", series, x_axis=axis)

    def draw(self) -> None:
        if not is_writing(self):
            for chart in self.query(Chart):
                chart.redraw()


def plotext(points: int, curves: int, view: str, per_column: int | None) -> App[None]:
    from textual_plotext import PlotextPlot

    class PlotextCharts(FourCharts):
        IS_DIFFED = False  # as Textual comes

        def charts(self) -> Iterator[Widget]:
            for index in range(SHOWN):
                yield PlotextPlot(id=f"chart-{index}")

        def draw(self) -> None:
            for widget, curves in zip(self.query(PlotextPlot), self._curves, strict=True):
                widget.plt.clear_data()
                for curve in curves:
                    seen = curve.seen(self._view)
                    columns = 2 * widget.size.width * (per_column or 0)
                    x, raw = thinned(curve.x[seen], curve.y[seen], columns)
                    _, mean = thinned(curve.x[seen], curve.smooth[seen], columns)
                    widget.plt.plot(x, raw, marker="braille")
                    widget.plt.plot(x, mean, marker="braille")
                widget.refresh()

    return PlotextCharts(points, curves, view)


def thinned(x: FloatArray, y: FloatArray, most: int) -> tuple[list[float], list[float]]:
    """The least and the greatest of each of most / 2 stretches; all points for 0."""
    if not 0 < most < len(x):
        return x.tolist(), y.tolist()
    whole = len(x) // (most // 2) * (most // 2)
    blocks = y[len(y) - whole :].reshape(most // 2, -1)
    ends = np.stack((blocks.min(1), blocks.max(1)), 1).ravel()
    places = np.linspace(x[len(x) - whole], x[-1], len(ends))
    return places.tolist(), ends.tolist()


def main(what: str, points: int, runs: int, view: str) -> None:
    match what:
        case "cockpit":
            cockpit(points, runs, view)
        case "cockpit4":
            with_all_points = [chart for chart in CHARTS if chart.metric != "val_bpb"]
            setattr(charts, "CHARTS", tuple(with_all_points[:SHOWN]))  # noqa: B010  no option of the cockpit
            cockpit(points, runs, view)
        case "charts":
            OurCharts(points, runs, view).run(mouse=False)
        case "plotext":
            plotext(points, runs, view, None).run(mouse=False)
        case "plotext2":
            plotext(points, runs, view, 2).run(mouse=False)
        case _:
            raise ValueError(what)
