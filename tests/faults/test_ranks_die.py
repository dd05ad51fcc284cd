"""Whole runs whose ranks are killed, failed and signalled at awkward moments end as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Runs
from tests.e2e.test_whole_run import done, final_hashes, ranks_of, sequence_is_whole, step_reached
from tests.engine.test_ranks import new_run
from tests.faults.conftest import IS_FULL, rounds
from tests.parallel import free_port
from tests.supervisor.conftest import follow, state_is, wait_until, wait_until_over, watch
from trainer_daemon.contract.events import (
    CheckpointFailed,
    CheckpointSaved,
    Command,
    CommandDone,
    PhaseChanged,
    Resumed,
    SettingChanged,
    TrainStep,
)
from trainer_daemon.contract.journal import JournalWriter, Record, read_all
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import observe
from trainer_daemon.engine.checkpoint import store
from trainer_daemon.link.client import Feed, send_command

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(1800)]

SAVE_EVERY = 8
KILL_EVERY = 24
WAIT_SECONDS = 200.0


def resumed_after(attempt: int) -> Callable[[Record], bool]:
    return lambda r: isinstance(r.event, Resumed) and r.attempt > attempt


@pytest.mark.parametrize("nproc", [1, 2] if IS_FULL else [2])
def test_random_kills_of_ranks_change_nothing_but_the_clock(runs: Runs, nproc: int) -> None:
    """1 and 24: five kills of one rank, twenty of one of two at random moments, saving beside the training; the
    parameters, the optimizer and the position at the end are those of the run that nobody disturbed, and at most one
    interval and the save in flight is repeated each time."""
    kills = rounds(2, 5 if nproc == 1 else 20)
    steps = KILL_EVERY * (kills + 1)
    spec = (
        f"runtime.nproc={nproc}",
        f"train.num_iterations={steps}",
        f"checkpoint.every={SAVE_EVERY}",
        "checkpoint.asynchronous=on",
        "eval.every=1000",
        "sample.every=1000",
        f"runtime.max_restarts={kills}",
    )
    undisturbed = runs.train("undisturbed", *spec)
    watch(undisturbed, state_is("completed"), WAIT_SECONDS)
    run = runs.train("disturbed", *spec)
    chance = random.Random(nproc)
    with Feed(run) as feed:
        seen: list[Record] = []
        for kill in range(1, kills + 1):
            seen += follow(feed, step_reached(KILL_EVERY * kill - chance.randrange(SAVE_EVERY)), WAIT_SECONDS)
            time.sleep(chance.random() * 0.05)  # any moment of a step
            victim = chance.randrange(nproc)
            os.kill(ranks_of(run)[victim].pid, signal.SIGKILL)
            seen += follow(feed, resumed_after(kill), WAIT_SECONDS)
        seen += follow(feed, state_is("completed", "failed"), WAIT_SECONDS)
    status = observe(run)
    assert (status.state, status.restarts) == ("completed", kills)
    assert final_hashes(run) == final_hashes(undisturbed)
    assert sequence_is_whole(run)
    last = 0
    for record in seen:
        if isinstance(record.event, Resumed):
            assert last - record.event.step <= 2 * SAVE_EVERY, "more than an interval and the save in flight"
        elif isinstance(record.event, TrainStep):
            last = record.event.step


def phase_is(phase: str) -> Callable[[Record], bool]:
    return lambda r: isinstance(r.event, PhaseChanged) and r.event.phase == phase


def test_sigterm_in_any_phase_saves_and_ends(runs: Runs) -> None:
    """14: a signal to one of two ranks while they step, evaluate, sample, save and pause: each time the present step is
    saved, the run is stopped, and it goes on from there."""
    run = runs.train(
        "preempted",
        "runtime.nproc=2",
        "train.num_iterations=100000",
        "checkpoint.every=10",
        "checkpoint.asynchronous=on",
        "eval.every=10",
        "eval.tokens=20000",
        "sample.every=10",
        "sample.max_tokens=40",
    )
    phases = ["running", "evaluating", "sampling", "saving", "paused"]
    chosen = phases if IS_FULL else ["evaluating", "saving"]
    for number, phase in enumerate(chosen, start=1):
        with Feed(run, after=observe(run).cursors) as feed:
            follow(feed, lambda r: isinstance(r.event, TrainStep), WAIT_SECONDS)
            if phase == "paused":
                send_command(run, "pause")
            follow(feed, phase_is(phase), WAIT_SECONDS)
            os.kill(ranks_of(run)[number % 2].pid, signal.SIGTERM)
            follow(feed, state_is("stopped", "failed", "crashed"), WAIT_SECONDS)
        status = observe(run)
        assert status.state == "stopped", phase
        assert status.last_checkpoint is not None
        assert status.last_checkpoint["step"] == status.step, phase
        wait_until_over(run, runs.pid)
        if phase != chosen[-1]:
            runs.resume(run)


class Pair:
    """Two ranks started by hand, as another launcher would, with what is asked of them written beforehand."""

    def __init__(self, run: RunDir, program: str = "") -> None:
        command = [sys.executable, "-c", program, str(run.path)]
        if not program:
            command = [sys.executable, "-m", "trainer_daemon", str(run.path)]
        common = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "LLMCTL_CONTROL_AFTER": "0",
        }
        self._ranks = [
            subprocess.Popen(
                command, env=common | {"RANK": r, "LOCAL_RANK": r}, stderr=subprocess.PIPE, text=True
            )
            for r in "01"
        ]

    def wait(self) -> None:
        for rank in self._ranks:
            _, error = rank.communicate(timeout=WAIT_SECONDS)
            assert rank.returncode == 0, error

    def terminate(self) -> None:
        """SIGTERM to both, as a machine that is taken away sends it."""
        for rank in self._ranks:
            rank.terminate()

    def kill(self) -> None:
        for rank in self._ranks:
            rank.kill()
            rank.communicate()


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Pair]]:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    started: list[Pair] = []
    yield started
    for pair in started:
        pair.kill()


STALLING_RANK = """
import os, sys
from pathlib import Path
from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.engine.data.batches import Batches
from trainer_daemon.processes.rank import main

