"""A late frame is laid at the right door: otherwise the bench would forgive what is ours, or blame us for the machine."""

import os
import threading
import time

from tests.bench.lateness import Frame, Observer, Tally, between


def late(seconds: float, causes: Tally) -> Frame:
    return Frame(at=10.1 + seconds, step=5, due=10.0, causes=causes)


def test_a_frame_is_laid_to_what_took_most_of_the_time_that_it_was_late() -> None:
    computing = late(0.9, {"cockpit computed": 0.7, "cockpit waited for a core": 0.1})
    assert (computing.cause, computing.is_ours) == ("cockpit computed", True)
    assert computing.in_words() == "900 ms, ours: cockpit computed 700 ms; cockpit waited for a core 100 ms"
    waiting = late(0.9, {"cockpit computed": 0.2, "cockpit waited for a core": 0.6})
    assert (waiting.cause, waiting.is_ours) == ("cockpit waited for a core", False)
    both = late(0.9, {"cockpit computed": 0.5, "cockpit waited for a core": 0.6})
    assert both.cause == "cockpit computed", "what took half of it is not forgiven for what else there was"


def test_a_wait_for_the_disk_is_ours_and_so_is_a_delay_that_nothing_explains() -> None:
    assert late(0.5, {"supervisor waited for the disk": 0.4}).is_ours
    asleep = late(0.5, {"cockpit computed": 0.1})
    assert (asleep.cause, asleep.is_ours) == ("all slept", True)


def test_a_frame_is_not_late_while_there_was_nothing_to_show() -> None:
    assert Frame(at=20.0, step=5, due=19.95, causes={}).late_seconds == 0.0


def test_an_observer_tells_a_process_that_computes_from_one_that_sleeps() -> None:
    observer = Observer({"we": os.getpid()})
    before = observer.tally()
    computed = time.process_time() + 0.1
    while time.process_time() < computed:
        pass
    assert between(before, observer.tally())["we computed"] > 0.05
    before = observer.tally()
    threading.Event().wait(0.05)
    observer.look()
    assert between(before, observer.tally())["we computed"] < 0.05
