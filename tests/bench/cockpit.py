"""What the cockpit costs: its own CPU and the bytes it sends per update, how soon a key shows on a slow link, what it costs at rest,
and how long one waits for a long run. Each figure comes from a process on a real pty of 120x40 that this one reads as slowly as
the link would; textual-plotext draws the same beside it where it is installed. CPU time is measured, which other work on the
machine disturbs less than the clock; where the clock is what counts, it is the median of several."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import psutil
import pyte

from tests.tui.conftest import WrittenRun
from tests.tui.terminal import PtyProcess
from trainer_daemon.contract.history import thin_history
from trainer_daemon.contract.rundir import create_run, write_json
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.contract.status import observe

COLUMNS, ROWS = 120, 40
POINTS = 100_000
AIMS = {
    ("cockpit4", 1, "full"): (8, 500),
    ("cockpit4", 1, "tail"): (8, 1500),
    ("cockpit4", 4, "full"): (12, 500),
    ("cockpit4", 4, "tail"): (12, 1500),
}
"""CPU in ms and bytes an update, of what `cockpit_programs` draws: which, of how many runs, in which view."""
BESIDE = [("cockpit", 1), ("charts", 1)]
PLOTEXT = [("plotext2", 1, "full"), ("plotext2", 1, "tail")]
"""With all points, its updates take so long that the bench would not end."""
KEY_AIM_MS, REST_AIM_PERCENT = 100, 0.5
FIRST_AIM_SECONDS, MEMORY_AIM_MB = 0.4, 250
WHOLE_AIM_SECONDS = {1_000: 0.5, 100_000: 0.5, 1_000_000: 1.5}
"""From Enter to all of a run of so many steps on screen."""
SLOW_LINK = 32 * 1024
QUIET_SECONDS = 1.0
"""After so long without a byte a run that is over has been drawn."""
PATIENCE_SECONDS = 120.0
OPENING_PATIENCE_SECONDS = 20.0
"""For all rounds of one length of run, after which no further one begins; and for each screen that one waits for."""
LLMCTL = "from cli.entry import app; app()"


class Watched:
    """A program on a pty, its screen, and what it reports; read at the speed of the link."""

    def __init__(
        self, code: str, *arguments: str, bytes_per_second: float | None = None, **environment: str
    ) -> None:
        self._reports, theirs = os.pipe()
        os.set_blocking(self._reports, False)
        environment["REPORT"] = str(theirs)
        environment["PYTHONDONTWRITEBYTECODE"] = (
            ""  # an installed program has its bytecode, and compiles nothing at each start
        )
        self.began = time.perf_counter()
        self.process = PtyProcess(
            code, *arguments, size=(COLUMNS, ROWS), environment=environment, pass_fds=[theirs]
        )
        os.close(theirs)
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self._rate = bytes_per_second
        self._allowance, self._allowed_at = 0.0, time.perf_counter()
        self.updates = 0

    def read(self, *, is_parsed: bool = True) -> None:
        """Take what the link has let through by now. Raises RuntimeError when the program has ended."""
        limit = 1 << 16
        if self._rate is not None:
            now = time.perf_counter()
            self._allowance = min(self._allowance + (now - self._allowed_at) * self._rate, self._rate / 50)
            self._allowed_at = now
            limit = int(self._allowance)
        if limit < 1:
            time.sleep(0.002)
            return
        came = self.process.read(limit, 0.002)
        if not came and self.process.process.poll() is not None:
            raise RuntimeError("the program ended:\n" + "\n".join(self.screen.display).rstrip())
        self._allowance -= len(came)
        if came and is_parsed:
            self.feed(came)
        with suppress(BlockingIOError):
            self.updates += len(os.read(self._reports, 1 << 16))

    def feed(self, came: bytes) -> None:
        """Have the screen show what came."""
        self._stream.feed(came)

    def wait(self, is_so: Callable[[], object], patience: float = PATIENCE_SECONDS) -> float:
        """Seconds until it is so, infinite if that takes too long."""
        began = time.perf_counter()
        while not is_so():
            if time.perf_counter() - began > patience:
                return float("inf")
            self.read()
        return time.perf_counter() - began

    def shows(self, *words: str) -> bool:
        text = "\n".join(self.screen.display)
        return all(word in text for word in words)

    @property
    def cpu_seconds(self) -> float:
        """Of all its threads. Not psutil's, which counts in hundredths of a second."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    @property
    def sent(self) -> int:
        return len(self.process.sent)

    def close(self) -> None:
        self.process.close()
        os.close(self._reports)


