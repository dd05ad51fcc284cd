"""The processes of `tests.bench.soak`: who writes the journal, who watches, and who reads that one's terminal. Each is alone in
its process, so that none is held up by what another does, and what is measured is the cockpit."""

import gc
import json
import os
import select
import sys
import threading
import time
import traceback
import tracemalloc
from array import array
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from tests.bench.lateness import Observer, Tally
from tests.supervisor.conftest import kill_and_wait
from tests.tui.conftest import WrittenRun
from tests.tui.terminal import PtyProcess
from trainer_daemon.contract.events import Alert, Event, Notice, RanksPaced, SampleChunk, TrainStep
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import RunDir, create_run, find_run, hold_lock
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.supervisor.detach import start_supervisor
from trainer_daemon.supervisor.sweep import kill_run_processes
from tui.app import Cockpit
from tui.feed import LinkState, open_link
from tui.meter import resident_bytes
from tui.screens.cockpit import FRAME_SECONDS, CockpitScreen
from tui.terminal import given_back

SIZE = (120, 40)
CYCLE = 1000
"""Events after which their kinds repeat; all but a few dozen of them are steps."""
MOST_AT_ONCE = 50
"""Events that are written in a row where the writer was held up."""
PACE_SECONDS = 0.002
"""Between two looks of the writer at what is due."""
STILL_SECONDS = 0.02
"""Later than this after it wanted to, whoever only sleeps was held up."""
TICK_SECONDS = 0.01
"""Longest that the reader of the terminal waits at a time."""
BEAT_SECONDS = 0.05
"""Between two beats of the cockpit's loop."""
HELD_SECONDS = 0.1
"""A beat later than this is told, and who held the loop."""
MEMORY_SECONDS = 5.0
COCKPIT = "import sys; from tests.bench.soak_programs import cockpit; cockpit(sys.argv[1])"


# Who writes


def a_cycle(written: WrittenRun, first_step: int) -> Iterator[Event]:
    """What a run reports, `CYCLE` events of it: steps, and now and then all else that comes while it trains."""
    step = first_step
    for place in range(CYCLE):
        if place % 50 == 49:
            yield RanksPaced(step, 50, [0.001, 0.0011], [0.5, 0.52])
        elif place % 100 == 48:
            yield SampleChunk(f"asked-{step // CYCLE}", " and then the fox")
        elif place % 500 == 47:
            yield Notice("warning", f"the disk was slow at step {step}")
        elif place % 1000 == 46:
            yield Alert("gradient_spike", step, "gradient norm 7, usual 0.3", "an odd batch", "nothing yet")
        else:
            yield written.step(step)
            step += 1


class Emitter:
    """Rank 0 of a run that trains fast."""

    def __init__(self, name: str, total_steps: int, emitted_at: MutableSequence[float] | None = None) -> None:
        """`emitted_at`: by step, room for when each was written (monotonic)."""
        run, lock = create_run(name, RunSpec())
        self.written = WrittenRun(run, lock, total_steps)
        self.written.begin()
        self._ranks_lock = hold_lock(run.ranks_lock, shared=True)
        self.written.die()
        self.written.writers.pop("daemon").close()
        self.supervisor = psutil.Process(start_supervisor({"resume": str(run.path)}).pid)
        self.run = run
        self.step = 0
        self.last_seq = 0
        """Of the stream it writes."""
        self.emitted_at = array("d", bytes(8 * (total_steps + 2))) if emitted_at is None else emitted_at
        self._cycle: Iterator[Event] = iter(())

    def emit(self, events: int) -> None:
        for _ in range(events):
            event = next(self._cycle, None)
            if event is None:
                self._cycle = a_cycle(self.written, self.step + 1)
                event = next(self._cycle)
            self.written.tell("train", event)
            if isinstance(event, TrainStep):
                self.step += 1
                self.emitted_at[self.step] = time.monotonic()
        self.last_seq = self.written.writers["train"].last_seq

    def close(self) -> None:
        kill_and_wait(self.supervisor.pid)
        kill_run_processes(self.run)
        os.close(self._ranks_lock)
        self.written.close()


@contextmanager
def emitting(
    name: str, total_steps: int, emitted_at: MutableSequence[float] | None = None
) -> Iterator[Emitter]:
    emitter = Emitter(name, total_steps, emitted_at)
    try:
        yield emitter
    finally:
        emitter.close()


@dataclass(frozen=True)
class Emitted:
    """What was written in all."""

    last_seq: int
    step: int
    most_behind: int
    """Events that were due and not yet written."""


