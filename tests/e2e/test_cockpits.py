"""Cockpits come and go, several at a time, and see the supervisor die: real ones, each in a terminal of its own."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import pyte
import pytest

from tests.e2e.conftest import Runs
from tests.e2e.test_whole_run import ranks_of, step_reached
from tests.faults.conftest import IS_FULL, rounds
from tests.supervisor.conftest import kill_and_wait, kind_is, state_is, wait_until, wait_until_over, watch
from tests.tui.terminal import PtyProcess
from trainer_daemon.contract.events import TrainStep
from trainer_daemon.contract.journal import read_all
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import send_command

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(5400 if IS_FULL else 1800)]

ATTACH = "import sys; from cli.main import main; sys.exit(main(['attach', sys.argv[1]]))"
ENDLESS = ("train.num_iterations=1000000", "eval.every=off", "sample.every=off", "checkpoint.every=off")
"""Without evaluations: a model that learns its text by heart is told so, in the place of what is waited for."""
SIZE = (120, 40)
CHARTS_WIDTH, SAMPLES_WIDTH = 95, 60
"""What lies to the left of the figures, and of the events."""
PATIENCE_SECONDS = 120.0


class Cockpit(PtyProcess):
    """`llmctl attach RUN` as a person has it."""

    def __init__(self, run: RunDir) -> None:
        super().__init__(ATTACH, run.name, size=SIZE)
        self._emulator = pyte.Screen(*SIZE)
        self._stream = pyte.ByteStream(self._emulator)

    def look(self) -> str:
        """What is on screen by now."""
        # pyte does not know the private sequences that ask for keyboard modes, and would print them
        self._stream.feed(self.read().replace(b"\x1b[>1u", b"").replace(b"\x1b[<u", b""))
        return "\n".join(self._emulator.display)

    def wait_for(self, *words: str) -> None:
        wait_until_all([self], lambda screens: all(word in screens[0] for word in words), str(words))

    def leave(self, how: str) -> None:
        """`q`, or as a dropped ssh and a killed terminal do; returns once it has ended."""
        if how == "q":
            self.write(b"q")
        else:
            os.kill(self.pid, signal.Signals[how])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end after {how}"
            self.read()


def wait_until_all(cockpits: list[Cockpit], is_so: Callable[[list[str]], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so(screens := [cockpit.look() for cockpit in cockpits]):
        assert time.monotonic() < deadline, "\n".join([f"{what} did not show:", *screens])


def figures(screen: str) -> list[str]:
    """All but the charts, whose window follows the run from where each cockpit began to look, and but the order of events
    that different processes told at the same moment."""
    lines = screen.splitlines()
    first = next(row for row, line in enumerate(lines) if "loss nats" in line)
    below = next(row for row, line in enumerate(lines) if "samples" in line and "events" in line)
    beside = [line[CHARTS_WIDTH:] for line in lines[first:below]]
    told = [line[SAMPLES_WIDTH:] for line in lines[below:]]
    return [*lines[:first], *beside, *sorted(told)]


@pytest.fixture
def attach() -> Iterator[Callable[[RunDir], Cockpit]]:
    opened: list[Cockpit] = []

    def open_one(run: RunDir) -> Cockpit:
        opened.append(Cockpit(run))
        return opened[-1]

    yield open_one
    for cockpit in opened:
        cockpit.close()


def losses_of(run: RunDir) -> list[float | None]:
    return [r.event.loss_nats for r in read_all(run.journal) if isinstance(r.event, TrainStep)]


def give_way(run: RunDir) -> None:
    """Its ranks take what others leave, as a host leaves it that waits for its GPU: two cores that train have little for a
    cockpit to start with. Told to the process and, where the kernel shares by sessions first, to its session."""
    for rank in ranks_of(run).values():
        rank.nice(10)
        with suppress(OSError):
            Path(f"/proc/{rank.pid}/autogroup").write_text("10")


def test_a_run_computes_the_same_whether_cockpits_come_and_go_or_not(runs: Runs) -> None:
    """200 times attached and detached, two at a time, in every way in which a cockpit ends."""
    watched = runs.train("watched", *ENDLESS)
    supervisor, began = runs.pid, time.monotonic()
    watch(watched, kind_is("train_step"), PATIENCE_SECONDS)
    give_way(watched)
    ways = cycle(["q", "SIGHUP", "q", "SIGKILL", "q", "SIGTERM"])
    for _ in range(rounds(2, 100)):
        pair: list[Cockpit] = []
        try:
            pair += [Cockpit(watched), Cockpit(watched)]
            wait_until_all(
                pair,
                lambda screens: all(
                    word in screen for screen in screens for word in ("running", "live", "loss nats")
                ),
                "the run",
            )
            for cockpit in pair:
                cockpit.leave(next(ways))
        finally:
            for cockpit in pair:
                cockpit.close()
    status = observe(watched)
    assert (status.state, status.error, status.restarts, status.attempt) == ("running", None, 0, 1)
    send_command(watched, "stop")
    watch(watched, state_is("stopped"), PATIENCE_SECONDS)
    wait_until_over(watched, supervisor)
    seen = losses_of(watched)
    print(
        f"{rounds(4, 200)} cockpits came and went in {len(seen)} steps and {time.monotonic() - began:.0f} s"
    )
    alone = runs.train("alone", *ENDLESS)
    watch(alone, step_reached(len(seen)), 1800)
    assert losses_of(alone)[: len(seen)] == seen


def test_two_cockpits_see_the_same_and_what_one_asks_for_the_other_sees_happen(
    runs: Runs, attach: Callable[[RunDir], Cockpit]
) -> None:
    run = runs.train("shared", *ENDLESS)
    first = attach(run)
    first.wait_for("running", "live", "loss nats")
    second = attach(run)
    second.wait_for("running", "live", "loss nats")
    first.write(b"P")
    wait_until_all([first, second], lambda both: all("paused" in screen for screen in both), "the pause")
    second.write(b"P")
    wait_until_all([first, second], lambda both: all("running" in screen for screen in both), "the way on")
    send_command(run, "stop")
    wait_until_all(
        [first, second],
        lambda both: (
            all("stopped  shared" in screen and "from disk" in screen for screen in both)
            and figures(both[0]) == figures(both[1])
        ),
        "the same end",
    )


def test_a_supervisor_that_dies_under_an_open_cockpit_is_told_and_its_successor_watched(
    runs: Runs, attach: Callable[[RunDir], Cockpit]
) -> None:
    run = runs.train("orphaned", *ENDLESS)
    cockpit = attach(run)
    cockpit.wait_for("running", "live", "loss nats")
    kill_and_wait(runs.pid)
    cockpit.wait_for("its supervisor died; the ranks train on", "from disk")
    before = observe(run).step
    runs.resume(run)
    cockpit.wait_for("running", "live")
    wait_until_all(
        [cockpit], lambda screens: "its supervisor died" not in screens[0], "that it is well again"
    )
    wait_until(lambda: observe(run).step > before, "it trains on", PATIENCE_SECONDS)
    cockpit.write(b"P")
    cockpit.wait_for("paused")
    send_command(run, "stop")
    cockpit.wait_for("stopped  orphaned")
    steps = [r.event.step for r in read_all(run.journal) if isinstance(r.event, TrainStep)]
    assert steps == list(range(1, len(steps) + 1)), "no step is missing"
