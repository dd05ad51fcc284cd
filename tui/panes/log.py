"""What happened, in words; and what the processes printed, each rank by itself. `[` and `]` go from one to the next.

A log may have gigabytes: it is read from its end, a bounded stretch is kept, and what lies before or behind is read when the
reader goes there or searches for it.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar, NamedTuple, TypeAlias

from rich.cells import chop_cells
from rich.console import Console
from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.rundir import RunDir
from tui.chart.palette import Palette
from tui.headline import note_line
from tui.ink import HUE_OF_LEVEL, hue, palette_of
from tui.key_names import cockpit_of
from tui.log_window import LogWindow, levels
from tui.panes.pane import Pane
from tui.run_state import Area, Level, RunState
from tui.widgets.lines import Lines
from tui.widgets.search import SearchInput
from tui.widgets.transcript import Block, Transcript
from tui.wording import count, size

EVENTS = "events"
Reading: TypeAlias = "Callable[[RunDir, str, LogWindow | None], LogPart | None]"
TIME_WIDTH = 10
TAIL_BYTES = 64 * 1024
BACK_BYTES = 32 * 1024
OVERLAP_BYTES = 1024
"""Of parts that are searched, so that no line falls between two."""
SOUGHT_BYTES = 16 * 2**20
"""How far one key press searches beyond what is kept."""
LOOK_SECONDS = 0.5
FILTERS: tuple[tuple[str, frozenset[Level]], ...] = (
    ("every level", frozenset({"info", "good", "warning", "error"})),
    ("warnings and errors", frozenset({"warning", "error"})),
    ("errors", frozenset({"error"})),
)


class Entry(NamedTuple):
    """One line, before it is laid out."""

    name: Hashable
    level: Level
    text: Text
    folds: bool
    """Further rows stand under its words, not under its time."""


class LogPart(NamedTuple):
    """Bytes [start, end) of a log of `size` bytes."""

    text: str
    start: int
    end: int
    size: int


class LogText(Transcript):
    class TailWanted(Message):
        """The reader goes to the end, wherever that is."""

    class HeadReached(Message):
        """The reader is at the first line that is kept."""

    class EndReached(Message):
        """The reader is at the last line that is kept."""

    def action_scroll_end(self) -> None:
        super().action_scroll_end()
        self.post_message(self.TailWanted())

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self._is_placing:
            return
        if new_value <= 0 < old_value:
            self.post_message(self.HeadReached())
        elif old_value < self.max_scroll_y <= new_value:
            self.post_message(self.EndReached())


class LogPane(Pane):
    DEFAULT_CSS = """
    LogPane { padding: 0 2; layout: vertical; }
    LogPane #log-sources { height: 1; margin-top: 1; }
    LogPane #log-head { height: 1; margin-bottom: 1; }
    LogPane #log-words { width: auto; margin-left: 2; }
    """
    HINTS: ClassVar[Sequence[tuple[str, str]]] = (
        ("pane.back pane.on", "which"),
        ("log.search", "search"),
        ("log.next log.previous", "next"),
        ("log.level", "level"),
        ("text.tail", "follow"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash", "search", "Search", id="log.search", tooltip="Search for words, whatever their case"
        ),
        Binding("n", "find(1)", "Next", id="log.next", tooltip="To the next line with the words"),
        Binding(
            "N",
            "find(-1)",
            "Previous",
            id="log.previous",
            tooltip="To the line with the words before this one, further back in the file than what is shown too",
        ),
        Binding(
            "l",
            "turn_level",
            "Level",
            id="log.level",
            tooltip="Everything, warnings and errors, or errors alone",
        ),
        Binding("b", "read_back", "Earlier", id="log.earlier", tooltip="Read what was printed before"),
    ]

    def __init__(self, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self.run_folder: RunDir | None = None
        self._source = EVENTS
        self._window: LogWindow | None = None
        """Of the source; None until its end was read."""
        self._file_bytes = 0
        self._is_looking = False
        self._next_reading: Reading | None = None
        self._state: RunState | None = None
        self._filter = 0
        self._sought = ""
        self._found: Hashable = None
        """Name of the line that the search is at."""
        self._trouble = ""
        self._search_ended = ""
        """What is to be said of a search beyond the window, until another begins."""
        self._seeking_from: int | None = None
        """Where a search beyond the window goes on."""

    def compose(self) -> ComposeResult:
        yield Lines([Text()], id="log-sources")
        with Horizontal(id="log-head"):
            yield SearchInput(f"{self._key_names['log.search']} searches", id="log-search")
            yield Lines([Text()], id="log-words")
        yield LogText(id="log-text")

    @property
    def first_focus(self) -> Widget:
        return self.query_one(LogText)

    def on_mount(self) -> None:
        self._looking = self.set_interval(LOOK_SECONDS, self._look_if_in_sight, pause=True)

    def on_show(self) -> None:
        self._looking.resume()

    def on_hide(self) -> None:
        self._looking.pause()

    def follow(self, run: RunDir | None) -> None:
        """Show this run's logs from now on."""
        self.run_folder = run
        self._source = EVENTS
        self._forget()

    @property
    def sources(self) -> list[str]:
        """The events, then each rank's log, then those of the daemon."""
        attempt = self._state.attempt if self._state else None
        ranks = attempt.world_size if attempt else 1
        return [EVENTS, *(f"rank-{rank}" for rank in range(ranks)), "agent", "supervisor"]

    def turn(self, pages: int) -> None:
        sources = self.sources
        at = sources.index(self._source) if self._source in sources else 0
        self._source = sources[(at + pages) % len(sources)]
        self._forget()
        self._look_if_in_sight()
        self.query_one(LogText).follow()
        self._show()

    def _forget(self) -> None:
        self._window, self._file_bytes, self._trouble, self._search_ended = None, 0, "", ""
        self._found = self._seeking_from = self._next_reading = None

    # Drawing

    def draw(self, state: RunState, changed: set[Area]) -> None:
        is_first = self._state is not state
        self._state = state
        if self._source != EVENTS:
            if is_first or "samples" in changed:  # also when this comes into sight
                self._show()
        elif "notes" in changed:
            self._show()

    def _entries(self) -> Iterator[Entry]:
        """All lines there are of this source, whatever is filtered and sought."""
        ink = palette_of(self.app)
        if self._source == EVENTS:
            for note in self._state.notes if self._state else ():
                yield Entry(note, note.level, note_line(note, ink), folds=True)
        elif self._window is not None:
            lines = self._window.lines()
            for number, (line, level) in enumerate(zip(lines, levels(lines), strict=True)):
                place = (self._source, self._window.first_number + number)
                yield Entry(place, level, Text(line, hue(ink, HUE_OF_LEVEL[level])), folds=False)

    def _shown(self) -> list[Entry]:
        wanted = FILTERS[self._filter][1]
        return [entry for entry in self._entries() if entry.level in wanted]

    def _hits(self, entries: Sequence[Entry]) -> list[int]:
        sought = self._sought.lower()
        return [i for i, entry in enumerate(entries) if sought in entry.text.plain.lower()] if sought else []

    def _show(self, *, reveals: bool = False) -> None:
        ink, entries = palette_of(self.app), self._shown()
        hits = self._hits(entries)
        sought_in = dict.fromkeys(hits, self._sought)
        blocks = [_block(entry, sought_in.get(i, ""), self._found, ink) for i, entry in enumerate(entries)]
        text = self.query_one(LogText)
        text.show(blocks or [Block("nothing", partial(_nothing, self._why_nothing(), ink))])
        if reveals:
            text.reveal(self._found)
        self.query_one("#log-sources", Lines).show([self._sources_line(ink)])
        self.query_one("#log-words", Lines).show([Text(self._words(entries, hits), ink.muted)])

    def _sources_line(self, ink: Palette) -> Text:
        """Where not all fit, those around the one in sight."""
        names = self.sources
        at = names.index(self._source) if self._source in names else 0
        while len("   ".join(names)) > max(self.size.width - 4, 20) and len(names) > 3:
            is_first_farther = at > len(names) - 1 - at
            names = names[1:] if is_first_farther else names[:-1]
            at -= is_first_farther
        words = [Text(name, ink.title if name == self._source else ink.muted) for name in names]
        return Text("   ").join(words)

    def _words(self, entries: Sequence[Entry], hits: Sequence[int]) -> str:
        words = [said for said in (self._trouble, self._search_ended) if said]
        if self._sought:
            at = next((i for i, hit in enumerate(hits, 1) if entries[hit].name == self._found), None)
            words.append(f"{at or '–'} of {count(len(hits))}" if hits else "not here")
        if self._filter:
            words.append(FILTERS[self._filter][0])
        if self._window is not None and self._window.start > 0:
            words.append(f"{size(self._window.start)} before")
        follows = self.query_one(LogText).follows and self._is_at_tail
        words.append("follows" if follows else f"{self._key_names['text.tail']} follows")
        return " · ".join(words)

    @property
    def _key_names(self) -> Mapping[str, str]:
        return cockpit_of(self.app).key_names

    def _why_nothing(self) -> str:
        if self._filter:
            return f"no {FILTERS[self._filter][0]} here"
        return "nothing has happened" if self._source == EVENTS else f"{self._source} has printed nothing"

    # Reading

    @property
    def _is_at_tail(self) -> bool:
        return self._window is None or self._window.end >= self._file_bytes

    def _look_if_in_sight(self) -> None:
        is_free = not self._is_looking or self._window is None
        if self.is_on_screen and self._source != EVENTS and self._is_at_tail and is_free:
            self._begin(self._read_tail if self._window is None else self._read_on)

    def _begin(self, read: Reading) -> None:
        """One reading at a time; the last one that is wanted meanwhile comes after it."""
        if self._is_looking:
            self._next_reading = read
        elif self.run_folder is not None:
            self._is_looking = True
            self._read(self.run_folder, self._source, self._window, read)

    @work(thread=True, group="log")
    def _read(self, run: RunDir, source: str, window: LogWindow | None, read: Reading) -> None:
        trouble = ""
        part: LogPart | None = None
        try:
            part = read(run, source, window)
        except (LlmctlError, OSError) as e:
            trouble = str(e)
        self.app.call_from_thread(self._take, source, window, read, part, trouble)

    def _take(
        self, source: str, window: LogWindow | None, read: Reading, part: LogPart | None, trouble: str
    ) -> None:
        self._is_looking = False
        if source == self._source and window is self._window:
            self._take_part(window, read, part, trouble)
        wanted, self._next_reading = self._next_reading, None
        if wanted is not None and (wanted == self._read_tail) == (
            self._window is None
        ):  # else it was read meanwhile
            self._begin(wanted)

    def _take_part(self, window: LogWindow | None, read: Reading, part: LogPart | None, trouble: str) -> None:
        is_search = read in (self._seek_back, self._seek_on)
        if part is None and not trouble and is_search and self._seeking_from is not None:
            self._search_ended = f"not in {size(SOUGHT_BYTES)} more; again searches on"
            self._show()
        has_trouble_changed, self._trouble = trouble != self._trouble, trouble
        if part is None or (window is not None and part.start == part.end):
            if has_trouble_changed:
                self._show()
            return
        self._file_bytes = part.size
        is_anew = window is not None and part.size < window.end
        if window is None or is_anew or is_search:
            self._window = window = LogWindow()
            window.add_after(part.text, part.start, part.end)
        elif part.end == window.start:
            window.add_before(part.text, part.start, part.end)
        else:
            window.add_after(part.text, part.start, part.end)
        if is_search:
            self._go_to(-1 if read == self._seek_back else 1, goes_beyond=False)
        else:
            self._show()

    def _read_tail(self, run: RunDir, source: str, _window: LogWindow | None) -> LogPart:
        _, _, length = _request(run, source, -1)
        start = max(0, length - TAIL_BYTES)
        text, end, length = _request(run, source, start)
        return LogPart(text, start, end, length)

    def _read_on(self, run: RunDir, source: str, window: LogWindow | None) -> LogPart:
        assert window is not None
        text, end, length = _request(run, source, window.end)
        start = window.end if window.end <= length else 0  # the file was begun anew
        return LogPart(text, start, end, length)

    def _read_back(self, run: RunDir, source: str, window: LogWindow | None) -> LogPart:
        assert window is not None
        return _part_before(run, source, window.start, BACK_BYTES)

    def _seek_back(self, run: RunDir, source: str, _window: LogWindow | None) -> LogPart | None:
        """The last part before where the search is that has the words; None where it was not found so far back."""
        if (at := self._seeking_from) is None:  # the reader seeks something else by now
            return None
        least = max(0, at - SOUGHT_BYTES)
        while at > least:
            part = _part_before(run, source, at + OVERLAP_BYTES, TAIL_BYTES + OVERLAP_BYTES)
            if self._sought.lower() in part.text.lower():
                return part
            at = self._seeking_from = part.start
        return None

    def _seek_on(self, run: RunDir, source: str, _window: LogWindow | None) -> LogPart | None:
        if (at := self._seeking_from) is None:
            return None
        most = at + SOUGHT_BYTES
        while at < most:
            text, end, length = _request(run, source, at)
            if self._sought.lower() in text.lower() and end > at:
                return LogPart(text, at, end, length)
            if end in (at, length) or end < at:
                return None
            at = self._seeking_from = end
        return None

    # Keys

    def action_read_back(self) -> None:
        if self._window is not None and self._window.start > 0:
            self._begin(self._read_back)

    @on(LogText.HeadReached)
    def _read_earlier(self) -> None:
        self.action_read_back()

    @on(LogText.EndReached)
    def _read_later(self) -> None:
        if not self._is_at_tail:
            self._begin(self._read_on)

    @on(LogText.TailWanted)
    def _go_to_tail(self) -> None:
        if not self._is_at_tail:
            self._forget()
            self.query_one(LogText).follow()
            self._look_if_in_sight()
        self._show()

    def action_turn_level(self) -> None:
        self._filter = (self._filter + 1) % len(FILTERS)
        self._show()

    def action_search(self) -> None:
        self.query_one(SearchInput).focus()

    @on(Input.Changed)
    def _search_for(self, message: Input.Changed) -> None:
        message.stop()
        self._sought = message.value
        self._found = self._seeking_from = self._next_reading = None
        self._search_ended = ""
        self._show()

    @on(SearchInput.Left)
    def _leave_search(self) -> None:
        self.query_one(LogText).focus()
        if self._sought and self._found is None:
            self._go_to(-1)

    def action_find(self, direction: int) -> None:
        if not self._sought:
            self.action_search()
        else:
            self._go_to(direction)

    def _go_to(self, direction: int, *, goes_beyond: bool = True) -> None:
        """To the next line with the words, or the one before; the first step is to the last there is."""
        self._search_ended = ""
        entries = self._shown()
        hits = self._hits(entries)
        at = next((i for i, hit in enumerate(hits) if entries[hit].name == self._found), None)
        first = len(hits) - 1 if direction < 0 else 0
        wanted = first if at is None else at + direction
        if 0 <= wanted < len(hits):
            self._found, self._seeking_from = entries[hits[wanted]].name, None
            self._show(reveals=True)
        elif goes_beyond and (window := self._window) is not None:
            if direction < 0 and window.start > 0:
                self._seeking_from = min(self._seeking_from or window.start, window.start)
                self._begin(self._seek_back)
            elif direction > 0 and not self._is_at_tail:
                self._seeking_from = window.end
                self._begin(self._seek_on)

    def go_back(self) -> bool:
        """Out of a search."""
        was_searching = bool(self._sought)
        self.query_one(SearchInput).value = ""
        return was_searching

    def to_copy(self, state: RunState) -> tuple[str, str] | None:  # noqa: ARG002
        entry = next((entry for entry in self._entries() if entry.name == self._found), None)
        return ("the line", entry.text.plain) if entry is not None else None