def emit_for(
    seconds: float, rate: float, name: str, emitted_at: Any, still: Any, told: "Connection[Any, Any]"
) -> None:
    """Begin the run, tell the supervisor's pid, write so many events a second from the first word heard until the time is over, tell
    what was `Emitted`, and end with the next word. `still`: seconds so far that the writer was held up."""
    # whoever wanted to know may be gone by then
    with suppress(EOFError, BrokenPipeError), emitting(name, len(emitted_at) - 2, emitted_at) as emitter:
        emitter.emit(1)
        told.send(emitter.supervisor.pid)
        told.recv()
        began = woke = time.monotonic()
        emitted = most_behind = 0
        while (passed := woke - began) < seconds:
            due = int(passed * rate) - emitted
            most_behind = max(most_behind, due)
            emitter.emit(min(due, MOST_AT_ONCE))
            emitted += min(due, MOST_AT_ONCE)
            time.sleep(PACE_SECONDS)
            before, woke = woke, time.monotonic()
            if woke - before > STILL_SECONDS:
                still[0] += woke - before
        told.send(Emitted(emitter.last_seq, emitter.step, most_behind))
        told.recv()


# Who reads the terminal


@dataclass(frozen=True)
class Chunk:
    """Some bytes that came out of the cockpit's terminal."""

    at: float
    data: bytes
    tally: Tally
    """Of all processes of the chain, by then."""


def read_terminal(
    name: str,
    report: Path,
    is_traced: bool,
    pids: dict[str, int],
    still: Any,
    told: "Connection[Any, Any]",
) -> None:
    """A cockpit in a terminal, from its beginning to its end: tells its pid, and then each `Chunk` as it comes; what is heard is
    typed. Closes with the last one."""
    environment = {"REPORT": str(report)} | ({"TRACED": "1"} if is_traced else {})
    terminal = PtyProcess(COCKPIT, name, size=SIZE, environment=environment)
    try:
        told.send(terminal.pid)
        observer = Observer({**pids, "cockpit": terminal.pid})
        stood_still = 0.0
        woke = came_at = time.monotonic()
        while terminal.process.poll() is None:
            ready = select.select([terminal.main, told.fileno()], [], [], TICK_SECONDS)[0]
            before, now = woke, time.monotonic()
            woke = now
            if now - before > TICK_SECONDS + STILL_SECONDS:
                stood_still += now - before - TICK_SECONDS
            if told.fileno() in ready:
                terminal.write(told.recv())
            if terminal.main in ready:
                with suppress(OSError):  # it ends just now
                    data = os.read(terminal.main, 1 << 16)
                    came_at = now
                    held = {"the reader stood still": stood_still, "the writer stood still": still[0]}
                    told.send(Chunk(now, data, observer.tally() | held))
            elif now - came_at > FRAME_SECONDS:
                observer.look()
    except (EOFError, BrokenPipeError):
        pass  # whoever wanted to know is gone
    finally:
        terminal.close()
        told.close()


# Who watches


@dataclass(frozen=True)
class Held:
    """A moment when the cockpit's loop did not turn."""

    at: float
    """Monotonic, its end."""
    seconds: float
    computed_seconds: float
    """By the loop's own thread."""
    garbage_seconds: float
    """Of them, looking for garbage."""
    stack: list[str]
    """Where the loop was when it was `HELD_SECONDS` late, the innermost call first."""


@dataclass(frozen=True)
class Memory:
    """Of the cockpit at one moment, in bytes."""

    at: float
    resident: int
    columns: int
    """Reserved for the columns of numbers, which follow the run's length as `tui.store` says."""


@dataclass
class Had:
    """What a cockpit had when it was left, and what became of it meanwhile."""

    breaks: int = 0
    """Records that did not follow the one before of their stream."""
    cursors: dict[str, int] = field(default_factory=dict)
    """Per stream, the last record folded in."""
    step: int = 0
    rows: int = 0
    """Of all kinds, in its columns."""
    alive_bytes: int | None = None
    """Allocated since it began and not freed; None unless it was told to trace (TRACED), which takes twice the time."""
    longest_garbage_seconds: float = 0.0
    """Computed in one look for garbage."""
    held: list[Held] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)

    @classmethod
    def read(cls, report: Path) -> "Had":
        values = json.loads(report.read_bytes())
        values["held"] = [Held(**held) for held in values["held"]]
        values["memory"] = [Memory(**memory) for memory in values["memory"]]
        return cls(**values)


