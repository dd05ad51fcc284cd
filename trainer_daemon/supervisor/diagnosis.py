"""Reads a run's curves and samples as an experienced eye would, and says in words what is wrong.

Pure functions over a history that the supervisor gathers from the journal: nothing here costs the training anything. Each
rule gives a sentence while its condition holds; it is raised when it begins to hold, and again only after it did not.
Thresholds are wide: an alert that is wrong once is not read again. What happens within one step (spikes, NaN) is judged
by the ranks themselves, before the step changes anything.
"""

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from statistics import median

from trainer_daemon.contract.alerts import alert
from trainer_daemon.contract.events import (
    Alert,
    AlertName,
    Evaluated,
    Event,
    Resumed,
    RunPlanned,
    Sampled,
    TrainStep,
)
from trainer_daemon.contract.spec import Family

MOST_STEPS = 2**15
"""Kept of a run however long it is, half a megabyte: when there are more, every second one goes."""
RECENT_STEPS = 1024
"""The newest, kept whole."""
LOOK_STEPS = 20
"""The curves are looked at this often."""
QUIET_LOOKS = 5
"""Looks in a row at which a rule must not hold before it may be raised again."""
STUCK_STEPS = 150
STUCK_WITHIN = 0.02
"""Of ln V: a model that gives every token the same chance has exactly that loss."""
SLOW_STEPS = 400
SLOW_ABOVE = 0.75
"""Of ln V; counting how often each token occurs is enough to get below."""
PLATEAU_WINDOW = 200
PLATEAU_PROGRESS = 0.002
"""Share of the loss by which three windows must improve on the one before them."""
PLATEAU_UNTIL = 0.5
"""Of the run: later, flat is what the end of a run looks like."""
NEAR_FLOOR = 1.05
"""Times the corpus's entropy floor, below which there is nothing left to learn."""
DIVERGING_EVALUATIONS = 3
DIVERGING_BY = 1.02
"""Times the lowest held-out loss."""
GOOD_BITS_PER_BYTE = 1.3
LEAST_SAMPLE_CHARACTERS = 40
ODD_CHARACTERS = 0.15
LONGEST_WORD = 60


