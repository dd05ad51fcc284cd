"""A cockpit that stays open: `python -m tests.bench.soak [MINUTES] [EVENTS_A_SECOND]` (10 minutes, 1,000 a second).

This process stands where rank 0 stands and writes the journal; a real supervisor takes the run over and publishes it, and a
real cockpit, a process on a real pty of 120x40, watches it through the supervisor's sockets. Told at the end: whether every
event came and was folded in, in its order; how the memory of the cockpit and of the supervisor grew; how late frames were;
and what both cost. A frame is what a terminal emulator at the pty's other end makes of the bytes, so whatever holds one up
counts: socket, fold, drawing, terminal.
"""

import gc
import json
import os
import sys
import tempfile
import time
import tracemalloc
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyte

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
from tui.screens.cockpit import FRAME_SECONDS, CockpitScreen
from tui.terminal import given_back

SIZE = (120, 40)
CYCLE = 1000
"""Events after which their kinds repeat; all but a few dozen of them are steps."""
MOST_AT_ONCE = 50
"""Events between two looks at the terminal."""
LOOK_SECONDS = 1.0
"""Between two looks at memory."""
WARM_UP_SHARE = 0.3
"""Of the time, before which memory is not judged: buffers fill up to what they hold."""
PATIENCE_SECONDS = 300.0
COCKPIT = "import sys; from tests.bench.soak import cockpit; cockpit(sys.argv[1])"


# What is watched


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

    def __init__(self, name: str, total_steps: int) -> None:
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
        self.emitted_at = array("d", [time.monotonic()])
        """By step."""
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
                self.emitted_at.append(time.monotonic())
        self.last_seq = self.written.writers["train"].last_seq

    def close(self) -> None:
        kill_and_wait(self.supervisor.pid)
        kill_run_processes(self.run)
        os.close(self._ranks_lock)
        self.written.close()


@contextmanager
def emitting(name: str, total_steps: int) -> Iterator[Emitter]:
    emitter = Emitter(name, total_steps)
    try:
        yield emitter
    finally:
        emitter.close()


# Who watches


@dataclass(frozen=True)
class Had:
    """What a cockpit had when it was left."""

    breaks: int
    """Records that did not follow the one before of their stream."""
    cursors: dict[str, int]
    """Per stream, the last record folded in."""
    step: int
    rows: int
    """Of all kinds, in its columns."""
    alive_bytes: int | None
    """Allocated since it began and not freed; None unless it was told to trace (TRACED), which takes twice the time."""


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


def cockpit(name: str) -> None:
    """`llmctl attach`, and, once left, what it had to the pipe REPORT."""
    if "TRACED" in os.environ:
        tracemalloc.start()
    feeds: list[CountedFeed] = []

    def open_feed(run: RunDir, after: dict[str, int]) -> CountedFeed:
        feeds.append(CountedFeed(run, after))
        return feeds[-1]

    class Watching(Cockpit):
        def action_detach(self) -> None:
            screen = next(s for s in self.screen_stack if isinstance(s, CockpitScreen))
            state = screen.state
            rows = sum(len(stream) for stream in state.history.streams())
            gc.collect()
            alive = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else None
            had = Had(feeds[0].breaks, state.status.cursors, state.status.step, rows, alive)
            os.write(int(os.environ["REPORT"]), json.dumps(asdict(had)).encode())
            super().action_detach()

    app = Watching(find_run(name), open_feed)
    with given_back(app.end_soon):
        app.run(mouse=False)


