"""The first view: the curves, the figures beside them, and the latest words. It is the one that must be read at a glance,
over ssh, in whatever corner of a terminal is left: the grid shows as many charts as are legible and pages the rest."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.widgets import ContentSwitcher

from tui.chart.figure import Figure
from tui.chart.marks import legend
from tui.chart.scene import to_axis
from tui.chart.symbols import Symbols
from tui.chart.view import Bounds
from tui.chart.widget import Chart
from tui.figures import CHARTS, ChartSpec, along, figure, first_view, happenings
from tui.headline import READINGS_WIDTH, note_line, preparation, readings, sample_text, sample_title, strip
from tui.ink import palette_of
from tui.key_names import cockpit_of
from tui.overlay import Overlay
from tui.panes.pane import Pane
from tui.run_state import Area, RunState
from tui.store import XAxis
from tui.widgets.lines import Lines
from tui.widgets.ready import Backdrop, Side, Views

LEAST_CHART = (36, 8)
"""Cells (wide, high) below which a chart says too little."""
BEST_ASPECT = 3.2
"""Width over height, in cells: the eye reads slopes best near 45 degrees."""
WIDE = 100
"""From this width on there is room for the column of figures."""
PREPARING_MARGIN = 12
LEAST_REACH, REACH_SHARE = 50, 0.05
"""Steps before and after one that is looked at: so many, or this share of the run."""
TALL = 32
"""From this height on there is room for the latest words."""


def grid_shape(width: int, height: int, charts: int) -> tuple[int, int]:
    """(columns, rows) that show the most of `charts` legibly, then those nearest to the best aspect."""

    def worth(shape: tuple[int, int]) -> tuple[int, float]:
        columns, rows = shape
        aspect = (width / columns) / (height / rows)
        return min(columns * rows, charts), -max(aspect / BEST_ASPECT, BEST_ASPECT / aspect)

    shapes = [
        (columns, rows)
        for columns in range(1, min(3, charts) + 1)
        for rows in range(1, -(-charts // columns) + 1)
        if width // columns >= LEAST_CHART[0] and height // rows >= LEAST_CHART[1]
    ]
    return max(shapes, key=worth, default=(1, 1))


class RunChart(Chart):
    """A chart of one metric of the run in sight."""

    def __init__(self, spec: ChartSpec, symbols: Symbols) -> None:
        super().__init__(self._figure, id=f"chart-{spec.name}")
        self.set_reactive(Chart.symbols, symbols)
        self.spec = spec
        self.state: RunState | None = None
        self.others: Sequence[RunState] = ()
        self._first_view = first_view(spec, None)
        self.set_reactive(Chart.view, self._first_view)

    def look_at(self, state: RunState) -> None:
        """Show this run from the next drawing on. How long it is going to be may come to be known after its first frame: until
        the reader has looked differently, the smoothing follows."""
        wanted = first_view(self.spec, state.status.total_steps)
        is_another = self.state is not state
        is_as_it_was = self.view == self._first_view
        self.state, self._first_view = state, wanted
        if is_another or (is_as_it_was and self.view != wanted):
            self.forget_axes()
            self.set_reactive(Chart.view, wanted)

    def _redraw(self, previous: Bounds | None) -> None:
        if self.state is not None:  # else it is laid out before there is a run to draw
            super()._redraw(previous)

    @property
    def has_points(self) -> bool:
        """Whether the run in sight has reported the metric."""
        return self.state is not None and self.spec.metric in self.state.history.metrics

    def _figure(self, axis: XAxis, decay: float) -> Figure:
        if self.state is None:
            return Figure(self.spec.title)
        return figure(self.state, self.spec, axis, decay, self.others)


class ChartGrid(Container, Backdrop):
    """As many charts as can be read; the others are pages away. One of them can have it all."""

    DEFAULT_CSS = """
    ChartGrid { layout: grid; grid-gutter: 0 2; height: 1fr; width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "enlarge", "Enlarge", id="charts.enlarge", tooltip="This chart alone; esc goes back"
        ),
        Binding(
            "e",
            "export",
            "Export",
            id="charts.export",
            tooltip="Write this chart to a file: .svg, .png or .csv",
        ),
    ]

    class Arranged(Message):
        """Other charts are in sight, or in other places."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, ChartGrid.Arranged)

    class ExportWanted(Message):
        """Write this chart to a file."""

        def __init__(self, chart: RunChart) -> None:
            super().__init__()
            self.chart = chart

    def __init__(self, overlay: Overlay, symbols: Symbols) -> None:
        super().__init__(id="grid")
        self._overlay = overlay
        self._symbols = symbols
        self.charts: Sequence[RunChart] = ()
        """All of them, in sight or not."""
        self._page = 0
        self._per_page = len(CHARTS)
        self._alone: RunChart | None = None
        self._arranged: Sequence[RunChart] = ()
        """Those among which the pages were divided."""

    def compose(self) -> ComposeResult:
        self.charts = [RunChart(spec, self._symbols) for spec in CHARTS]
        yield from self.charts

    @property
    def offered(self) -> list[RunChart]:
        """Those that say something about the run in sight."""
        return [chart for chart in self.charts if not chart.spec.is_optional or chart.has_points]

    @property
    def shown(self) -> list[RunChart]:
        return [chart for chart in self.charts if chart.display]

    @property
    def page_words(self) -> str:
        """Which page is in sight, where there are several."""
        pages = -(-len(self.offered) // self._per_page)
        names = cockpit_of(self.app).key_names
        page = f"{names['pane.back']} page {self._page + 1}/{pages} {names['pane.on']}"
        return "" if pages == 1 or self._alone else page

    def draw(self, state: RunState) -> None:
        for chart in self.charts:
            chart.look_at(state)
            chart.others = self._overlay.states
        if self.offered != self._arranged:
            self._arrange()
        for chart in self.charts:
            if chart.display:
                chart.redraw()

    def on_resize(self) -> None:
        self._arrange()

    def turn(self, pages: int) -> None:
        if self._alone is not None:
            charts = self.offered
            self._alone = charts[(charts.index(self._alone) + pages) % len(charts)]
        else:
            self._page += pages
        self._arrange()
        if self.shown:
            self.shown[0].focus()

    def action_enlarge(self) -> None:
        if isinstance(chart := self.screen.focused, RunChart):
            self._alone = None if self._alone is chart else chart
            self._arrange()

    def action_export(self) -> None:
        if isinstance(chart := self.screen.focused, RunChart):
            self.post_message(self.ExportWanted(chart))

    def look_at(self, state: RunState, step: int) -> None:
        """Put the crosshair of all charts on a step, with some of what was before and after it around."""
        chart = self.charts[0]
        reach = max(LEAST_REACH, round(state.status.step * REACH_SHARE))
        places = along(state, [max(step - reach, 1), step, step + reach], chart.x_axis)
        ends = [to_axis(place, log=chart.view.log_x) for place in places]
        if len(ends) == 3 and ends[0] < ends[2]:
            chart.view = replace(chart.view, x_span=ends[2] - ends[0], x_end=ends[2], cursor=ends[1], y=None)

    def go_back(self) -> bool:
        """From one chart to all, then the crosshair away."""
        chart = self.charts[0]
        if self._alone is not None:
            self._alone = None
            self._arrange()
        elif chart.view.cursor is not None:
            chart.view = replace(chart.view, cursor=None, anchor=None)
        else:
            return False
        return True

    def _arrange(self) -> None:
        width, height = self.size
        charts = self.offered
        if not (width and height and charts):
            return
        self._arranged = charts
        if self._alone not in charts:
            self._alone = None
        if self._alone is not None:
            page: Sequence[RunChart] = [self._alone]
        else:
            columns, rows = grid_shape(width, height, len(charts))
            size = self._per_page = columns * rows
            self._page %= -(-len(charts) // size)
            page = charts[self._page * size : (self._page + 1) * size]
        columns, rows = grid_shape(width, height, len(page))
        self.styles.grid_size_columns, self.styles.grid_size_rows = columns, rows
        for chart in self.charts:
            chart.display = chart in page
        self.post_message(self.Arranged())

    @on(Chart.Looked)
    def _look_alike(self, message: Chart.Looked) -> None:
        """The window, the crosshair, the marks and the x axis are shared; scale and smoothing are each chart's own."""
        view = message.chart.view
        for chart in self.charts:
            if chart is message.chart:
                continue
            if chart.x_axis != message.chart.x_axis:
                chart.x_axis = message.chart.x_axis
            wanted = replace(
                chart.view,
                x_span=view.x_span,
                x_end=view.x_end,
                log_x=view.log_x,
                cursor=view.cursor,
                anchor=view.anchor,
                shows_marks=view.shows_marks,
            )
            if chart.view != wanted:
                with chart.prevent(Chart.Looked):
                    chart.view = wanted


