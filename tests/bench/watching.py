"""What being watched and being saved cost a step: in pairs of blocks, one with and one without, in one process.

This process stands where rank 0 stands: it holds the ranks' lock, writes the journal, and a real supervisor takes the run
over and publishes it. A step sleeps, as a host that waits for its GPU does. Watchers are feeds in another process.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import psutil
import torch

from trainer_daemon.contract.events import PhaseChanged, StateChanged, TrainStep
from trainer_daemon.contract.journal import JournalWriter
from trainer_daemon.contract.rundir import RunDir, create_run, hold_lock
from trainer_daemon.contract.spec import CheckpointSpec, RunSpec
from trainer_daemon.engine.checkpoint.files import Progress
from trainer_daemon.engine.checkpoint.saver import Saver
from trainer_daemon.engine.checkpoint.store import Lineage
from trainer_daemon.engine.ranks import Ranks
from trainer_daemon.link.client import Link
from trainer_daemon.processes.rank import ControlCommands
from trainer_daemon.supervisor.detach import start_supervisor

STEP_SECONDS = 0.02
BLOCK_STEPS = 25
WATCH = (
    "import sys; from pathlib import Path; from trainer_daemon.contract.rundir import RunDir\n"
    "from trainer_daemon.link.client import Feed\n"
    "feeds = [Feed(RunDir(Path(sys.argv[1]))) for _ in range(int(sys.argv[2]))]\n"
    "[feed.poll(1) for feed in feeds]; print('up', flush=True)\n"
    "while True: [feed.poll(0.002) for feed in feeds]\n"
)


def a_step(step: int) -> TrainStep:
    """An event with every field filled, as a GPU run writes it."""
    plain: dict[str, object] = dict.fromkeys(TrainStep.__dataclass_fields__, 0.123456789)
    return TrainStep(**{**plain, "step": step, "tokens": step, "memory_bytes": step, "was_skipped": False})  # type: ignore[arg-type]


def timed(work: Callable[[int], object], first_step: int) -> list[float]:
    """Seconds of each step of a block."""
    taken = []
    for step in range(first_step, first_step + BLOCK_STEPS):
        started = time.perf_counter()
        time.sleep(STEP_SECONDS)
        work(step)
        taken.append(time.perf_counter() - started)
    return taken


def watched(run: RunDir, journal: JournalWriter, watchers: int, pairs: int) -> str:
    """A line about the cost of writing events that a supervisor follows, and of looking for commands, with so many
    watchers."""
    program = [sys.executable, "-c", WATCH, str(run.path), str(watchers)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as others:
        assert others.stdout is not None
        others.stdout.readline()
        commands = ControlCommands(run.journal, 0)
        emits: list[float] = []
        differences: list[float] = []

        def emit(step: int) -> None:
            event = a_step(step)
            started = time.perf_counter()
            journal.append(event)
            emits.append(time.perf_counter() - started)
            commands.pending()

        for pair in range(pairs):
            without = timed(lambda _: None, 0)
            with_events = timed(emit, pair * BLOCK_STEPS)
            differences.append(median(with_events) - median(without))
        pings = pinged(run)
        others.kill()
    p99 = quantiles(emits, n=100)[98]
    share = median(differences) / STEP_SECONDS
    return (
        f"  {watchers:3} watchers: event {median(emits) * 1e6:6.0f} us, p99 {p99 * 1e6:6.0f} us; "
        f"step {median(differences) * 1e6:+6.0f} us, {share:+.2%} of {STEP_SECONDS * 1e3:.0f} ms; "
        f"ping {median(pings) * 1e3:.2f} ms, p99 {quantiles(pings, n=100)[98] * 1e3:.2f} ms"
    )


def pinged(run: RunDir) -> list[float]:
    """Seconds until the supervisor answers, three hundred times."""
    taken = []
    with Link.to(run) as link:
        for _ in range(300):
            started = time.perf_counter()
            link.request("ping", timeout_seconds=60)
            taken.append(time.perf_counter() - started)
    return taken


def bench_watching(home: Path, pairs: int) -> None:
    os.environ["LLMCTL_HOME"] = str(home)
    run, lock = create_run("watched", RunSpec())
    with JournalWriter(run.journal, "daemon", 1) as daemon:
        daemon.append(StateChanged("running", "a bench", 1, 1))
    ranks_lock = hold_lock(run.ranks_lock, shared=True)
    os.close(lock)
    with JournalWriter(run.journal, "train", 1) as journal:
        journal.append(PhaseChanged("running", 0))
        supervisor = psutil.Process(start_supervisor({"resume": str(run.path)}).pid)
        try:
            for watchers in (0, 50):
                print(watched(run, journal, watchers, pairs), flush=True)
        finally:
            supervisor.kill()
            os.close(ranks_lock)


def bench_saving(folder: Path, megabytes: int = 256) -> None:
    """How long the ranks stand still for a checkpoint, and how the steps beside its writing fare."""
    alone = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
    lineage = Lineage(spec_hash="", tokenizer_hash="", data_fingerprint="", parent=None)
    state = {f"w{i}": torch.randn(2**20) for i in range(megabytes // 4)}
    for asynchronous in ("off", "on"):
        saver = Saver(folder / asynchronous, alone, CheckpointSpec(asynchronous=asynchronous))
        (folder / asynchronous).mkdir()
        beside: list[float] = []
        result = None
        for step in (1, 2):  # the first one makes the buffers
            usual = median(timed(lambda _: None, 0))
            beside.clear()
            saver.begin(Progress(step=step), state, {}, {}, lineage)
            if asynchronous == "on":
                while not saver.has_ended():
                    beside += timed(lambda _: None, 0)
            result = saver.result(600)
            saver.settle()
        assert result is not None
        assert result.error is None, result.error
        told = f", steps beside it {median(beside) / usual - 1:+.1%}" if beside else ""
        print(
            f"  {megabytes} MB, asynchronous {asynchronous}: the ranks stand still for {result.blocked_seconds:.2f} of "
            f"{result.seconds:.2f} s{told}"
        )


def main(pairs: int = 12) -> None:
    with tempfile.TemporaryDirectory() as home:
        print(f"journal and publication, medians of {pairs} pairs of {BLOCK_STEPS} steps")
        bench_watching(Path(home), pairs)
        print("\ncheckpoints")
        bench_saving(Path(home))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