@dataclass
class Watcher:
    """A cockpit in a terminal, and when each of its frames came."""

    process: PtyProcess
    reports: int
    shown_step: int = 0
    gaps: list[float] = field(default_factory=list)
    """Seconds between frames that show a newer step than the one before."""
    ages: list[float] = field(default_factory=list)
    """Seconds since the newest step on screen was emitted, as each frame came."""
    _came_at: float | None = None
    _screen: pyte.Screen = field(default_factory=lambda: pyte.Screen(*SIZE))

    def __post_init__(self) -> None:
        self._stream = pyte.ByteStream(self._screen)

    def read(self, seconds: float, emitted_at: "array[float]") -> None:
        """Take what comes within so many seconds, and look whether it is a new frame."""
        came = self.process.read(seconds=seconds)
        self.process.sent.clear()
        if not came:
            return
        self._stream.feed(came.replace(b"\x1b[>1u", b"").replace(b"\x1b[<u", b""))
        now = time.monotonic()
        step = self._step_on_screen()
        if step <= self.shown_step:
            return
        if self._came_at is not None:
            self.gaps.append(now - self._came_at)
            self.ages.append(now - emitted_at[step])
        self._came_at, self.shown_step = now, step

    def _step_on_screen(self) -> int:
        """From the headline, which has `12,345/1,000,000`; 0 where it is not there."""
        done, slash, _ = self._screen.display[0].partition("/")
        digits = done.split()[-1].replace(",", "") if slash and done.split() else ""
        return int(digits) if digits.isdecimal() else 0

    def shows(self, *words: str) -> bool:
        text = "\n".join(self._screen.display)
        return all(word in text for word in words)

    def text(self) -> str:
        return "\n".join(self._screen.display)

    def leave(self) -> Had:
        """Press `q`; what it had, in its own words."""
        self.process.write(b"q")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            self.process.read()
        return Had(**json.loads(os.read(self.reports, 1 << 16)))

    @property
    def megabytes(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    @property
    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def watching(name: str, traced: bool = False) -> Iterator[Watcher]:
    reports, theirs = os.pipe()
    environment = {"REPORT": str(theirs)} | ({"TRACED": "1"} if traced else {})
    process = PtyProcess(COCKPIT, name, size=SIZE, environment=environment, pass_fds=[theirs])
    os.close(theirs)
    try:
        yield Watcher(process, reports)
    finally:
        process.close()
        os.close(reports)


def catch_up(watcher: Watcher, emitter: Emitter) -> None:
    """Until the newest step is on screen. Raises TimeoutError where that takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while watcher.shown_step < emitter.step:
        watcher.read(0.05, emitter.emitted_at)
        if time.monotonic() > deadline:
            raise TimeoutError(f"step {emitter.step} is not on screen:\n{watcher.text()}")


# The measurement


def slope(minutes: list[float], megabytes: list[float]) -> float:
    """MB a minute, of the line through all looks after the warm-up."""
    first = int(len(minutes) * WARM_UP_SHARE)
    return float(np.polyfit(minutes[first:], megabytes[first:], 1)[0])


def quantiles_ms(seconds: list[float]) -> str:
    p50, p99, most = np.quantile(np.array(seconds) * 1e3, [0.5, 0.99, 1.0])
    return f"p50 {p50:.0f}, p99 {p99:.0f}, most {most:.0f} ms"


def soak(minutes: float, rate: float) -> None:
    with emitting("soaked", round(minutes * 60 * rate)) as emitter, watching(emitter.run.name) as watcher:
        emitter.emit(1)
        catch_up(watcher, emitter)
        watcher.gaps.clear()
        watcher.ages.clear()
        times: list[float] = []
        memory: list[float] = []
        supervisor_memory: list[float] = []
        cpu, supervisor_cpu = watcher.cpu_seconds, sum(emitter.supervisor.cpu_times()[:2])
        began = time.monotonic()
        emitted, looked, behind = 0, 0.0, 0
        while (passed := time.monotonic() - began) < minutes * 60:
            # not all at once where the machine was away for a while: the terminal has to be read meanwhile
            due = min(int(passed * rate) - emitted, MOST_AT_ONCE)
            emitter.emit(due)
            emitted += due
            watcher.read(0.002, emitter.emitted_at)
            if passed - looked >= LOOK_SECONDS:
                looked = passed
                behind = max(behind, int(passed * rate) - emitted)
                times.append(passed / 60)
                memory.append(watcher.megabytes)
                supervisor_memory.append(float(emitter.supervisor.memory_info().rss / 1e6))
                if len(times) % 60 == 0:
                    print(
                        f"  {times[-1]:.0f} min: {emitted:,} events, cockpit {memory[-1]:.1f} MB, "
                        f"supervisor {supervisor_memory[-1]:.1f} MB, {len(watcher.gaps):,} frames",
                        flush=True,
                    )
        cpu, supervisor_cpu = (
            watcher.cpu_seconds - cpu,
            sum(emitter.supervisor.cpu_times()[:2]) - supervisor_cpu,
        )
        late = [max(0.0, gap - FRAME_SECONDS) for gap in watcher.gaps]
        catch_up(watcher, emitter)
        had = watcher.leave()
        print(
            f"{minutes:g} min at {rate:g} events/s, load {Path('/proc/loadavg').read_text().split()[0]}\n"
            f"  events     {emitter.last_seq:,} written, {had.cursors['train']:,} folded in, {had.breaks} out of order or missing; "
            f"{had.rows:,} rows kept; the writer was {behind:,} behind at most\n"
            f"  memory     cockpit {memory[0]:.0f} to {memory[-1]:.0f} MB, {slope(times, memory):+.2f} MB/min after warm-up; "
            f"supervisor {supervisor_memory[0]:.0f} to {supervisor_memory[-1]:.0f} MB, "
            f"{slope(times, supervisor_memory):+.2f} MB/min\n"
            f"  lateness   {quantiles_ms(late)} of {len(late):,} frames; {sum(x > 0.2 for x in late)} later than 200 ms\n"
            f"  age        of the newest step on screen {quantiles_ms(watcher.ages)}\n"
            f"  processor  cockpit {cpu / (minutes * 60):.1%} of a core, supervisor "
            f"{supervisor_cpu / (minutes * 60):.1%}"
        )


def main(minutes: float = 10.0, rate: float = 1000.0) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(LLMCTL_HOME=home, XDG_RUNTIME_DIR=home)
        soak(minutes, rate)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
