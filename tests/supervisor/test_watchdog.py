from typing import get_args

import pytest

from tests.supervisor.rank_program import event, train_step
from trainer_daemon.contract.events import Event, Phase, PhaseChanged
from trainer_daemon.contract.journal import Record, Stream
from trainer_daemon.supervisor.watchdog import BUDGETS, LONGEST_TICK_SECONDS, Silence, Watchdog, phase_of

HANG = 60.0


def heard(*told: Event, stream: Stream = "train") -> Watchdog:
    watchdog = Watchdog(HANG, now=0.0)
    for what in told:
        watchdog.hear(Record(stream, 1, 0.0, 0.0, 1, what.kind(), what))
    return watchdog


def silence_after(watchdog: Watchdog, seconds: int) -> Silence:
    """Looked at once a second, as a supervisor does. From second 0 on: a watchdog is asked once."""
    return [watchdog.look(float(second)) for second in range(seconds + 1)][-1]


def steps_of(*step_seconds: float) -> list[Event]:
    fields = {name: getattr(train_step(1), name) for name in train_step(1).__dataclass_fields__}
    return [event("train_step", **{**fields, "step_seconds": seconds}) for seconds in step_seconds]


def test_a_step_may_take_a_minute_and_ten_medians() -> None:
    quick = heard(PhaseChanged("running", 0), *steps_of(0.1, 0.1, 0.1))
    assert silence_after(quick, 60).judgement == "well"
    assert silence_after(heard(PhaseChanged("running", 0), *steps_of(0.1)), 61).judgement == "stalled"
    assert silence_after(heard(PhaseChanged("running", 0), *steps_of(0.1)), 121).judgement == "hung"
    # one slow step, as after a garbage collection or a full disk, does not move the median
    slow = (PhaseChanged("running", 0), *steps_of(20.0, 20.0, 500.0))
    assert silence_after(heard(*slow), 199).judgement == "well"
    assert silence_after(heard(*slow), 201).judgement == "stalled"


def test_the_first_step_may_compile_and_what_is_between_steps_has_its_own_time() -> None:
    assert silence_after(heard(PhaseChanged("running", 0)), 599).judgement == "well"
    assert silence_after(heard(PhaseChanged("running", 0)), 601).judgement == "stalled"
    evaluating = (PhaseChanged("running", 0), *steps_of(0.1), PhaseChanged("evaluating", 1))
    assert silence_after(heard(*evaluating), 3599).judgement == "well"
    assert silence_after(heard(*evaluating), 3601) == Silence(3601, 3600, 0.1, "evaluating")


@pytest.mark.parametrize("phase", ["preparing", "paused", "stopping"])
def test_a_phase_that_waits_for_others_lasts_as_long_as_it_takes(phase: str) -> None:
    assert silence_after(heard(PhaseChanged(phase_of(phase), 0)), 100_000).judgement == "well"


def test_only_the_ranks_end_a_silence() -> None:
    watchdog = heard(PhaseChanged("running", 0), *steps_of(0.1))
    assert silence_after(watchdog, 61).judgement == "stalled"
    watchdog.hear(Record("daemon", 1, 0.0, 0.0, 1, "notice", event("notice", level="info", text="")))
    assert watchdog.look(61.0).judgement == "stalled"
    watchdog.hear(Record("train", 2, 0.0, 0.0, 1, "train_step", train_step(2)))
    assert watchdog.look(61.0).judgement == "well"


def test_a_machine_that_slept_is_not_a_rank_that_hangs() -> None:
    watchdog = heard(PhaseChanged("running", 0), *steps_of(0.1))
    assert watchdog.look(86_400.0).seconds == LONGEST_TICK_SECONDS


def test_every_phase_has_a_budget_and_a_supervisor_that_comes_late_knows_the_phase() -> None:
    assert set(BUDGETS) == set(get_args(Phase))
    assert [phase_of(name) for name in ("saving", None, "dancing")] == ["saving", "preparing", "preparing"]
