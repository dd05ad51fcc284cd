"""The differ may save bytes but never a cell: each frame of a busy app is written twice, as Textual would and as the differ does, to
two terminal emulators, which must show the same after every single frame."""

import asyncio
import random

import pyte
import pytest
from rich.console import RenderableType
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.drivers.headless_driver import HeadlessDriver
from textual.pilot import Pilot
from textual.screen import ModalScreen, Screen
from textual.strip import Strip
from textual.widgets import DataTable, Footer, Header, Input, RichLog, Static

from tui.screen_diff import DiffedApp, ShownCells

WORDS = [
    "loss 2.31",
    "step",
    "⣀⣤⣶⣿⡇",
    "日本語のトークン",
    "e\u0301te\u0301",
    "🙂 ok",
    "│┤━",
    "",
    "a much longer line than the rest of them",
]


class EmulatedTerminal(HeadlessDriver):
    """A driver that says it is a real one, and hands what it is told to write to an emulator."""

    @property
    def is_headless(self) -> bool:
        return False

    def write(self, data: str) -> None:
        assert isinstance(self._app, BusyApp)
        self._app.bytes_diffed += len(data.encode())
        self._app.diffed.feed(data)


class Question(ModalScreen[None]):
    DEFAULT_CSS = (
        "Question { align: center middle; } Question Static { width: 20; height: 5; border: round red; }"
    )

    def compose(self) -> ComposeResult:
        yield Static("stop the run? 日本")


class BusyApp(DiffedApp[None]):
    """Changes itself in random ways, and compares the two screens after each frame."""

    CSS = "Static { width: 1fr; height: 6; } RichLog { height: 1fr; } DataTable { height: 8; } Input { height: 3; }"

    def __init__(self, seed: int, width: int, height: int) -> None:
        super().__init__(EmulatedTerminal)
        self.random = random.Random(seed)
        self.frames = 0
        self.mismatches: list[tuple[int, int]] = []
        """Frame and row of each difference."""
        self.bytes_stock = self.bytes_diffed = 0
        self.open_terminals(width, height)

    def open_terminals(self, width: int, height: int) -> None:
        self.stock_screen, self.diffed_screen = (pyte.Screen(width, height) for _ in range(2))
        self.stock, self.diffed = pyte.Stream(self.stock_screen), pyte.Stream(self.diffed_screen)

    def compose(self) -> ComposeResult:
        yield Header()
        with Horizontal():
            yield Static("left", id="left")
            yield Static("right", id="right")
        yield DataTable()
        yield Input()
        yield RichLog()
        yield Footer()

    def on_mount(self) -> None:
        table: DataTable[str] = self.query_one(DataTable)
        table.add_columns("metric", "value")
        for row in range(5):
            table.add_row(f"m{row}", "0")

    def _display(self, screen: Screen[object], renderable: RenderableType | None) -> None:
        if not (isinstance(renderable, LayoutUpdate | ChopsUpdate) and self.writes_frames()):
            super()._display(screen, renderable)
            return
        written = renderable.render_segments(self.console)
        self.bytes_stock += len(written.encode())
        self.stock.feed(written)
        super()._display(screen, renderable)
        self.frames += 1
        rows = range(self.stock_screen.lines)
        cells, stock_cells = self.diffed_screen.buffer, self.stock_screen.buffer
        self.mismatches += [(self.frames, y) for y in rows if cells[y] != stock_cells[y]]

    def writes_frames(self) -> bool:
        return self._running and not self._closed and self._batch_count == 0

    async def painted(self) -> None:
        """Wait until everything asked for so far is on the screen."""
        done = asyncio.Event()
        self.screen.call_after_refresh(done.set)
        await done.wait()

    def words(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 5)))

    async def do_something(self) -> None:
        choose, words = self.random, self.words()
        match choose.randrange(10):
            case 0 | 1:
                self.screen_stack[0].query_one(choose.choice(["#left", "#right"]), Static).update(words)
            case 2 | 3:
                self.screen_stack[0].query_one(RichLog).write(words)
            case 4:
                table = self.screen_stack[0].query_one(DataTable)
                table.update_cell_at((choose.randrange(5), 1), words)  # type: ignore[arg-type]  # Textual's Coordinate is a tuple
            case 5:
                self.screen_stack[0].query_one(Input).value = words
            case 6:
                self.screen.focus_next()
            case 7 if len(self.screen_stack) == 1:
                await self.push_screen(Question())
            case 8 if len(self.screen_stack) > 1:
                self.pop_screen()
            case 9:
                left = self.screen_stack[0].query_one("#left", Static)
                left.styles.offset = (choose.randint(0, 5), choose.randint(0, 2))
            case _:
                self.screen_stack[0].query_one("#left", Static).styles.background = choose.choice(
                    ["red", "blue", "#123456"]
                )