@dataclass(slots=True)
class History:
    """What the rules read. Steps that were cut off by a resume are not in it; of a long run's older ones every 2nd, 4th, ... is."""

    vocab_size: int | None = None
    total_steps: int | None = None
    bits_per_byte_floor: float | None = None
    steps: "array[int]" = field(default_factory=lambda: array("q"))
    losses: "array[float]" = field(default_factory=lambda: array("d"))
    """Of the steps in `steps`, those that were finite."""
    evaluations: list[tuple[int, float, float]] = field(default_factory=list)
    """(step, val_loss_nats, val_bpb)."""
    samples: list[str] = field(default_factory=list)
    """The texts of the newest step that has any."""
    samples_step: int = -1
    stride: int = 1
    """Older steps are kept where their number is a multiple of it."""

    def take(self, event: Event | None) -> None:
        match event:
            case RunPlanned() as e:
                self.vocab_size, self.total_steps = e.vocab_size, e.total_steps
                self.bits_per_byte_floor = e.bits_per_byte_floor
            case Resumed(step=step):
                kept = bisect_left(self.steps, step + 1)
                del self.steps[kept:], self.losses[kept:]
                self.evaluations = [e for e in self.evaluations if e[0] <= step]
            case TrainStep(step=step, loss_nats=float(loss)):
                self._note(step, loss)
            case Evaluated() as e:
                self.evaluations.append((e.step, e.val_loss_nats, e.val_bpb))
            case Sampled() as e if e.temperature <= 1:  # a hotter one may be as odd as it likes
                if e.step != self.samples_step:
                    self.samples_step, self.samples = e.step, []
                self.samples.append(e.text)
            case _:
                pass

    def fill_up_to(self, event: Event | None) -> None:
        """Put back the steps that a thinned history left out before this one: the rules count steps. Of each group it keeps
        the one with the highest loss, so what was in between is taken to be as low as the lower neighbour."""
        match event:
            case TrainStep(step=step, loss_nats=float(loss)) if self.steps and step > self.steps[-1] + 1:
                lower = min(self.losses[-1], loss)
                for left_out in range(self.steps[-1] + 1, step):
                    self._note(left_out, lower)
            case _:
                pass

    def _note(self, step: int, loss: float) -> None:
        self.steps.append(step)
        self.losses.append(loss)
        leaving = len(self.steps) - RECENT_STEPS - 1
        if leaving > 0 and self.steps[leaving] % self.stride:
            del self.steps[leaving], self.losses[leaving]
        if len(self.steps) > MOST_STEPS:
            self.stride *= 2
            older = range(len(self.steps) - RECENT_STEPS)
            kept = [i for i in older if i == 0 or self.steps[i] % self.stride == 0]
            self.steps[: len(older)] = array("q", (self.steps[i] for i in kept))
            self.losses[: len(older)] = array("d", (self.losses[i] for i in kept))

    @property
    def count(self) -> int:
        """Steps from the first to the newest."""
        return self.steps[-1] - self.steps[0] + 1 if self.steps else 0

    def recent(self, count: int, skip: int = 0) -> float:
        """Median loss of `count` steps, `skip` steps before the newest; of the nearest one where all of them are missing."""
        last = self.steps[-1] - skip
        end = max(1, bisect_left(self.steps, last + 1))
        begin = min(bisect_left(self.steps, last - count + 1), end - 1)
        found = self.losses[begin:end]
        if (
            count > RECENT_STEPS
        ):  # the newest are no denser than the others then, or they would count for more
            steps = self.steps[begin:end]
            even = [loss for step, loss in zip(steps, found, strict=True) if step % self.stride == 0]
            return median(even or found)
        return median(found)

    def loss_near(self, step: int) -> float | None:
        """Median training loss of the fifty kept steps up to one."""
        end = bisect_left(self.steps, step + 1)
        return median(self.losses[max(0, end - 50) : end]) if end else None


def loss_stuck(h: History) -> str | None:
    """As if nothing had been learned since the first step."""
    if h.vocab_size is None or h.count < STUCK_STEPS:
        return None
    uniform, now = log(h.vocab_size), h.recent(50)
    if abs(now - uniform) > STUCK_WITHIN * uniform:
        return None
    return f"after {h.count} steps the loss is {now:.3f} nats, which is ln V = {uniform:.3f}: every token is equally likely"


def slow_descent(h: History) -> str | None:
    """It learns, but far too slowly."""
    if h.vocab_size is None or h.count < SLOW_STEPS or loss_stuck(h):
        return None
    uniform, now = log(h.vocab_size), h.recent(50)
    if not SLOW_ABOVE * uniform < now < uniform:
        return None
    return f"after {h.count} steps the loss has come down from {uniform:.2f} to {now:.2f} nats only"


