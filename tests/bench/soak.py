"""A cockpit that stays open: `python -m tests.bench.soak [MINUTES] [EVENTS_A_SECOND]` (10 minutes, 1,000 a second).

One process stands where rank 0 stands and writes the journal; a real supervisor takes the run over and publishes it, and a
real cockpit, a process on a real pty of 120x40, watches it through the supervisor's sockets. Another process does nothing but
read that pty and note when what came; this one makes a screen of it, whenever it has the time. So whatever holds a frame up counts
(socket, fold, drawing, terminal), and who measures holds up none.

Told at the end, as held or as falling short: whether every event came and was folded in, in its order; whether memory grew beyond
the columns of numbers; how late frames were, and of each that was later than 200 ms, whose that was (`tests.bench.lateness`) and
where the cockpit's loop was meanwhile.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyte

from tests.bench.lateness import LATE_SECONDS, Frame, Tally, between
from tests.bench.soak_programs import (
    SIZE,
    Chunk,
    Emitted,
    Had,
    Held,
    Memory,
    emit_for,
    read_terminal,
)

WARM_UP_SHARE = 0.5
"""Of the time, before which memory is not judged: columns fill up to what they hold in five minutes, alerts in half an hour."""
FLAT_SHARE = 0.05
"""Of the memory: what it may grow by after that, columns left out, and be flat."""
TOLD_FRAMES, TOLD_STOPS = 20, 2
"""Of late ones, the latest; and of each, when the cockpit's loop stood longest."""
LOOK_SECONDS = 60.0
PATIENCE_SECONDS = 300.0
_processes = multiprocessing.get_context("spawn")


