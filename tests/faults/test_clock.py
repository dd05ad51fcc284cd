"""Somebody sets the clock while a run trains: a real run of two ranks, whose wall clock a library in front of libc moves."""

import mmap
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Runs
from tests.e2e.test_whole_run import sequence_is_whole, step_reached
from tests.supervisor.conftest import events, follow, state_is, wait_until_over
from trainer_daemon.contract.events import (
    Alert,
    AttemptStarted,
    Evaluated,
    Notice,
    Resumed,
    Stalled,
    TrainStep,
)
from trainer_daemon.contract.journal import read_all
from trainer_daemon.contract.status import observe
from trainer_daemon.engine.native import find_compiler
from trainer_daemon.link.client import Feed

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(400)]

SECONDS = 150.0
DAY = 86_400.0
SOURCE = Path(__file__).with_name("set_clock.cpp")


class WallClock:
    """The clock of all processes started with its library in front."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(24))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 24)

    def set(self, seconds_off: float, gains: float = 0.0) -> None:
        """From now on: so many seconds off, and `gains` more each second."""
        struct.pack_into("<ddd", self._map, 0, seconds_off, gains, time.monotonic())


@pytest.fixture
def wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = tmp_path / "set_clock.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", str(SOURCE), "-o", str(library), "-ldl"], check=True)
    clock = WallClock(tmp_path / "clock")
    before = os.environ.get("LD_PRELOAD", "")
    monkeypatch.setenv("LD_PRELOAD", f"{library} {before}".strip())
    monkeypatch.setenv("CLOCK_FILE", str(tmp_path / "clock"))
    return clock


def test_a_clock_that_is_set_back_and_forth_ends_stalls_and_reorders_nothing(
    runs: Runs, wall_clock: WallClock
) -> None:
    """42: a day forward, a day back from where it was, then one that gains what the kernel adds at most to follow NTP."""
    began = time.monotonic()
    run = runs.train(
        "timeless",
        "runtime.nproc=2",
        "train.num_iterations=120",
        "checkpoint.every=20",
        "eval.every=off",
        "eval.every_minutes=60",
    )
    with Feed(run) as feed:
        follow(feed, step_reached(20), SECONDS)
        wall_clock.set(DAY)
        follow(feed, step_reached(50), SECONDS)
        wall_clock.set(-DAY)
        follow(feed, step_reached(80), SECONDS)
        wall_clock.set(-DAY, gains=0.0005)
        follow(feed, state_is("completed", "failed", "stopped"), SECONDS)
    wait_until_over(run, runs.pid)
    elapsed = time.monotonic() - began

    status = observe(run)
    assert (status.state, status.restarts, status.error) == ("completed", 0, None)
    assert len(events(run, AttemptStarted)) == 1
    assert events(run, Resumed) == []
    assert events(run, Stalled) == []
    assert events(run, Alert) == []
    assert [e.step for e in events(run, Evaluated)] == [0, 120], (
        "what is due by the hour is so by a steady clock"
    )
    assert [n.text for n in events(run, Notice) if n.level == "error"] == []
    assert sequence_is_whole(run)
    steps = [r for r in read_all(run.journal) if isinstance(r.event, TrainStep)]
    assert [r.seq for r in steps] == sorted(r.seq for r in steps)
    walls = [r.wall for r in steps]
    assert max(walls) - min(walls) > 1.9 * DAY, "the clock was moved"
    assert all(0 <= e.step_seconds < elapsed for e in events(run, TrainStep)), "durations are monotonic"
    assert 0 < status.training_seconds < elapsed
    assert list(read_all(run.journal))[-1].stream == "daemon", "the supervisor's last word stays the last one"