read = Batches.micro_batches

def read_late(batches, samples_seen):
    if os.environ["RANK"] == "1" and samples_seen == 4 * batches.global_rows:
        with Path(sys.argv[1], "rows").open("rb", buffering=0) as pipe:
            Path(sys.argv[1], "stalled").touch()
            pipe.read(1)
    return read(batches, samples_seen)

Batches.micro_batches = read_late
run_and_leave(lambda: main(sys.argv[1:]))
"""


def test_sigterm_while_the_data_stalls_is_obeyed_after_the_step_that_waited(pairs: list[Pair]) -> None:
    """14: one rank waits for its rows, the other for that rank."""
    run = new_run("stalled", "train.num_iterations=1000", "train.micro_batch_size=4", "checkpoint.every=none")
    os.mkfifo(run.path / "rows")
    rows = os.open(run.path / "rows", os.O_RDWR)  # both ways: no side waits for the other to open it
    pairs.append(Pair(run, STALLING_RANK))
    wait_until((run.path / "stalled").exists, "it did not come to the stall", WAIT_SECONDS)
    pairs[-1].terminate()
    os.write(rows, b".")
    pairs[-1].wait()
    os.close(rows)
    steps = [r.event.step for r in read_all(run.journal) if isinstance(r.event, TrainStep)]
    saved = [r.event.step for r in read_all(run.journal) if isinstance(r.event, CheckpointSaved)]
    assert steps == [1, 2, 3, 4, 5]
    assert saved == [5]


def test_a_save_that_fails_on_two_ranks_is_given_up_by_both_and_they_train_on(pairs: list[Pair]) -> None:
    """28: an I/O error of the rank that writes; no rank waits for what will not come, the next save is made."""
    run = new_run("pair", "train.num_iterations=6", "checkpoint.every=2", "train.micro_batch_size=4")
    store.temporary_folder(run.checkpoints, 2).touch()  # where a folder must be made
    store.temporary_folder(run.checkpoints, 4).touch()
    pairs.append(Pair(run))
    pairs[-1].wait()
    records = [r.event for r in read_all(run.journal)]
    assert [e.step for e in records if isinstance(e, CheckpointFailed)] == [2, 4]
    assert [e.step for e in records if isinstance(e, CheckpointSaved)] == [6]
    assert [e.step for e in records if isinstance(e, TrainStep)] == [1, 2, 3, 4, 5, 6]


IMPATIENT_RANK = """
import datetime, sys
import trainer_daemon.engine.ranks as ranks
ranks.COLLECTIVE_TIMEOUT = datetime.timedelta(seconds=10)
from trainer_daemon.processes.rank import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_pause_longer_than_any_exchange_may_take_ends_nothing_and_changes_nothing(
    pairs: list[Pair],
) -> None:
    """44, with exchanges that time out after 10 s and a pause of 14 s."""
    common = ("train.num_iterations=8", "train.micro_batch_size=4", "eval.every=100", "sample.every=100")
    unpaused, paused = new_run("unpaused", *common), new_run("paused", *common)
    pairs.append(Pair(unpaused))
    pairs[-1].wait()
    with JournalWriter(paused.journal, "control", 1) as control:
        control.append(Command("p", "pause", {}))
        control.append(Command("s", "set", {"key": "checkpoint.keep_last", "value": 5}))
        pairs.append(Pair(paused, IMPATIENT_RANK))
        with Feed(paused) as feed:
            follow(feed, done("set"), WAIT_SECONDS)
            time.sleep(14)  # the length of the pause is what is tested
            control.append(Command("r", "resume", {}))
            pairs[-1].wait()
    records = [r.event for r in read_all(paused.journal)]
    assert [e.name for e in records if isinstance(e, CommandDone) and e.ok] == ["pause", "set", "resume"]
    assert [e.key for e in records if isinstance(e, SettingChanged)] == ["checkpoint.keep_last"]
    assert final_hashes(paused) == final_hashes(unpaused)
