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
from statistics import fmean, median, quantiles
from typing import NamedTuple

import psutil
import torch

from trainer_daemon.contract.events import Event, PhaseChanged, StateChanged, TrainStep
from trainer_daemon.contract.journal import JournalWriter
from trainer_daemon.contract.rundir import RunDir, create_run, hold_lock
from trainer_daemon.contract.spec import CheckpointSpec, RunSpec
from trainer_daemon.engine.checkpoint.files import Progress
from trainer_daemon.engine.checkpoint.saver import Saver
from trainer_daemon.engine.checkpoint.store import Lineage
from trainer_daemon.engine.outbox import Outbox
from trainer_daemon.engine.ranks import Ranks
from trainer_daemon.link.client import Link
from trainer_daemon.processes.rank import ControlCommands
from trainer_daemon.supervisor.detach import start_supervisor

STEP_SECONDS = 0.02
"""What the device takes for a step."""
BLOCK = 9
"""Steps in a row of one kind."""
BESIDE_STEPS = 25
"""Steps that tell what is usual before a save."""
MATRIX = torch.ones(256, 256)
RATES = {"matrix": 0.02, "embedding": 0.3, "unembedding": 0.004, "scalars": 0.5}
WATCH = (
    "import sys; from pathlib import Path; from trainer_daemon.contract.rundir import RunDir\n"
    "from trainer_daemon.link.client import Feed\n"
    "feeds = [Feed(RunDir(Path(sys.argv[1]))) for _ in range(int(sys.argv[2]))]\n"
    "[feed.poll(1) for feed in feeds]; print('up', flush=True)\n"
    "while True: [feed.poll(0.002) for feed in feeds]\n"
)


def a_step(step: int) -> TrainStep:
    """An event with every field filled, as a GPU run writes it."""
    return TrainStep(
        step=step,
        loss_nats=3.123456789,
        grad_norm=0.123456789,
        learning_rate_scale=0.987654321,
        learning_rates=RATES,
        tokens=step,
        tokens_per_second=1234567.89,
        mfu=0.4123456789,
        epoch=0.123456789,
        was_skipped=False,
        step_seconds=0.0201234567,
        data_seconds=0.000123456789,
        compute_seconds=0.0151234567,
        forward_seconds=0.00512345678,
        wait_seconds=0.00012345678,
        optimizer_seconds=0.00412345678,
        memory_bytes=step,
        peak_memory_bytes=step,
    )


class Timed(NamedTuple):
    """One step."""

    step_seconds: float
    own_seconds: float
    """Of it, what the host did while the device had nothing to do: what the step is longer by, whoever else has the cores."""


def waits(until: float) -> None:
    """As a host does whose accelerator works: caches are cold when it wakes."""
    time.sleep(max(0.0, until - time.perf_counter()))


def computes(until: float) -> None:
    """As a rank does that trains on a CPU."""
    while time.perf_counter() < until:
        torch.mm(MATRIX, MATRIX)


def a_timed_step(
    works: Callable[[float], None] = waits,
    *,
    beside: Callable[[], object] = int,
    after: Callable[[], object] = int,
) -> Timed:
    """`beside` is done once the device has work, `after` when that is over."""
    began = time.perf_counter()
    device_ends = began + STEP_SECONDS
    beside()
    own = max(0.0, time.perf_counter() - device_ends)
    works(device_ends)
    woke = time.perf_counter()
    after()
    ended = time.perf_counter()
    return Timed(ended - began, own + ended - woke)


def a_block(
    works: Callable[[float], None] = waits,
    *,
    beside: Callable[[], object] = int,
    after: Callable[[], object] = int,
) -> Timed:
    """The mean of some steps in a row: what is not done in every one of them is in it as often as in a run."""
    steps = [a_timed_step(works, beside=beside, after=after) for _ in range(BLOCK)]
    return Timed(fmean(step.step_seconds for step in steps), fmean(step.own_seconds for step in steps))


def told(name: str, steps: list[Timed], plain: list[Timed]) -> str:
    """What these blocks of steps cost more than plain ones."""
    own, whole = (median(step[i] for step in steps) - median(step[i] for step in plain) for i in (1, 0))
    return (
        f"    {name}: {own * 1e6:4.0f} us of the host's own time between two steps = {own / STEP_SECONDS:.2%} of a step "
        f"(clock: {whole / STEP_SECONDS:+.2%})"
    )


def watched(run: RunDir, journal: JournalWriter, watchers: int, rounds: int) -> None:
    """Print what a step pays for events that a supervisor follows, and for looking for commands, with so many watchers:
    where an accelerator works meanwhile, and where all of it is done between two steps, as on a CPU. In turn with steps
    that do neither."""
    emits: list[float] = []

    def emit(event: Event) -> None:
        started = time.perf_counter()
        journal.append(event)
        emits.append(time.perf_counter() - started)

    program = [sys.executable, "-c", WATCH, str(run.path), str(watchers)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as others:
        assert others.stdout is not None
        others.stdout.readline()
        commands = ControlCommands(run.journal, 0)
        beside_device = Outbox(emit, holds_steps=True)
        on_cpu = Outbox(emit, holds_steps=False)

        def look_and_release() -> None:
            beside_device.release()
            commands.pending()

        def hold() -> None:
            beside_device.step_is_done(a_step(len(emits)))

        def look_and_tell() -> None:
            commands.pending()
            on_cpu.step_is_done(a_step(len(emits)))

        waiting, held, computing, at_once = [], [], [], []
        for _ in range(0, rounds, BLOCK):
            waiting.append(a_block())
            held.append(a_block(beside=look_and_release, after=hold))
            computing.append(a_block(computes))
            at_once.append(a_block(computes, after=look_and_tell))
        pings = pinged(run)
        others.kill()
    print(
        f"  {watchers} watchers: an event {median(emits) * 1e6:.0f} us, p99 {quantiles(emits, n=100)[98] * 1e6:.0f} us; "
        f"ping {median(pings) * 1e3:.2f} ms, p99 {quantiles(pings, n=100)[98] * 1e3:.2f} ms"
    )
    print(told("beside an accelerator", held, waiting))
    print(told("on a CPU", at_once, computing), flush=True)


def pinged(run: RunDir) -> list[float]:
    """Seconds until the supervisor answers, three hundred times."""
    taken = []
    with Link.to(run) as link:
        for _ in range(300):
            started = time.perf_counter()
            link.request("ping", timeout_seconds=60)
            taken.append(time.perf_counter() - started)
    return taken


def bench_watching(home: Path, rounds: int) -> None:
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
                watched(run, journal, watchers, rounds)
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
            usual = median(a_timed_step().step_seconds for _ in range(BESIDE_STEPS))
            beside.clear()
            saver.begin(Progress(step=step), state, {}, {}, lineage)
            if asynchronous == "on":
                while not saver.has_ended():
                    beside.append(a_timed_step().step_seconds)
            result = saver.result(600)
            saver.settle()
        assert result is not None
        assert result.error is None, result.error
        besides = f", steps beside it {median(beside) / usual - 1:+.1%}" if beside else ""
        print(
            f"  {megabytes} MB, asynchronous {asynchronous}: the ranks stand still for {result.blocked_seconds:.2f} of "
            f"{result.seconds:.2f} s{besides}"
        )


def main(rounds: int = 300) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        print(
            f"journal, publication and commands beside steps of {STEP_SECONDS * 1e3:.0f} ms, medians of {rounds}"
        )
        bench_watching(Path(home), rounds)
        print("\ncheckpoints")
        bench_saving(Path(home))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
