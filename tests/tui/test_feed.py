"""The thread that reads a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NoReturn

from trainer_daemon.contract.course import Item, Steps
from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import Finished, Notice, StateChanged, TrainStep
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import RunDir
from tui.feed import FOLLOWED_BATCH, MOST_BATCHES, Watch, open_link
from tui.run_state import RunState

if TYPE_CHECKING:
    from tests.tui.conftest import Runs, WrittenRun


def until(watch: Watch, is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, "it did not come to pass"
        watch.join(0.005)


def steps_in(items: Sequence[Item]) -> list[int]:
    """The steps that came, in order, one by one or many at once."""
    steps: list[int] = []
    for item in items:
        if isinstance(item, Steps):
            steps += map(int, item.columns["step"])
        elif isinstance(item.event, TrainStep):
            steps.append(item.event.step)
    return steps


def walls_of(item: Item) -> list[float]:
    return list(item.columns["wall"]) if isinstance(item, Steps) else [item.wall]


def watched(written: WrittenRun, steps: int) -> list[Item]:
    """All that came of the run, once `steps` steps have come."""
    watch = Watch(written.run, open_link)
    watch.start()
    items: list[Item] = []

    def has_come() -> bool:
        items.extend(watch.take())
        return watch.is_caught_up and len(steps_in(items)) >= steps

    try:
        until(watch, has_come)
    finally:
        watch.stop()
    assert not watch.is_alive()
    return items


def test_history_comes_in_the_order_of_time_so_that_old_errors_stay_old(runs: Runs) -> None:
    written = runs.create("fox", 6000)
    written.begin()
    written.train(1, 5500)
    written.tell("train", Finished("failed", 5500, "out of memory"))
    written.tell("daemon", StateChanged("failed", "out of memory", 1, 1), StateChanged("starting", "", 1, 2))
    written.tell("daemon", StateChanged("running", "", 1, 2))
    written.train(5501, 6000)
    items = watched(written, 6000)
    walls = [wall for item in items for wall in walls_of(item)]
    assert walls == sorted(walls)
    state = RunState("fox")
    state.apply(items)
    assert state.status.state == "running"
    assert state.status.error is None


def test_every_record_comes_once_whether_it_was_there_before_or_is_written_while_one_watches(
    runs: Runs,
) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 100)
    watch = Watch(written.run, open_link)
    watch.start()
    seen: list[int] = []

    def take() -> int:
        seen.extend(steps_in(watch.take()))
        return len(seen)

    until(watch, lambda: take() == 100)
    for step in range(101, 161, 20):
        written.train(step, step + 19)
    until(watch, lambda: take() >= 160)
    watch.stop()
    assert seen == list(range(1, 161))


def test_the_locks_are_asked_when_nobody_answers_for_the_run(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 10, every=10)
    written.die()
    watch = Watch(written.run, open_link)
    watch.start()
    until(watch, lambda: watch.is_caught_up)
    watch.stop()
    assert watch.observed is not None
    assert watch.observed.state == "crashed"
    assert watch.stored == frozenset({"step-00000010"})


def test_an_ended_run_is_followed_though_its_curves_are_never_drawn(runs: Runs) -> None:
    """Something else may lie over them; the link waits for them only so long."""
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 10)
    written.die()
    watch = Watch(written.run, open_link, is_shown_first=True)
    watch.start()
    until(watch, lambda: watch.is_caught_up)
    written.train(11, 20)
    steps: list[int] = []

    def take() -> list[int]:
        steps.extend(steps_in(watch.take()))
        return steps

    until(watch, lambda: len(take()) == 20)
    watch.stop()
    assert steps == list(range(1, 21))


class QuickRun:
    """A feed of a run without a supervisor, in which there is always something new."""

    link_state: Literal["disk"] = "disk"

    def __init__(self, _run: RunDir, _after: dict[str, int]) -> None:
        self.seq = 0

    def poll(self, _timeout_seconds: float) -> list[Record]:
        self.seq += 1
        time.sleep(0.001)
        return [Record("train", self.seq, time.time(), 0.0, 1, "notice", Notice("info", ""))]

    def interrupt(self) -> None: ...

    def close(self) -> None:
        pass


def test_a_run_so_quick_that_no_poll_is_empty_is_looked_at_all_the_same(runs: Runs) -> None:
    """Its checkpoints were never listed, and the cockpit never took its history for read."""
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 10, every=10)
    watch = Watch(written.run, QuickRun)
    watch.start()
    until(watch, lambda: watch.is_caught_up)
    watch.stop()
    assert watch.stored == frozenset({"step-00000010"})


def test_who_sleeps_is_woken_for_all_there_is_to_take_and_for_each_other_look_of_the_run(runs: Runs) -> None:
    """The cockpit draws nothing and looks at nothing until it is woken."""
    written = runs.create("fox", 100)
    written.begin()
    written.train(1, 50)
    woken = threading.Event()
    taken: list[Item] = []
    watch = Watch(written.run, open_link, woken.set)
    watch.start()

    def sleep_until(is_true: Callable[[], object]) -> None:
        while not is_true():
            assert woken.wait(60), "nobody woke it"
            woken.clear()
            while watch.has_more:
                taken.extend(watch.take())

    try:
        sleep_until(lambda: watch.is_caught_up and watch.link_state and len(steps_in(taken)) == 50)
        written.train(51, 60)
        sleep_until(lambda: len(steps_in(taken)) == 60)
        (written.run.checkpoints / "step-00000060").mkdir(parents=True)
        sleep_until(lambda: "step-00000060" in (watch.stored or ()))
    finally:
        watch.stop()


def test_who_sleeps_is_woken_when_a_run_cannot_be_read(runs: Runs) -> None:
    def refuse(_run: RunDir, _after: dict[str, int]) -> NoReturn:
        raise RefusedError("not yours")

    woken = threading.Event()
    watch = Watch(runs.create("fox", 10).run, refuse, lambda: woken.set() if watch.failure else None)
    watch.start()
    assert woken.wait(60)
    watch.stop()


def test_a_run_quicker_than_it_is_folded_in_waits_in_its_journal_and_not_in_memory(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    watch = Watch(written.run, QuickRun)
    watch.start()
    until(watch, lambda: watch.waiting == MOST_BATCHES)
    watch.join(0.2)  # long enough for many more
    assert watch.waiting == MOST_BATCHES
    seen: list[int] = []

    def take() -> int:
        seen.extend(r.seq for r in watch.take() if isinstance(r, Record) and r.kind == "notice")
        return len(seen)

    until(watch, lambda: take() > 3 * MOST_BATCHES)
    watch.stop()
    assert not watch.is_alive(), "and it lets go while it waits"
    assert seen == list(range(1, len(seen) + 1))


class HeldUpRun(QuickRun):
    """A feed in which all comes at once, as behind a supervisor that stood still."""

    def __init__(self, run: RunDir, after: dict[str, int]) -> None:
        super().__init__(run, after)
        self._is_interrupted = threading.Event()

    def poll(self, timeout_seconds: float) -> list[Record]:
        if self.seq:
            self._is_interrupted.wait(timeout_seconds)
            return []
        return [record for _ in range(1000) for record in super(HeldUpRun, self).poll(0)]

    def interrupt(self) -> None:
        self._is_interrupted.set()


def test_what_comes_together_is_folded_in_a_little_at_a_time(runs: Runs) -> None:
    """A cockpit that caught up stood still for half a second: keys and frames waited for thousands of events in one go."""
    written = runs.create("fox", 400)
    written.begin()
    watch = Watch(written.run, HeldUpRun)
    watch.start()
    batches: list[list[int]] = []

    def take() -> int:
        batch = [r.seq for r in watch.take() if isinstance(r, Record) and r.kind == "notice"]
        batches.extend([batch] if batch else [])
        return sum(map(len, batches))

    until(watch, lambda: take() == 1000)
    watch.stop()
    assert max(map(len, batches)) <= FOLLOWED_BATCH
    assert [seq for batch in batches for seq in batch] == list(range(1, 1001))
