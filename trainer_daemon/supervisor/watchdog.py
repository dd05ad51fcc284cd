"""Tells ranks that hang from ranks that are busy, by the journal alone: no process is asked anything.

Ranks that step say so every step; silence is judged against their own median. What they do between two steps has a
budget of its own, so that a long evaluation is no hang. Only time in which the supervisor itself was awake counts as
silence: a machine that slept, or a container that was frozen, is not accused of it.
"""

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal

from trainer_daemon.contract.events import AttemptStarted, Phase, PhaseChanged, TrainStep
from trainer_daemon.contract.journal import Record

USUAL_STEPS = 10
"""A step may take this many medians."""
REMEMBERED_STEPS = 64
LONGEST_TICK_SECONDS = 5.0
"""Longest time between two looks that counts as silence: more means that the supervisor did not run either."""

BUDGETS: dict[Phase, float | None] = {
    "preparing": None,
    "building": 30,
    "running": 1,
    "evaluating": 60,
    "sampling": 30,
    "saving": 30,
    "paused": None,
    "stopping": None,
}
"""Silence that a phase may last, in units of `health.hang_seconds`. None: preparing waits for other runs' locks and a
pause for its user, both without end; ranks that stop are on the stop ladder."""
FIRST_STEP_BUDGET = 10
"""Of the first step of a launch, which may compile kernels."""

Judgement = Literal["well", "stalled", "hung"]


def phase_of(name: str | None) -> Phase:
    """The phase that a status names, for a supervisor that comes in the middle."""
    return next((phase for phase in BUDGETS if phase == name), "preparing")


@dataclass(frozen=True, slots=True)
class Silence:
    """How long the ranks have been silent, and what they are allowed."""

    seconds: float
    budget_seconds: float | None
    """None: as long as it takes."""
    usual_seconds: float | None
    phase: Phase

    @property
    def judgement(self) -> Judgement:
        if self.budget_seconds is None or self.seconds <= self.budget_seconds:
            return "well"
        return "hung" if self.seconds > 2 * self.budget_seconds else "stalled"


class Watchdog:
    """Measures the silence of one run's ranks. Times are monotonic seconds that the caller reads."""

    def __init__(self, hang_seconds: float, now: float, phase: Phase = "preparing") -> None:
        self._hang_seconds = hang_seconds
        self._looked_at = now
        self._silent_seconds = 0.0
        self._phase = phase
        self._steps: deque[float] = deque(maxlen=REMEMBERED_STEPS)

    def hear(self, record: Record) -> None:
        """Take in a record of the journal; those of the ranks end a silence."""
        if record.stream != "train":
            return
        self._silent_seconds = 0.0
        match record.event:
            case AttemptStarted():
                self._phase = "preparing"
                self._steps.clear()
            case PhaseChanged(phase):
                self._phase = phase
            case TrainStep(step_seconds=seconds):
                self._steps.append(seconds)
            case _:
                pass

    def look(self, now: float) -> Silence:
        """The silence up to now."""
        self._silent_seconds += min(max(0.0, now - self._looked_at), LONGEST_TICK_SECONDS)
        self._looked_at = now
        usual = median(self._steps) if self._steps else None
        return Silence(self._silent_seconds, self._budget_seconds(usual), usual, self._phase)

    def _budget_seconds(self, usual: float | None) -> float | None:
        budget = BUDGETS[self._phase]
        if budget is None:
            return None
        if self._phase != "running":
            return budget * self._hang_seconds
        if usual is None:
            return FIRST_STEP_BUDGET * self._hang_seconds
        return max(self._hang_seconds, USUAL_STEPS * usual)
