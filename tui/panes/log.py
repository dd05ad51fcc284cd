"""What happened, in words; and what the processes printed. `[` and `]` go from one to the next."""

from functools import partial

from rich.cells import chop_cells
from rich.console import Console
from rich.text import Text
from textual import work
from textual.app import ComposeResult

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.text import printable
from tui.chart.palette import Palette
from tui.headline import note_line
from tui.ink import palette_of
from tui.panes.pane import Pane
from tui.run_state import Area, RunState
from tui.widgets.lines import Lines
from tui.widgets.transcript import Block, Transcript

EVENTS = "events"
SOURCES = (EVENTS, "rank-0", "agent", "supervisor")
TIME_WIDTH = 10
TAIL_BYTES = 64 * 1024
LINES_KEPT = 2000
LOOK_SECONDS = 0.5


class LogPane(Pane):
    DEFAULT_CSS = """
    LogPane { padding: 0 2; layout: vertical; }
    LogPane #log-sources { height: 1; margin: 1 0; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self.run_folder: RunDir | None = None
        self._source = EVENTS
        self._printed: list[str] = []
        self._first = 0
        """How many lines were let go of before the first one kept."""
        self._offset = -TAIL_BYTES
        self._is_looking = False
        self._state: RunState | None = None

    def compose(self) -> ComposeResult:
        yield Lines(id="log-sources")
        yield Transcript(id="log-text")

    def on_mount(self) -> None:
        self.set_interval(LOOK_SECONDS, self._look_if_in_sight)

    def follow(self, run: RunDir) -> None:
        """Show this run's logs from now on."""
        self.run_folder = run
        self._forget()

    def turn(self, pages: int) -> None:
        self._source = SOURCES[(SOURCES.index(self._source) + pages) % len(SOURCES)]
        self._forget()
        self._look_if_in_sight()
        if self._state is not None:
            self.draw(self._state, {"notes"})

    def draw(self, state: RunState, changed: set[Area]) -> None:
        self._state = state
        ink = palette_of(self.app)
        words = [Text(name, ink.title if name == self._source else ink.muted) for name in SOURCES]
        self.query_one("#log-sources", Lines).show([Text("   ").join(words)])
        if self._source != EVENTS:
            self._show_printed()
        elif "notes" in changed:
            self.query_one(Transcript).show(
                [Block((note, ink.title), partial(_folded, note_line(note, ink))) for note in state.notes]
            )

    def _forget(self) -> None:
        self._printed, self._first, self._offset = [], 0, -TAIL_BYTES

    def _look_if_in_sight(self) -> None:
        if (
            self.is_on_screen
            and self._source != EVENTS
            and self.run_folder is not None
            and not self._is_looking
        ):
            self._is_looking = True
            self._look(self.run_folder, self._source, self._offset)

    @work(thread=True, group="log")
    def _look(self, run: RunDir, source: str, offset: int) -> None:
        from trainer_daemon.link.client import request_log

        try:
            text, following, _ = request_log(run, source, offset)
        except (LlmctlError, OSError) as e:
            text, following = f"{e}\n", offset
        self.app.call_from_thread(self._take, run, source, offset, text, following)

    def _take(self, run: RunDir, source: str, offset: int, text: str, following: int) -> None:
        self._is_looking = False
        if (run, source, offset) != (self.run_folder, self._source, self._offset) or following == offset:
            return
        self._offset = following
        head, *rest = printable(text).split("\n")
        if self._printed:
            self._printed[-1] += head
        elif head:
            self._printed.append(head)
        self._printed += rest
        surplus = max(0, len(self._printed) - LINES_KEPT)
        self._first += surplus
        del self._printed[:surplus]
        self._show_printed()

    def _show_printed(self) -> None:
        ink = palette_of(self.app)
        blocks = [
            Block((self._source, number, len(line)), partial(_chopped, line))
            for number, line in enumerate(self._printed, self._first)
        ]
        nothing = Block("nothing", partial(_nothing, self._source, ink))
        self.query_one(Transcript).show(blocks or [nothing])


def _folded(line: Text, width: int) -> list[Text]:
    """A line of the log, its further rows under its words and not under its time."""
    if line.cell_len <= width or width <= 2 * TIME_WIDTH:
        return [line]
    time, words = line.divide([TIME_WIDTH])
    first, *others = words.wrap(Console(width=width - TIME_WIDTH), width - TIME_WIDTH)
    return [time + first, *(Text(" " * TIME_WIDTH) + other for other in others)]


def _chopped(line: str, width: int) -> list[Text]:
    return [Text(part) for part in chop_cells(line.expandtabs(8), width)] or [Text()]


def _nothing(source: str, ink: Palette, _width: int) -> list[Text]:
    return [Text(f"{source} has printed nothing", ink.muted)]