@contextmanager
def watched(
    code: str, *arguments: str, bytes_per_second: float | None = None, **environment: str
) -> Iterator[Watched]:
    made = Watched(code, *arguments, bytes_per_second=bytes_per_second, **environment)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def drawing(
    what: str, points: int, runs: int, view: str, bytes_per_second: float | None = None
) -> Iterator[Watched]:
    """One of the programs, once it draws updates with the whole history on screen."""
    with tempfile.TemporaryDirectory() as home:
        code = f"from tests.bench.cockpit_programs import main; main({what!r}, {points}, {runs}, {view!r})"
        with watched(code, LLMCTL_HOME=home, XDG_RUNTIME_DIR=home) as program:
            program.wait(lambda: program.updates > 0)
            program.wait(lambda: program.updates > 15)  # axes and buffers settle
            program._rate = bytes_per_second
            yield program


def per_update(what: str, points: int, runs: int, view: str, seconds: float) -> dict[str, float]:
    with drawing(what, points, runs, view) as program:
        # in stretches, of which the median counts: an axis that moves on repaints everything once
        cpu, sent = [], []
        began = time.perf_counter()
        first = program.updates
        while time.perf_counter() - began < seconds:
            updates, cpu_before, sent_before = program.updates, program.cpu_seconds, program.sent
            until = time.perf_counter() + seconds / 8
            while time.perf_counter() < until or program.updates == updates:
                program.read(is_parsed=False)
            count = program.updates - updates
            cpu.append((program.cpu_seconds - cpu_before) / count)
            sent.append((program.sent - sent_before) / count)
        rate = (program.updates - first) / (time.perf_counter() - began)
    return {
        "cpu_ms": median(cpu) * 1e3,
        "bytes": median(sent),
        "mean_bytes": sum(sent) / len(sent),
        "updates_per_second": rate,
    }


def key_to_screen(what: str, view: str, keys: int, is_shown: Callable[[Watched], bool]) -> list[float]:
    """Milliseconds from each press of `c` until it shows, on the slow link, while curves move."""
    with drawing(what, POINTS, 1, view, SLOW_LINK) as program:
        waits = []
        for press in range(keys):
            wanted = press % 2 == 0
            pause = time.perf_counter() + 0.73  # falls on every phase of the updates
            program.wait(lambda pause=pause: time.perf_counter() > pause)  # type: ignore[misc]
            program.process.write(b"c")
            waits.append(1e3 * program.wait(lambda wanted=wanted: is_shown(program) == wanted, 40.0))  # type: ignore[misc]
    return waits


