"""The chart as a Textual widget on the Line API. It asks its source for the figure, draws it, and refreshes only the rows that differ
from the last drawing: a quarter of the bytes of a full repaint, and a still chart costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip

from tui.chart import view as views
from tui.chart.axis import Span
from tui.chart.draw import GUTTER, Memory, Row, draw
from tui.chart.figure import Figure
from tui.chart.palette import Palette
from tui.chart.scene import on_a_point, x_extent
from tui.chart.symbols import BRAILLE, Symbols
from tui.chart.view import Bounds, View
from tui.ink import palette_of
from tui.store import X_AXES, XAxis
from tui.widgets.ready import Ground, ReadyRows

FigureSource = Callable[[XAxis, float], Figure]
"""(x axis, smoothing decay or 0) -> what to draw now. Called once for each drawing."""


class Chart(ReadyRows, can_focus=True):
    """One figure, looked at through a `View` that the keys change. Call `redraw` when its source has something new."""

    DEFAULT_CSS = """
    Chart { height: 1fr; width: 1fr; min-height: 5; min-width: 24; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "toggle_log", "Log y", id="chart.log_y", tooltip="Logarithmic or linear y axis"),
        Binding(
            "X",
            "toggle_log_x",
            "Log x",
            id="chart.log_x",
            tooltip="Logarithmic or linear x axis",
        ),
        Binding(
            "o",
            "toggle_clip",
            "Clip",
            id="chart.clip",
            tooltip="Scale y to the 1st..99th percentile, so that spikes do not flatten the rest",
        ),
        Binding("s", "smooth(1)", "Smoother", id="chart.smoother", tooltip="Average over more points"),
        Binding(
            "S", "smooth(-1)", "Rawer", id="chart.rawer", tooltip="Average over fewer points, down to none"
        ),
        Binding(
            "plus,equals_sign",
            "zoom_in",
            "Zoom in",
            id="chart.zoom_in",
            tooltip="Narrow the window, about the crosshair if there is one",
        ),
        Binding("minus", "zoom_out", "Zoom out", id="chart.zoom_out", tooltip="Widen the window"),
        Binding(
            "H",
            "pan(-1)",
            "Pan left",
            id="chart.pan_left",
            tooltip="Move the window a quarter of itself back",
        ),
        Binding(
            "L",
            "pan(1)",
            "Pan right",
            id="chart.pan_right",
            tooltip="Move the window a quarter of itself on, until it follows the tail",
        ),
        Binding(
            "f", "follow", "Follow", id="chart.follow", tooltip="Show the newest points and keep up with them"
        ),
        Binding("z", "fit", "Fit", id="chart.fit", tooltip="Show everything"),
        Binding(
            "c",
            "toggle_cursor",
            "Crosshair",
            id="chart.cursor",
            tooltip="Show or hide the crosshair that reads values off",
        ),
        Binding(
            "m",
            "toggle_anchor",
            "Measure from here",
            id="chart.anchor",
            tooltip="Read values as differences from where the crosshair is now",
        ),
        Binding(
            "M",
            "toggle_marks",
            "Marks",
            id="chart.marks",
            tooltip="Show or hide what happened: checkpoints, restarts, rollbacks, spikes, skipped steps, changed values",
        ),
        Binding("K", "zoom_y(1)", "Zoom in y", id="chart.zoom_in_y", tooltip="Narrow the y axis"),
        Binding("J", "zoom_y(-1)", "Zoom out y", id="chart.zoom_out_y", tooltip="Widen the y axis"),
        Binding("up", "pan_y(1)", "Pan up", id="chart.pan_up", tooltip="Move the y axis up", show=False),
        Binding(
            "down", "pan_y(-1)", "Pan down", id="chart.pan_down", tooltip="Move the y axis down", show=False
        ),
        Binding(
            "left",
            "move_cursor(-1)",
            "Crosshair left",
            id="chart.cursor_left",
            tooltip="Read one column further left",
            show=False,
        ),
        Binding(
            "right",
            "move_cursor(1)",
            "Crosshair right",
            id="chart.cursor_right",
            tooltip="Read one column further right",
            show=False,
        ),
        Binding(
            "x",
            "next_x_axis",
            "X axis",
            id="chart.x_axis",
            tooltip="Step, wall time, tokens or FLOPs along the x axis",
        ),
    ]

    view: reactive[View] = reactive(View(), repaint=False, init=False)
    x_axis: reactive[XAxis] = reactive[XAxis]("step", repaint=False, init=False)
    symbols: reactive[Symbols] = reactive(BRAILLE, repaint=False, init=False)

    class Looked(Message):
        """The reader looks at this chart differently: others may follow, with the crosshair for one."""

        def __init__(self, chart: Chart) -> None:
            super().__init__()
            self.chart = chart

        @property
        def control(self) -> Chart:
            return self.chart

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, Chart.Looked) and message.chart is self.chart

    def __init__(self, source: FigureSource, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id, classes=classes)
        self._source = source
        self._data: Span | None = None
        self._bounds: Bounds | None = None
        self._rows: list[Row] = []
        self._memory = Memory()
        self._drawn_on: tuple[int, int, Ground] | None = None
        """Width, height and ground of what was drawn last."""

    def redraw(self) -> None:
        """Ask the source, draw, and refresh the rows that changed."""
        self._redraw(self._bounds)

    def shown_figure(self) -> tuple[Figure, View]:
        """What it shows, and how."""
        return self._source(self.x_axis, self.view.smoothing), self.view

    def forget_axes(self) -> None:
        """The next drawing finds the ends of its axes anew."""
        self._bounds = None

    def _redraw(self, previous: Bounds | None) -> None:
        width, height = self.size
        if not (self.is_attached and width and height):
            return
        figure = self._source(self.x_axis, self.view.smoothing)
        drawing = draw(
            figure,
            self.view,
            width,
            height,
            self._palette(),
            symbols=self.symbols,
            previous=previous,
            memory=self._memory,
        )
        self._data, self._bounds = x_extent(figure, log_x=self.view.log_x), drawing.bounds
        ground = self.ground
        is_new = (width, len(drawing.rows), ground) != self._drawn_on
        changed = [y for y, row in enumerate(drawing.rows) if is_new or row != self._rows[y]]
        self._rows, self._drawn_on = drawing.rows, (width, len(drawing.rows), ground)
        if is_new:
            self._strips = [Strip.blank(width)] * len(drawing.rows)
        for y in changed:
            self._strips[y] = self.filtered(Strip(drawing.rows[y], width).apply_style(ground.style))
        if is_new:
            self.refresh()
        elif changed:
            self.refresh(*(Region(0, y, width, 1) for y in changed))

    def _palette(self) -> Palette:
        palette = palette_of(self.app)
        if self.has_focus:
            return replace(palette, title=palette.title + Style(underline=True))
        return palette

    # What makes a chart draw itself again

    def on_resize(self) -> None:
        self.redraw()

    def on_focus(self) -> None:
        self.redraw()

    def on_blur(self) -> None:
        self.redraw()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self.redraw()

    def watch_view(self, before: View, after: View) -> None:
        # A crosshair and marks leave the axes alone; any other change is a wish to see other axes.
        with_these = replace(before, cursor=after.cursor, anchor=after.anchor, shows_marks=after.shows_marks)
        self._redraw(self._bounds if with_these == after else None)
        self.post_message(self.Looked(self))

    def watch_x_axis(self) -> None:
        self._bounds = None
        # Steps mean nothing as seconds: a window does not survive the change of axis.
        self.set_reactive(Chart.view, replace(self.view.fitted(), cursor=None, anchor=None))
        self._redraw(None)
        self.post_message(self.Looked(self))

    def watch_symbols(self) -> None:
        self.redraw()

    # The mouse, where the reader wants it

    def on_click(self, event: events.Click) -> None:
        if (place := self._place_of(event.x)) is not None:
            self._read_at(place)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._zoom_at(event, views.ZOOM_IN)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._zoom_at(event, views.ZOOM_OUT)

    def _zoom_at(self, event: events.MouseEvent, factor: float) -> None:
        """Zoom about the pointer."""
        place = self._place_of(event.x)
        if place is None or not (self._bounds and self._data):
            return
        event.stop()
        about = replace(self.view, cursor=place).zoomed(factor, self._bounds, self._data)
        self.view = replace(about, cursor=self.view.cursor)

    def _place_of(self, column: int) -> float | None:
        """The x under a column of cells, in axis units; None beside the data."""
        if self._bounds is None or not GUTTER <= column < self.size.width:
            return None
        share = (column - GUTTER + 0.5) / (self.size.width - GUTTER)
        return self._bounds.x[0] + share * self._bounds.x_span

    # Keys

    def action_toggle_log(self) -> None:
        self.view = replace(self.view, log_y=not self.view.log_y, y=None)

    def action_toggle_log_x(self) -> None:
        self.view = self.view.with_log_x_toggled()

    def action_toggle_clip(self) -> None:
        self.view = replace(self.view, clip=not self.view.clip)

    def action_smooth(self, stops: int) -> None:
        self.view = self.view.smoothed(stops)

    def action_zoom_in(self) -> None:
        self._zoom(views.ZOOM_IN)

    def action_zoom_out(self) -> None:
        self._zoom(views.ZOOM_OUT)

    def action_pan(self, direction: int) -> None:
        if self._bounds and self._data:
            self.view = self.view.panned(direction * views.PAN_SHARE, self._bounds, self._data)

    def action_follow(self) -> None:
        if self._data:
            self.view = self.view.following(self._data)

    def action_fit(self) -> None:
        self.view = self.view.fitted()

    def action_toggle_cursor(self) -> None:
        if self.view.cursor is None:
            self.action_move_cursor(0)
        else:
            self.view = replace(self.view, cursor=None)

    def action_toggle_anchor(self) -> None:
        if self.view.cursor is None:
            self.action_move_cursor(0)
        self.view = self.view.with_anchor_toggled()

    def action_toggle_marks(self) -> None:
        self.view = replace(self.view, shows_marks=not self.view.shows_marks)

    def action_zoom_y(self, direction: int) -> None:
        if self._bounds:
            factor = views.ZOOM_IN if direction > 0 else views.ZOOM_OUT
            self.view = self.view.with_y_zoomed(factor, self._bounds)

    def action_pan_y(self, direction: int) -> None:
        if self._bounds:
            self.view = self.view.with_y_panned(direction * views.Y_PAN_SHARE, self._bounds)

    def action_move_cursor(self, cells: int) -> None:
        if self._bounds and self._data:
            cell = self._bounds.x_span / (self.size.width - GUTTER)
            self._read_at(self.view.cursor_moved(cells * cell, self._bounds, self._data), self.view.cursor)

    def _read_at(self, place: float, origin: float | None = None) -> None:
        """Put the crosshair on the point that is nearest: between two there is nothing to read."""
        if self._bounds is not None:
            figure, view = self.shown_figure()
            cursor = on_a_point(figure, place, self._bounds.x, origin, log_x=view.log_x)
            self.view = replace(view, cursor=cursor)

    def action_next_x_axis(self) -> None:
        self.x_axis = X_AXES[(X_AXES.index(self.x_axis) + 1) % len(X_AXES)]

    def _zoom(self, factor: float) -> None:
        if self._bounds and self._data:
            self.view = self.view.zoomed(factor, self._bounds, self._data)