def _request(run: RunDir, source: str, offset: int) -> tuple[str, int, int]:
    from trainer_daemon.link.client import request_log

    return request_log(run, source, offset)


def _part_before(run: RunDir, source: str, end: int, most: int) -> LogPart:
    """At most that many bytes that end there; where some are no text, about so many."""
    start = max(0, end - most)
    text, _, length = _request(run, source, start)
    return LogPart(text.encode()[: end - start].decode("utf-8", "ignore"), start, end, length)


def _block(entry: Entry, sought: str, found: Hashable, ink: Palette) -> Block:
    """`sought`: only where it is in the line, so that a search lays out no other line anew."""
    is_found = bool(sought) and entry.name == found
    look = (entry.name, entry.text.plain, entry.text.style, sought, is_found)
    return Block(look, partial(_laid_out, entry, sought, ink, is_found=is_found), entry.name)


def _laid_out(entry: Entry, sought: str, ink: Palette, width: int, *, is_found: bool) -> list[Text]:
    text = entry.text
    if sought:
        text = text.copy()
        style = Style(reverse=True) if is_found else ink.title + Style(underline=True)
        text.highlight_words([sought], style, case_sensitive=False)
    return _folded(text, width) if entry.folds else _chopped(text, width)


def _folded(line: Text, width: int) -> list[Text]:
    """A line of the log, its further rows under its words and not under its time."""
    if line.cell_len <= width or width <= 2 * TIME_WIDTH:
        return [line]
    time, words = line.divide([TIME_WIDTH])
    first, *others = words.wrap(Console(width=width - TIME_WIDTH), width - TIME_WIDTH)
    return [time + first, *(Text(" " * TIME_WIDTH) + other for other in others)]


def _chopped(line: Text, width: int) -> list[Text]:
    if line.cell_len <= width:
        return [line]
    ends, at = [], 0
    for part in chop_cells(line.plain, width):
        at += len(part)
        ends.append(at)
    return list(line.divide(ends[:-1]))


def _nothing(words: str, ink: Palette, _width: int) -> list[Text]:
    return [Text(words, ink.muted)]