def write_run(steps: int) -> str:
    """A run of so many steps, as it lies on disk after its supervisor has gone; its name."""
    name = f"steps-{steps}"
    run, lock = create_run(name, RunSpec())
    written = WrittenRun(run, lock, steps)
    written.begin()
    written.train(1, steps, every=steps // 50)
    written.end()
    written.close()
    thin_history(run.journal)
    write_json(run.state_file, observe(run).to_json())
    return name


def opening(name: str, steps: int) -> dict[str, float]:
    """From Enter until what makes up the first frame, and the whole history, has come out of the program; its memory then.

    It is read as fast as a terminal takes it and looked at afterwards: the emulator here takes tens of milliseconds for a
    screen, for which the program would stand and wait.
    """
    with watched(LLMCTL, "attach", name) as program:
        came: list[tuple[float, float, bytes]] = []
        heard = time.perf_counter()
        while time.perf_counter() - heard < QUIET_SECONDS or not came:
            if chunk := program.process.read(seconds=0.05):
                heard = time.perf_counter()
                came.append((heard - program.began, program.cpu_seconds, chunk))
            assert time.perf_counter() - program.began < OPENING_PATIENCE_SECONDS
        megabytes = psutil.Process(program.process.pid).memory_info().rss / 1e6
        seen = iter(came)

        def until_shown(*words: str) -> tuple[float, float]:
            for seconds, cpu_seconds, chunk in seen:
                program.feed(chunk)
                if program.shows(*words):
                    return seconds, cpu_seconds
            raise RuntimeError(f"it did not show {words}:\n" + "\n".join(program.screen.display).rstrip())

        first, first_cpu = until_shown(name)
        whole, whole_cpu = until_shown(f"{steps:,}/{steps:,}", "completed", "loss nats")
        return {
            "first": first,
            "first_cpu": first_cpu,
            "whole": whole,
            "whole_cpu": whole_cpu,
            "megabytes": megabytes,
        }


def idle(name: str, seconds: float) -> float:
    """Share of a core that a cockpit costs on which nothing happens."""
    with watched(LLMCTL, "attach", name) as program:
        program.wait(lambda: program.shows("completed", "loss nats"))
        still = time.perf_counter() + 3
        program.wait(lambda: time.perf_counter() > still)
        before = program.cpu_seconds
        end = time.perf_counter() + seconds
        program.wait(lambda: time.perf_counter() > end)
        return (program.cpu_seconds - before) / seconds


def aimed_at(*pairs: tuple[float, float], unit: str) -> str:
    """What was aimed at, and whether each figure (of figure, aim) came to it."""
    aims = ", ".join(f"{aim:g}" for _, aim in pairs)
    return f"; aim {aims} {unit}: {'held' if all(found <= aim for found, aim in pairs) else 'FALLS SHORT'}"


def crosshair_shows(program: Watched) -> bool:
    return any("loss nats step " in row for row in program.screen.display)


def word_shows(program: Watched) -> bool:
    return any("word !" in row for row in program.screen.display[:2])


def bench_updates(seconds: float, *, has_plotext: bool) -> None:
    ours: dict[str, float] = {}
    print(
        f"per update, {POINTS:,} points a curve, 10 updates a second, {COLUMNS}x{ROWS}; medians of 8 stretches"
    )
    kinds = [*AIMS, *((what, runs, view) for what, runs in BESIDE for view in ("full", "tail"))]
    for what, runs, view in kinds + (PLOTEXT if has_plotext else []):
        found = per_update(what, POINTS, runs, view, seconds)
        words = ""
        if (aim := AIMS.get((what, runs, view))) is not None:
            words = aimed_at((found["cpu_ms"], aim[0]), (found["bytes"], aim[1]), unit="ms, B")
        elif what == "charts":
            ours[view] = found["cpu_ms"]
        elif "plotext" in what:
            words = f"; {found['cpu_ms'] / ours[view]:.1f} x the CPU of charts"
        print(
            f"  {what:8} {runs} runs, {view}: {found['cpu_ms']:7.1f} ms CPU, {found['bytes']:7.0f} B "
            f"(mean {found['mean_bytes']:.0f}), {found['updates_per_second']:4.1f} updates/s{words}",
            flush=True,
        )


def bench_keys(*, has_plotext: bool) -> None:
    print(f"\nkey to screen on {SLOW_LINK // 1024} KiB/s, ms: median (slowest)")
    kinds = [("cockpit", view, 8, crosshair_shows) for view in ("full", "tail")]
    kinds += [("plotext2", "full", 1, word_shows)] if has_plotext else []
    for what, view, keys, is_shown in kinds:
        waits = key_to_screen(what, view, keys, is_shown)
        words = "" if what == "plotext2" else aimed_at((max(waits), KEY_AIM_MS), unit="ms")
        print(f"  {what:8} {view}: {median(waits):.0f} ({max(waits):.0f}){words}", flush=True)


def bench_opening(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(LLMCTL_HOME=home, XDG_RUNTIME_DIR=home)
        names = {steps: write_run(steps) for steps in WHOLE_AIM_SECONDS}
        openings: dict[int, list[dict[str, float]]] = {steps: [] for steps in names}
        opening(*next((name, steps) for steps, name in names.items()))  # leaves bytecode
        for _ in range(rounds):  # by turns, since the machine is now faster, now slower
            for steps, name in names.items():
                openings[steps].append(opening(name, steps))
        for steps, found in openings.items():
            typical = {key: median(each[key] for each in found) for key in found[0]}
            best = min(each["whole"] for each in found)
            words = aimed_at(
                (typical["first"], FIRST_AIM_SECONDS),
                (typical["whole"], WHOLE_AIM_SECONDS[steps]),
                (typical["megabytes"], MEMORY_AIM_MB),
                unit="s, s, MB",
            )
            print(
                "  {steps:>9,} steps: first frame {first:.2f} s after Enter ({first_cpu:.2f} of CPU), all drawn "
                "{whole:.2f} s ({whole_cpu:.2f} of CPU; best {best:.2f} s), {megabytes:.0f} MB{words}".format(
                    steps=steps, best=best, words=words, **typical
                ),
                flush=True,
            )
        percent = 100 * idle(names[100_000], 15)
        print(
            f"  at rest: {percent:.2f} % of a core{aimed_at((percent, REST_AIM_PERCENT), unit='%')}",
            flush=True,
        )


def main(seconds: float = 4.0, rounds: float = 5) -> None:
    """How long each kind of update is watched, 0 for the opening alone; and how often each run is opened."""
    print(f"load {os.getloadavg()[0]:.1f}: CPU holds beside other work, what a clock says only under 1.5")
    if not seconds:
        bench_opening(round(rounds))
        return
    try:
        import textual_plotext  # noqa: F401
    except ImportError as e:  # of its own plotext, too
        print(f"textual-plotext is left out ({e}): pip install textual-plotext", file=sys.stderr)
        has_plotext = False
    else:
        has_plotext = True
    bench_updates(seconds, has_plotext=has_plotext)
    bench_keys(has_plotext=has_plotext)
    print("\nopening")
    bench_opening(round(rounds))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
