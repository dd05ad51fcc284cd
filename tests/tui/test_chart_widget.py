"""The chart inside a real Textual app: keys change what is seen, and only rows that differ are painted again."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec

import numpy as np
import pytest
from textual.app import App, ComposeResult
from textual.events import MouseScrollUp
from textual.geometry import Region
from textual.widget import Widget

from tui.chart.draw import GUTTER
from tui.chart.figure import Figure, Series
from tui.chart.view import SMOOTHING_DECAYS, View
from tui.chart.widget import Chart
from tui.store import RunHistory, XAxis

P = ParamSpec("P")


def in_event_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def body() -> None:
            await test(*args, **kwargs)

        asyncio.run(body())

    return run


class OneChart(App[None]):
    """A falling loss of 400 steps, and room for more."""

    def __init__(self) -> None:
        super().__init__()
        self.history = RunHistory()
        step = np.arange(400.0)
        loss = 1 + 9 * np.exp(-step / 80)
        self.history.extend(
            "step", step=step, seconds=step * 2, tokens=step * 512, values={"loss_nats": loss}
        )
        self.metric = "loss_nats"
        self.seen: list[View] = []

    def figure(self, x_axis: XAxis, decay: float) -> Figure:
        curve = self.history.curve(self.metric, x_axis, decay)
        assert curve is not None
        return Figure("loss", [Series("run", curve.x, curve.y, curve.smooth)], x_axis=x_axis)

    def compose(self) -> ComposeResult:
        yield Chart(self.figure)

    def on_chart_looked(self, message: Chart.Looked) -> None:
        self.seen.append(message.chart.view)

    def add_step(self, step: int, loss: float) -> None:
        self.history.append(
            "step", step=step, seconds=2 * step, tokens=512 * step, values={"loss_nats": loss}
        )

    @property
    def chart(self) -> Chart:
        return self.query_one(Chart)

    def view(self) -> View:
        return self.chart.view

    def rows(self) -> list[str]:
        return [self.chart.render_line(y).text for y in range(self.chart.size.height)]


@in_event_loop
async def test_the_chart_fills_its_place_and_follows_its_size() -> None:
    app = OneChart()
    async with app.run_test(size=(60, 16)) as pilot:
        assert [len(row) for row in app.rows()] == [60] * 16
        assert app.rows()[0].startswith("loss ━run 1.")
        await pilot.resize_terminal(80, 20)
        await pilot.pause()
        assert [len(row) for row in app.rows()] == [80] * 20


@in_event_loop
async def test_a_new_point_refreshes_only_the_rows_it_changes() -> None:
    app = OneChart()
    async with app.run_test(size=(60, 16)) as pilot:
        await pilot.pause()
        refreshed: list[int | str] = []
        refresh = app.chart.refresh

        def record(*regions: Region, **options: bool) -> Widget:
            refreshed.extend([region.y for region in regions] or ["everything"])
            return refresh(*regions, **options)

        app.chart.refresh = record  # type: ignore[method-assign, assignment]  # listens in, then does the real thing
        before = app.rows()
        app.chart.redraw()
        assert refreshed == []

        app.add_step(408, 1.05)
        app.chart.redraw()
        changed = [y for y, (old, new) in enumerate(zip(before, app.rows(), strict=True)) if old != new]
        assert refreshed == changed
        assert 0 < len(changed) <= 3
        assert 0 in changed  # the legend's newest value


@in_event_loop
async def test_what_is_on_the_screen_is_what_was_drawn() -> None:
    app = OneChart()
    async with app.run_test(size=(60, 16)) as pilot:
        for step in range(401, 460, 7):
            app.add_step(step, 1.0 + step % 5)
            app.chart.redraw()
            await pilot.pause()
            on_screen = [strip.text for strip in app.screen._compositor.render_strips()]
            assert on_screen == app.rows()


@in_event_loop
async def test_keys_change_the_view() -> None:
    app = OneChart()
    async with app.run_test(size=(60, 16)) as pilot:
        app.chart.focus()
        at_rest = app.view().smoothing
        await pilot.press("y", "o", "s")
        stops = SMOOTHING_DECAYS
        assert (app.view().log_y, app.view().clip) == (True, True)
        assert app.view().smoothing == stops[stops.index(at_rest) + 1]
        assert "log clip ema" in app.rows()[0]
        await pilot.press("y", "o", "S")
        assert app.view() == View()

        await pilot.press("plus", "plus")
        assert app.view().x_span is not None
        assert "tail" in app.rows()[0]
        await pilot.press("H")
        assert app.view().x_end is not None
        await pilot.press("f")
        assert app.view().x_end is None
        await pilot.press("minus", "z")
        assert app.view() == View()


@in_event_loop
async def test_the_crosshair_reads_values_off_and_tells_others() -> None:
    app = OneChart()
    async with app.run_test(size=(60, 16)) as pilot:
        app.chart.focus()
        await pilot.press("c", "left", "left")
        await pilot.pause()
        cursor = app.view().cursor
        assert cursor is not None
        assert 370 < cursor < 399
        assert f"step {cursor:.0f} " in app.rows()[0]
        assert app.seen[-1].cursor == cursor
        await pilot.press("c")
        assert "step" not in app.rows()[0]


@in_event_loop
async def test_another_x_axis_shows_everything_again() -> None:
    app = OneChart()
    async with app.run_test(size=(60, 16)) as pilot:
        app.chart.focus()
        await pilot.press("plus", "c", "x")
        assert app.chart.x_axis == "seconds"
        assert app.view() == View()
        assert "10m" in app.rows()[-1]
        await pilot.press("x", "x", "x")
        assert "400" in app.rows()[-1]


@in_event_loop
async def test_focus_and_theme_show_at_once() -> None:
    app = OneChart()
    async with app.run_test(size=(60, 16)) as pilot:
        app.set_focus(None)
        await pilot.pause()
        title = app.chart.render_line(0)
        app.chart.focus()
        await pilot.pause()
        assert app.chart.render_line(0) != title
        row = app.chart.render_line(8)
        app.theme = "textual-light"
        await pilot.pause()
        assert app.chart.render_line(8) != row


def test_every_key_can_be_rebound_and_explained() -> None:
    bindings = list(Chart.BINDINGS)
    assert all(not isinstance(binding, tuple) and binding.id and binding.tooltip for binding in bindings)


@in_event_loop
async def test_the_y_axis_is_zoomed_and_moved_by_keys_and_fits_again() -> None:
    app = OneChart()
    async with app.run_test(size=(60, 16)) as pilot:
        app.chart.focus()
        bounds = app.chart._bounds
        assert bounds is not None
        low, high = bounds.y
        await pilot.press("K")
        assert app.view().y == pytest.approx((low + 0.15 * (high - low), high - 0.15 * (high - low)))
        await pilot.press("up")
        assert app.view().y == pytest.approx((low + 0.22 * (high - low), high - 0.08 * (high - low)))
        assert "zoom" in app.rows()[0]
        await pilot.press("z")
        assert app.view().y is None


@in_event_loop
async def test_values_are_measured_from_an_anchor() -> None:
    app = OneChart()
    async with app.run_test(size=(90, 16)) as pilot:
        app.chart.focus()
        await pilot.press("c", "m", *["left"] * 20)
        view = app.view()
        assert view.cursor is not None
        assert view.anchor is not None
        assert view.cursor < view.anchor
        assert app.rows()[0].count("Δ") == 2
        await pilot.press("m")
        assert app.view().anchor is None


@in_event_loop
async def test_the_wheel_zooms_about_the_pointer_and_a_click_reads_off() -> None:
    app = OneChart()
    async with app.run_test(size=(60, 16)) as pilot:
        app.chart.focus()
        before = app.chart._bounds
        assert before is not None
        await pilot._post_mouse_events([MouseScrollUp], app.chart, offset=(GUTTER + 13, 5), button=0)
        after = app.chart._bounds
        assert after is not None
        assert after.x_span == pytest.approx(0.7 * before.x_span)
        pointed = app.chart._place_of(GUTTER + 13)
        assert pointed is not None
        assert pointed == pytest.approx(before.x[0] + 13.5 / 52 * before.x_span, rel=0.02)
        assert app.view().cursor is None
        await pilot.click(app.chart, offset=(GUTTER + 13, 5))
        assert app.view().cursor == round(pointed)


@in_event_loop
async def test_the_crosshair_stands_on_points_wherever_it_is_sent() -> None:
    """A step is whole: between two points there is nothing to read."""
    app = OneChart()
    app.history.extend(
        "evaluated",
        step=np.arange(0.0, 400, 50),
        seconds=np.arange(0.0, 800, 100),
        tokens=np.arange(8.0),
        values={"val_bpb": np.ones(8)},
    )
    async with app.run_test(size=(60, 16)) as pilot:
        app.chart.focus()
        await pilot.press("plus", "plus", "c", *["left"] * 5)
        cursor = app.view().cursor
        assert cursor is not None
        assert cursor == int(cursor)
        assert f"step {int(cursor)} " in app.rows()[0]
        await pilot.click(app.chart, offset=(GUTTER + 13, 5))
        clicked = app.view().cursor
        assert clicked is not None
        assert clicked == int(clicked)

        app.metric = "val_bpb"
        await pilot.press("z", "c", "c")
        assert app.view().cursor == 350
        await pilot.press("left", "left")
        assert app.view().cursor == 250, "one key, one point, however far apart they are"
        await pilot.press("right")
        assert app.view().cursor == 300
        await pilot.press("X", "c", "left", "left")
        place = app.view().cursor
        assert place is not None
        assert 10**place == pytest.approx(250), "on a log axis, too"


@in_event_loop
async def test_the_crosshair_names_its_step_in_full() -> None:
    app = OneChart()
    app.add_step(123_456, 1.0)
    async with app.run_test(size=(90, 16)) as pilot:
        app.chart.focus()
        await pilot.press("c")
        assert "step 123,456 " in app.rows()[0]