@dataclass
class Watcher:
    """A cockpit in a terminal, and when each of its frames came."""

    pid: int
    told: "Connection[Any, Any]"
    report: Path
    emitted_at: Sequence[float]
    """By step."""
    shown_step: int = 0
    frames: list[Frame] = field(default_factory=list)
    _newest: tuple[float, Tally] | None = None
    """When the newest frame came, and the tally then."""
    _screen: pyte.Screen = field(default_factory=lambda: pyte.Screen(*SIZE))

    def __post_init__(self) -> None:
        self._stream = pyte.ByteStream(self._screen)

    def take(self, seconds: float) -> None:
        """What came by now, or comes within so many seconds. Raises EOFError when the cockpit has ended."""
        while self.told.poll(seconds):
            self._take(self.told.recv())
            seconds = 0.0

    def _take(self, chunk: Chunk) -> None:
        self._stream.feed(chunk.data.replace(b"\x1b[>1u", b"").replace(b"\x1b[<u", b""))
        step = self._step_on_screen()
        if step <= self.shown_step:
            return
        if self._newest is not None:
            came_at, tally = self._newest
            due = max(came_at, self.emitted_at[self.shown_step + 1])
            self.frames.append(Frame(chunk.at, step, due, between(tally, chunk.tally)))
        self._newest, self.shown_step = (chunk.at, chunk.tally), step

    def ages(self) -> list[float]:
        """Seconds since the newest step on screen was emitted, as each frame came."""
        return [frame.at - self.emitted_at[frame.step] for frame in self.frames]

    def _step_on_screen(self) -> int:
        """From the headline, which has `12,345/1,000,000`; 0 where it is not there."""
        done, slash, _ = self._screen.display[0].partition("/")
        digits = done.split()[-1].replace(",", "") if slash and done.split() else ""
        return int(digits) if digits.isdecimal() else 0

    def catch_up(self, step: int) -> None:
        """Until this step is on screen. Raises TimeoutError where that takes too long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.shown_step < step:
            self.take(0.05)
            if time.monotonic() > deadline:
                raise TimeoutError(f"step {step} is not on screen:\n" + "\n".join(self._screen.display))

    def leave(self) -> Had:
        """Press `q`; what it had, in its own words."""
        self.told.send(b"q")
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            while True:
                assert time.monotonic() < deadline, "it does not end"
                self.take(0.05)
        except (EOFError, ConnectionResetError):
            return Had.read(self.report)


@contextmanager
def watching(
    name: str,
    emitted_at: Sequence[float],
    pids: dict[str, int] | None = None,
    still: Any = (0.0,),
    *,
    traced: bool = False,
) -> Iterator[Watcher]:
    """A cockpit on this run. `pids`: the other processes of the chain; `still`: as `emit_for` has it."""
    ours, theirs = _processes.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "had.json"
        process = _processes.Process(
            target=read_terminal, args=(name, report, traced, pids or {}, still, theirs), daemon=True
        )
        process.start()
        theirs.close()
        try:
            yield Watcher(ours.recv(), ours, report, emitted_at)
        finally:
            ours.close()
            process.join()


@dataclass
class Writing:
    """An emitter in a process of its own."""

    pid: int
    supervisor: int
    """Its pid."""
    emitted_at: Any
    still: Any
    told: "Connection[Any, Any]"

    def begin(self) -> None:
        self.told.send("begin")

    @property
    def is_over(self) -> bool:
        return self.told.poll()

    def emitted(self) -> Emitted:
        emitted = self.told.recv()
        assert isinstance(emitted, Emitted)
        return emitted


@contextmanager
def writing(name: str, seconds: float, rate: float) -> Iterator[Writing]:
    emitted_at, still = RawArray("d", round(seconds * rate) + 2 * round(rate)), RawArray("d", 1)
    ours, theirs = _processes.Pipe()
    process = _processes.Process(target=emit_for, args=(seconds, rate, name, emitted_at, still, theirs))
    process.start()
    theirs.close()
    try:
        assert process.pid is not None
        yield Writing(process.pid, ours.recv(), emitted_at, still, ours)
    finally:
        ours.close()
        process.join()


# The measurement


@dataclass(frozen=True)
class Result:
    """All that was measured."""

    seconds: float
    emitted: Emitted
    had: Had
    frames: list[Frame]
    ages: list[float]
    supervisor_megabytes: list[float]
    cpu_shares: dict[str, float]
    """Of a core, by process."""


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def megabytes(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss / 1e6)


def soak(seconds: float, rate: float) -> Result:
    with writing("soaked", seconds, rate) as writer:
        pids = {"supervisor": writer.supervisor, "writer": writer.pid}
        with watching("soaked", writer.emitted_at, pids, writer.still) as watcher:
            watcher.catch_up(1)
            every = {"cockpit": watcher.pid, "supervisor": writer.supervisor}
            cpu = {name: cpu_seconds(pid) for name, pid in every.items()}
            writer.begin()
            watcher.take(1.0)
            watcher.frames.clear()
            began = looked = time.monotonic()
            supervisor_megabytes = [megabytes(writer.supervisor)]
            while not writer.is_over:
                watcher.take(0.05)
                if time.monotonic() - looked >= LOOK_SECONDS:
                    looked += LOOK_SECONDS
                    supervisor_megabytes.append(megabytes(writer.supervisor))
                    late = sum(frame.late_seconds > LATE_SECONDS for frame in watcher.frames)
                    print(
                        f"  {(looked - began) / 60:.0f} min: step {watcher.shown_step:,}, cockpit {megabytes(watcher.pid):.1f} MB, "
                        f"supervisor {supervisor_megabytes[-1]:.1f} MB, {len(watcher.frames):,} frames, {late} late",
                        flush=True,
                    )
            shares = {name: (cpu_seconds(pid) - cpu[name]) / seconds for name, pid in every.items()}
            emitted = writer.emitted()
            watcher.catch_up(emitted.step)
            had = watcher.leave()
    return Result(seconds, emitted, had, watcher.frames, watcher.ages(), supervisor_megabytes, shares)


# What is told of it


def verdict(is_held: bool) -> str:
    return "held       " if is_held else "FALLS SHORT"


def quantiles_ms(seconds: Sequence[float]) -> str:
    p50, p99, most = np.quantile(np.array(seconds) * 1e3, [0.5, 0.99, 1.0])
    return f"p50 {p50:.0f}, p99 {p99:.0f}, most {most:.0f} ms"


def events_line(result: Result) -> str:
    had, emitted = result.had, result.emitted
    is_held = had.breaks == 0 and had.cursors["train"] == emitted.last_seq and had.step == emitted.step
    return (
        f"{verdict(is_held)} no event lost: {emitted.last_seq:,} written, {had.cursors['train']:,} folded in, {had.breaks} out of "
        f"order or missing; {had.rows:,} rows kept; the writer was {emitted.most_behind:,} behind at most"
    )


def memory_lines(memory: list[Memory]) -> list[str]:
    """What grew after the warm-up, by the line through all looks from then on."""
    judged = memory[int(len(memory) * WARM_UP_SHARE) :]
    minutes = [(look.at - judged[0].at) / 60 for look in judged]
    rest = [(look.resident - look.columns) / 1e6 for look in judged]
    if len(judged) < 3:
        return ["            memory: too short a time to say"]
    growth = float(np.polyfit(minutes, rest, 1)[0]) * minutes[-1]
    is_held = growth <= FLAT_SHARE * rest[0]
    first, middle, last = memory[0], judged[0], memory[-1]

    def of(look: Memory) -> str:
        return f"{look.resident / 1e6:.0f} MB ({look.columns / 1e6:.1f} of them columns)"

    return [
        (
            f"{verdict(is_held)} memory flat: cockpit {of(first)}, {of(middle)} after warm-up, {of(last)} at the end; without columns "
            f"{growth:+.1f} MB in the {minutes[-1]:.0f} min judged, of {rest[0]:.0f}; flat up to {FLAT_SHARE:.0%}"
        )
    ]


def lateness_lines(frames: list[Frame], held: list[Held], began: float) -> list[str]:
    late = [frame for frame in frames if frame.late_seconds > LATE_SECONDS]
    ours = sum(frame.is_ours for frame in late)
    lines = [
        (
            f"{verdict(not late)} no frame later than {LATE_SECONDS * 1e3:.0f} ms: {quantiles_ms([f.late_seconds for f in frames])} of "
            f"{len(frames):,}; {len(late)} later, {ours} of them ours and {len(late) - ours} the machine's"
        )
    ]
    lines += [
        f"              {cause}: {count}" for cause, count in Counter(f.cause for f in late).most_common()
    ]
    for frame in sorted(late, key=lambda f: -f.late_seconds)[:TOLD_FRAMES]:
        lines.append(f"            at {(frame.at - began) / 60:.2f} min {frame.in_words()}")
        meanwhile = [stop for stop in held if frame.due < stop.at <= frame.at + LATE_SECONDS]
        lines += [
            f"                the cockpit's loop stood {stop.seconds * 1e3:.0f} ms, computed {stop.computed_seconds * 1e3:.0f}, "
            f"garbage {stop.garbage_seconds * 1e3:.0f}: {' < '.join(stop.stack) or 'nowhere by then'}"
            for stop in sorted(meanwhile, key=lambda stop: -stop.seconds)[:TOLD_STOPS]
        ]
    return lines


def report(result: Result, rate: float, load: str) -> str:
    frames, had = result.frames, result.had
    began = frames[0].at
    supervisor = result.supervisor_megabytes
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result.cpu_shares.items())
    longest = max((stop.seconds for stop in had.held), default=0.0)
    return "\n".join(
        [
            f"{result.seconds / 60:g} min at {rate:g} events/s, load {load} at the end",
            events_line(result),
            *memory_lines(had.memory),
            *lateness_lines(frames, had.held, began),
            (
                f"            the newest step on screen was {quantiles_ms(result.ages)} old; the cockpit's loop stood longer than 100 ms "
                f"{len(had.held)} times, {longest * 1e3:.0f} ms at most; a look for garbage took {had.longest_garbage_seconds * 1e3:.0f} ms "
                "at most"
            ),
            f"            supervisor {supervisor[0]:.0f} to {supervisor[-1]:.0f} MB; of a core: {shares}",
        ]
    )


def main(minutes: float = 10.0, rate: float = 1000.0) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(LLMCTL_HOME=home, XDG_RUNTIME_DIR=home)
        result = soak(minutes * 60, rate)
    print(report(result, rate, Path("/proc/loadavg").read_text().split()[0]))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