def early_plateau(h: History) -> str | None:
    """Three windows without progress, in the first half of the run and far from the floor."""
    count, window = h.count, max(PLATEAU_WINDOW, h.count // 10)
    if h.total_steps is None or count < 4 * window or loss_stuck(h):
        return None
    share = h.steps[-1] / h.total_steps
    if share > PLATEAU_UNTIL:
        return None
    if h.bits_per_byte_floor and h.evaluations and h.evaluations[-1][2] < NEAR_FLOOR * h.bits_per_byte_floor:
        return None
    before, now = h.recent(window, 3 * window), h.recent(window)
    if now < before * (1 - PLATEAU_PROGRESS):
        return None
    return f"the loss has stayed at {now:.3f} nats for {3 * window} steps, with {share:.0%} of the run done"


def overfitting(h: History) -> str | None:
    """The held-out loss rises while the training loss falls."""
    if len(h.evaluations) <= DIVERGING_EVALUATIONS:
        return None
    best_step, best, _ = min(h.evaluations, key=lambda e: e[1])
    last = h.evaluations[-DIVERGING_EVALUATIONS:]
    if last[0][0] <= best_step or any(loss < DIVERGING_BY * best for _, loss, _ in last):
        return None
    then, now = h.loss_near(best_step), h.loss_near(last[-1][0])
    if then is None or now is None or now >= then:
        return None
    return (
        f"the held-out loss was lowest at step {best_step} ({best:.3f} nats) and is {last[-1][1]:.3f} now, while the training "
        f"loss fell from {then:.3f} to {now:.3f}"
    )


def gibberish(h: History) -> str | None:
    """Samples that are no text, from a model whose loss says that it could write some."""
    if not h.evaluations or h.evaluations[-1][2] > GOOD_BITS_PER_BYTE:
        return None
    texts = [text for text in h.samples if len(text) >= LEAST_SAMPLE_CHARACTERS]
    odd = [text for text in texts if is_gibberish(text)]
    if not odd or 2 * len(odd) <= len(texts):
        return None
    return f"val_bpb is {h.evaluations[-1][2]:.3f}, but {len(odd)} of {len(texts)} samples are no text: {odd[0][:60]!r}"


def is_gibberish(text: str) -> bool:
    """Replacement characters and other debris, or Latin letters without end. Repetition is none: that is how greedy text reads."""
    odd = sum(
        c == "�" or (unicodedata.category(c) in {"Cc", "Cn", "Co", "Cs"} and not c.isspace()) for c in text
    )
    return odd > ODD_CHARACTERS * len(text) or re.search(rf"[A-Za-z]{{{LONGEST_WORD},}}", text) is not None


RULES: dict[AlertName, Callable[[History], str | None]] = {
    "loss_stuck": loss_stuck,
    "slow_descent": slow_descent,
    "early_plateau": early_plateau,
    "overfitting": overfitting,
    "gibberish": gibberish,
}


class Diagnosis:
    """Takes in a run's events; says what has begun to be wrong."""

    def __init__(self, family: Family = "nanochat") -> None:
        """`family`: of the run's model, whose words advice is given in."""
        self._family: Family = family
        self._history = History()
        self._quiet_looks: dict[AlertName, int] = {}
        """Since a rule that was raised last held."""

    def remember(self, event: Event | None) -> None:
        """Take in what happened under an earlier supervisor, whose alerts are not raised again."""
        self._history.fill_up_to(event)
        self._history.take(event)
        if isinstance(event, Alert) and event.name in RULES:
            self._quiet_looks[event.name] = 0

    def take(self, event: Event | None) -> list[Alert]:
        """The alerts that this event raises."""
        self._history.take(event)
        match event:
            case TrainStep(step=step) if step % LOOK_STEPS == 0:
                # the medians are over a share of the run: looked at less often as it grows, their cost stays the same
                every = max(LOOK_STEPS, self._history.count // 100 // LOOK_STEPS * LOOK_STEPS)
                if step % every:
                    return []
                return self._raise(step, "loss_stuck", "slow_descent", "early_plateau")
            case Evaluated(step=step):
                return self._raise(step, "overfitting")
            case Sampled(step=step):
                return self._raise(step, "gibberish")
            case _:
                return []

    def _raise(self, step: int, *names: AlertName) -> list[Alert]:
        raised = []
        for name in names:
            seen = RULES[name](self._history)
            if seen is None:
                self._quiet_looks[name] = self._quiet_looks.get(name, QUIET_LOOKS) + 1
                continue
            if self._quiet_looks.get(name, QUIET_LOOKS) >= QUIET_LOOKS:
                raised.append(alert(name, step, seen, family=self._family))
            self._quiet_looks[name] = 0
        return raised