class ChartsPane(Pane):
    DEFAULT_CSS = f"""
    ChartsPane {{ layout: vertical; }}
    ChartsPane #strip {{ height: 1; display: none; margin-bottom: 0; }}
    ChartsPane #upper {{ height: 1fr; padding: 0 1; }}
    ChartsPane #switch {{ height: 1fr; width: 1fr; }}
    ChartsPane #readings {{ width: {READINGS_WIDTH}; height: 1fr; margin-left: 3; }}
    ChartsPane #lower {{ height: 7; padding: 0 1; margin-top: 1; }}
    ChartsPane #sample {{ height: 1fr; width: 1fr; margin-right: 3; }}
    ChartsPane #events {{ height: 1fr; width: 1fr; }}
    ChartsPane #preparing {{ height: 1fr; padding: 2 4; }}
    ChartsPane.-narrow #strip {{ display: block; }}
    ChartsPane.-narrow #readings {{ display: none; }}
    ChartsPane.-preparing #strip, ChartsPane.-preparing #readings {{ display: none; }}
    ChartsPane.-narrow #upper {{ padding: 0; }}
    ChartsPane.-low #lower {{ display: none; }}
    """

    def __init__(self, overlay: Overlay, symbols: Symbols, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._overlay = overlay
        self._symbols = symbols
        self._state: RunState | None = None

    def compose(self) -> ComposeResult:
        yield Lines(id="strip")
        with Side(id="upper"):
            with Views(initial="grid", id="switch"):
                yield ChartGrid(self._overlay, self._symbols)
                yield Lines(id="preparing")
            yield Lines(id="readings")
        with Side(id="lower"):
            yield Lines(id="sample")
            yield Lines(id="events")

    def on_resize(self) -> None:
        self.set_class(self.size.width < WIDE, "-narrow")
        self.set_class(self.size.height < TALL, "-low")

    @on(ChartGrid.Arranged)
    def _draw_around(self) -> None:
        """The grid is laid out last: by now all sizes are known."""
        if self._state is not None:
            self.draw(self._state, {"status", "samples", "notes"})

    def draw(self, state: RunState, changed: set[Area]) -> None:
        self._state = state
        ink = palette_of(self.app)
        self.set_class(state.is_preparing, "-preparing")
        switch = self.query_one("#switch", ContentSwitcher)
        in_sight = "preparing" if state.is_preparing else "grid"
        if switch.current != in_sight:
            # by hand, or the focus of a chart that hides moves on to the prompt line, where keys are text
            grid = self.query_one(ChartGrid)
            if in_sight == "preparing" and self.screen.focused in grid.charts:
                self.screen.set_focus(None)
            switch.current = in_sight
            if in_sight == "grid" and self.screen.focused is None:
                grid.charts[0].focus()
        if in_sight == "preparing":
            # not the width of the lines, which were never laid out while the grid was there
            self.query_one("#preparing", Lines).show(
                preparation(state, self.size.width - PREPARING_MARGIN, ink)
            )
        elif changed & {"curves", "checkpoints"}:
            self.query_one(ChartGrid).draw(state)
        if self.has_class("-narrow"):
            page = self.query_one(ChartGrid).page_words
            self.query_one("#strip", Lines).show([strip(state, page, self.size.width, ink)])
        else:
            column = self.query_one("#readings", Lines)
            column.show(readings(state, column.size.height, ink))
        if not self.has_class("-low"):
            if "samples" in changed:
                self._draw_sample(state)
            if "notes" in changed:
                self._draw_events(state)

    def _draw_events(self, state: RunState) -> None:
        """The latest words, under what the marks on the charts stand for."""
        ink = palette_of(self.app)
        events, chart = self.query_one("#events", Lines), self.query_one(ChartGrid).charts[0]
        room = max(events.size.height - 1, 1)
        latest = [note_line(note, ink) for note in list(state.notes)[-room:]]
        kinds = happenings(state) if chart.view.shows_marks else ()
        heading = Text.assemble(("events  ", ink.muted), legend(kinds, ink, chart.symbols))
        events.show([heading, *latest])

    @on(Chart.Looked)
    def _draw_legend(self) -> None:
        if self._state is not None and not self.has_class("-low"):
            self._draw_events(self._state)

    def _draw_sample(self, state: RunState) -> None:
        ink = palette_of(self.app)
        box = self.query_one("#sample", Lines)
        width, room = box.size.width, max(box.size.height - 1, 1)
        if not state.samples or not width:
            box.show([Text("samples", ink.muted), Text("none yet", ink.muted)])
            return
        sample = state.samples[-1]
        lines = sample_text(sample, ink).wrap(self.app.console, width)
        title = Text.assemble(("sample  ", ink.muted), sample_title(sample, ink))
        box.show([title, *(lines[:room] if sample.is_done else lines[-room:])])

    def to_copy(self, state: RunState) -> tuple[str, str]:
        lines = [line.plain.rstrip() for line in readings(state, 1000, palette_of(self.app))]
        return "the figures", f"{state.status.name}, step {state.status.step}\n\n" + "\n".join(lines) + "\n"

    def turn(self, pages: int) -> None:
        self.query_one(ChartGrid).turn(pages)

    def go_back(self) -> bool:
        return self.query_one(ChartGrid).go_back()
