"""What writing from a stored checkpoint costs a training on the same cores: blocks of steps with it and without, in turns.

A real run of the embedded default trains under its supervisor, beside it a real worker writes one text
after the other from the run's first checkpoint. Each thread of either may have the same part of the cores: with T
threads that train and W that write on C cores a step may take (T + W) / C as long, and no longer. A block beside the
worker is compared with the blocks before and after it, since other work on the machine comes and goes. On a machine so
busy that a step takes many times as long, there are fewer blocks, not more minutes; several threads that train wait for
each other many times a step there, so that the run with one thread tells more, and the worker's CPU time as a share of
the run's more than either: fair with a training thread on each of C cores is 1 / C², which other work does not change.

    python -m tests.bench.beside_training [PAIRS] [THREADS...]     one thread that trains, then one on each core
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from presets.loader import preset_tables
from trainer_daemon.contract.events import AttemptStarted, CheckpointSaved, Event, TrainStep
from trainer_daemon.contract.generation import Generation
from trainer_daemon.contract.hardware import usable_cores
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.link.client import Feed, send_command
from trainer_daemon.link.inference import Worker, open_worker
from trainer_daemon.supervisor.detach import start_supervisor
from trainer_daemon.supervisor.sweep import kill_run_processes

BLOCK_STEPS, BLOCK_SECONDS = 4, 6.0
"""A block has at least so many steps and takes at least so long."""
ENOUGH_SECONDS = 180.0
"""Once blocks have been taken for so long, no further pair is begun."""
LONGEST_WAIT_SECONDS = 600.0
"""For any one thing to happen; the run has a tokenizer to learn before its first step."""
OVERRIDES = (
    "train.micro_batch_size=8",
    "train.global_batch_tokens=2048",  # a quarter: more steps to take the median of
    "train.num_iterations=1000000",
    "schedule.warmup_steps=1",
    "eval.every=off",
    "sample.every=off",
    "checkpoint.every=off",
)


@dataclass
class Writing:
    """One text after the other, in a thread, until it is stopped."""

    worker: Worker
    checkpoint: Path
    tokens: int = 0
    first_token_seconds: list[float] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        seed = 0
        while not self._stopping.is_set():
            seed += 1
            begun = time.perf_counter()
            request = Generation(prompt="Once upon a time", max_tokens=128, seed=seed)
            with closing(self.worker.generate(self.checkpoint, request)) as pieces:
                for place, _ in enumerate(pieces):
                    if place == 0:
                        self.first_token_seconds.append(time.perf_counter() - begun)
                    self.tokens += 1
                    if self._stopping.is_set():
                        break

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


def awaited(feed: Feed, wanted: Callable[[Event], bool]) -> list[Event]:
    """What is reported up to the event that is waited for."""
    seen: list[Event] = []
    end = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < end:
        seen += [record.event for record in feed.poll(1.0) if record.event is not None]
        if any(map(wanted, seen)):
            return seen
    raise SystemExit(f"it did not come; the last reports: {seen[-3:]}")


def step_seconds(feed: Feed) -> float:
    """Median of the next block; the step under way when it begins is left out."""
    feed.poll(0)
    awaited(feed, lambda e: isinstance(e, TrainStep))
    steps: list[float] = []
    while len(steps) < BLOCK_STEPS or sum(steps) < BLOCK_SECONDS:
        seen = awaited(feed, lambda e: isinstance(e, TrainStep))
        steps += [e.step_seconds for e in seen if isinstance(e, TrainStep)]
    return median(steps)


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Used so far by processes that all live on."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(run: RunDir, supervisor: psutil.Process, pairs: int) -> None:
    with Feed(run) as feed, open_worker(idle_seconds=3600) as worker:
        started = next(
            e for e in awaited(feed, lambda e: isinstance(e, AttemptStarted)) if isinstance(e, AttemptStarted)
        )
        awaited(feed, lambda e: isinstance(e, TrainStep) and e.step >= 5)
        send_command(run, "save")
        saved = awaited(feed, lambda e: isinstance(e, CheckpointSaved))
        name = next(e.path for e in saved if isinstance(e, CheckpointSaved))
        loaded = worker.open(run.checkpoints / name)
        worker_process = [psutil.Process(worker.ping())]
        run_processes = [supervisor, *supervisor.children(recursive=True)]
        writes = 1 if "1 thread" in loaded.device else int(loaded.device.split()[1])
        trains, cores = started.threads_per_rank, usable_cores()
        fair = max(1.0, (trains + writes) / cores)
        print(
            f"{trains} threads train, {writes} write ({loaded.device}), {cores} cores: fair is x {fair:.2f}; "
            f"the worker is nice by {worker_process[0].nice()}; "
            f"{psutil.getloadavg()[0]:.1f} threads ran in the last minute"
        )
        ratios: list[float] = []
        speeds, firsts, shares, of_run = [], [], [], []
        first_block, before = time.monotonic(), step_seconds(feed)
        while len(ratios) < pairs and (not ratios or time.monotonic() - first_block < ENOUGH_SECONDS):
            used, trained, begun = (
                cpu_seconds(worker_process),
                cpu_seconds(run_processes),
                time.perf_counter(),
            )
            writing = Writing(worker, run.checkpoints / name)
            try:
                beside = step_seconds(feed)
            finally:
                writing.stop()
            seconds = time.perf_counter() - begun
            used, trained = cpu_seconds(worker_process) - used, cpu_seconds(run_processes) - trained
            after = step_seconds(feed)
            ratios.append(beside / ((before + after) / 2))
            speeds.append(writing.tokens / seconds)
            shares.append(used / seconds)
            of_run.append(used / trained)
            firsts += writing.first_token_seconds
            print(
                f"  step {1e3 * before:.0f} ms alone, {1e3 * beside:.0f} beside, {1e3 * after:.0f} alone: "
                f"x {ratios[-1]:.2f}; {speeds[-1]:.0f} tok/s with {shares[-1]:.2f} of a core, "
                f"{of_run[-1]:.2f} of the run's CPU time",
                flush=True,
            )
            before = after
        print(
            f"median of {len(ratios)}: x {median(ratios):.2f} of fair x {fair:.2f}; {median(speeds):.0f} tok/s, "
            f"{median(shares):.2f} of a core, {median(of_run):.2f} of the run's CPU time, "
            f"first token after {1e3 * median(firsts):.0f} ms"
        )


def main(pairs: int = 4, *threads: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends, too
    for count in threads or sorted({1, usable_cores()}):
        beside_run_of(count, pairs)


def beside_run_of(threads: int, pairs: int) -> None:
    """Measure beside a run with so many threads, in a home of its own."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["LLMCTL_HOME"] = home
        spec = build_spec(preset_tables("stories"), [*OVERRIDES, f"runtime.threads_per_rank={threads}"])
        report = start_supervisor({"name": "beside", "spec": spec.model_dump(mode="json")})
        run, supervisor = RunDir(Path(report.path)), psutil.Process(report.pid)
        try:
            measure(run, supervisor, pairs)
        finally:
            supervisor.kill()
            kill_run_processes(run)
            with open_worker(idle_seconds=1) as worker:
                psutil.Process(worker.ping()).terminate()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