class CountedFeed:
    """The real feed; counts where a stream's numbers do not follow each other."""

    def __init__(self, run: RunDir, after: dict[str, int]) -> None:
        self._feed = open_link(run, after)
        self.newest = dict(after)
        self.breaks = 0

    @property
    def link_state(self) -> LinkState:
        return self._feed.link_state

    def poll(self, timeout_seconds: float) -> list[Record]:
        records = self._feed.poll(timeout_seconds)
        for record in records:
            self.breaks += record.seq != self.newest.get(record.stream, 0) + 1
            self.newest[record.stream] = record.seq
        return records

    def interrupt(self) -> None:
        self._feed.interrupt()

    def close(self) -> None:
        self._feed.close()


class Garbage:
    """What looking for garbage has cost so far."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Computed."""
        self.longest_seconds = 0.0
        self._began = 0.0
        gc.callbacks.append(self._on_phase)

    def _on_phase(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.thread_time()
            return
        taken = time.thread_time() - self._began
        self.seconds += taken
        self.longest_seconds = max(self.longest_seconds, taken)


class Watching(Cockpit):
    """A cockpit that says how it fared."""

    def __init__(self, run: RunDir, report: Path) -> None:
        self._feeds: list[CountedFeed] = []
        super().__init__(run, self._open_counted)
        self._report = report
        self._had = Had()
        self._garbage = Garbage()
        self._beat_at, self._computed_by, self._garbage_by = time.monotonic(), 0.0, 0.0
        self._stack: list[str] = []

    def _open_counted(self, run: RunDir, after: dict[str, int]) -> CountedFeed:
        self._feeds.append(CountedFeed(run, after))
        return self._feeds[-1]

    def on_mount(self) -> None:
        super().on_mount()
        self._remember_beat()
        self._beat()
        threading.Thread(target=self._look_for_stops, args=(threading.get_ident(),), daemon=True).start()
        self.set_interval(MEMORY_SECONDS, self._weigh)

    def _beat(self) -> None:
        passed = time.monotonic() - self._beat_at
        if passed > BEAT_SECONDS + HELD_SECONDS:
            computed = time.thread_time() - self._computed_by
            garbage = self._garbage.seconds - self._garbage_by
            held = Held(self._beat_at + passed, passed - BEAT_SECONDS, computed, garbage, self._stack)
            self._had.held.append(held)
        self._remember_beat()
        assert self._running_loop is not None
        self._running_loop.call_later(BEAT_SECONDS, self._beat)

    def _remember_beat(self) -> None:
        self._stack = []
        self._computed_by, self._garbage_by = time.thread_time(), self._garbage.seconds
        self._beat_at = time.monotonic()

    def _look_for_stops(self, loop_thread: int) -> None:
        """In a thread: where the loop is when it has not turned for a while."""
        # not faulthandler, which reads frames of threads that run meanwhile and falls once in some thousand times
        while True:
            time.sleep(BEAT_SECONDS)
            if not self._stack and time.monotonic() - self._beat_at > BEAT_SECONDS + HELD_SECONDS:
                self._stack = innermost(sys._current_frames()[loop_thread])

    def _weigh(self) -> None:
        screens = [screen for screen in self.screen_stack if isinstance(screen, CockpitScreen)]
        columns = sum(screen.state.history.reserved_bytes for screen in screens)
        self._had.memory.append(Memory(time.monotonic(), resident_bytes(), columns))

    def action_detach(self) -> None:
        screen = next(s for s in self.screen_stack if isinstance(s, CockpitScreen))
        state, had = screen.state, self._had
        self._weigh()
        gc.collect()
        had.breaks = self._feeds[0].breaks
        had.cursors, had.step = state.status.cursors, state.status.step
        had.rows = sum(len(stream) for stream in state.history.streams())
        had.alive_bytes = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else None
        had.longest_garbage_seconds = self._garbage.longest_seconds
        self._report.write_text(json.dumps(asdict(had)))
        super().action_detach()


def innermost(frame: FrameType, most: int = 6) -> list[str]:
    """The calls that a thread is in: `draw.py:212 band`."""
    calls = traceback.extract_stack(frame)[: -most - 1 : -1]
    return [f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls]


def cockpit(name: str) -> None:
    """`llmctl attach`, and, once left, what it had to the file REPORT."""
    if "TRACED" in os.environ:
        tracemalloc.start()
    app = Watching(find_run(name), Path(os.environ["REPORT"]))
    gc.disable()  # until all is loaded, as `run_cockpit` does
    with given_back(app.end_soon):
        app.run(mouse=False)