@pytest.mark.parametrize("seed", range(3))
def test_every_frame_looks_as_if_there_were_no_differ(seed: int) -> None:
    app = BusyApp(seed, 70, 28)

    async def be_busy(_: Pilot[object]) -> None:
        for step in range(40):
            await app.do_something()
            if step == 20:
                app.action_repaint()
            await app.painted()
        app.exit()

    asyncio.run(app.run_async(size=(70, 28), auto_pilot=be_busy))
    assert app.mismatches == []
    assert app.frames > 30
    # by how much is for a bench: a slow machine draws fewer and fuller frames
    assert app.bytes_diffed < app.bytes_stock


def test_a_line_that_changes_in_one_place_costs_less_than_half_of_its_repaint() -> None:
    """However frames fall together: each holds this one change."""
    app = BusyApp(0, 70, 28)

    async def count(_: Pilot[object]) -> None:
        left = app.screen_stack[0].query_one("#left", Static)
        left.update("step 0 of a run that goes on for long")
        await app.painted()
        app.bytes_stock = app.bytes_diffed = 0
        for step in range(1, 10):
            left.update(f"step {step} of a run that goes on for long")
            await app.painted()
        app.exit()

    asyncio.run(app.run_async(size=(70, 28), auto_pilot=count))
    assert 0 < app.bytes_diffed < app.bytes_stock / 2


def test_a_terminal_that_was_resized_is_painted_anew() -> None:
    app = BusyApp(0, 70, 28)

    async def resize(pilot: Pilot[object]) -> None:
        await app.painted()
        app.open_terminals(60, 26)  # blank, as a terminal may leave itself
        await pilot.resize_terminal(60, 26)
        await app.painted()
        app.exit()

    asyncio.run(app.run_async(size=(70, 28), auto_pilot=resize))
    assert "left" in "".join(app.stock_screen.display)
    assert app.diffed_screen.display == app.stock_screen.display


def strip_of(*texts: str, style: str = "") -> Strip:
    return Strip([Segment(text, Style.parse(style)) for text in texts])


def test_only_changed_cells_are_sent_and_close_ones_together() -> None:
    shown = ShownCells()
    assert len(list(shown.show(3, 0, strip_of("loss 2.31 and so much more text")))) == 1
    assert list(shown.show(3, 0, strip_of("loss ", "2.31 and so much more text"))) == []
    pieces = list(shown.show(3, 0, strip_of("loss 2.45 and so much more tent")))
    assert [(x, y, strip.text) for x, y, strip in pieces] == [(10, 0, "45"), (32, 0, "n")]
    pieces = list(shown.show(3, 0, strip_of("loss 3.46 and so much more tent")))
    assert [strip.text for _, _, strip in pieces] == ["3.46"]


def test_a_change_of_style_is_a_change() -> None:
    shown = ShownCells()
    list(shown.show(0, 0, strip_of("abc", style="red")))
    assert [strip.text for _, _, strip in shown.show(0, 0, strip_of("abc", style="blue"))] == ["abc"]


@pytest.mark.parametrize("doubtful", ["日本", "e\u0301", "⚠\ufe0f", "\x1b", "a\tb"])
def test_what_a_terminal_may_draw_wider_is_sent_whole_each_time(doubtful: str) -> None:
    shown = ShownCells()
    strip = strip_of("some text ", doubtful)
    for _ in range(2):
        assert [piece.text for _, _, piece in shown.show(0, 0, strip)] == [strip.text]
    # and so is whatever replaces it
    plain = strip_of("x" * strip.cell_length)
    assert [piece.text for _, _, piece in shown.show(0, 0, plain)] == [plain.text]


def test_after_forgetting_everything_is_sent_again() -> None:
    shown = ShownCells()
    list(shown.show(0, 0, strip_of("abc")))
    shown.forget()
    assert [strip.text for _, _, strip in shown.show(0, 0, strip_of("abc"))] == ["abc"]
