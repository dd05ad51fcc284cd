"""Is this step sound? Asked after the step's one exchange and before the optimizer moves anything.

The answer follows from numbers that all ranks have, so all give the same one. Usual is what the median and the median
absolute deviation of the last sound steps say, on a logarithmic scale: one outlier moves neither, and none enters the
window. A value that is not finite is never compared with anything, since every comparison with NaN is False.
"""

from dataclasses import dataclass
from math import isfinite, log
from typing import Literal

from trainer_daemon.engine.checkpoint.files import Progress

WINDOW_STEPS = 128
LEAST_STEPS = 32
"""Sound steps before anything counts as a spike: the first ones of a run move fast."""
DEVIATIONS = 6.0
NORMAL_MAD = 1.4826
"""Standard deviation / median absolute deviation of a normal distribution."""
LEAST_LOSS_RATIO = 1.25
LEAST_GRADIENT_RATIO = 3.0
"""A spike is at least so many times the median, however quiet the window is. Gradients have long tails."""
RELEARN_STEPS = 32
"""Spikes in a row after which they are what is usual."""
EPISODE_STEPS = 32
"""Sound steps that end an episode; within one nothing is told twice."""
MAX_SKIPPED_STEPS = 3
"""Steps in a row that are left out: then spikes count, and what is not finite is answered by a rollback."""
MAX_ROLLBACKS = 2
"""Of a run, over all its launches; what is not finite after these ends it."""
LEAST_POSITIVE = 1e-30

Doubt = Literal["not_finite", "loss_spike", "gradient_spike"]


def stands_out(value: float, usual: list[float], least_ratio: float) -> bool:
    """Whether a finite value is a spike among sound ones: six deviations above their median, and `least_ratio` times it."""
    middle = median_of(usual)
    # nearly every step ends here: the deviation costs ten times as much
    if middle is None or len(usual) < LEAST_STEPS or value <= least_ratio * middle:
        return False
    rises = sorted(abs(log_ratio(v, middle)) for v in usual)
    return log_ratio(value, middle) > DEVIATIONS * NORMAL_MAD * rises[len(rises) // 2]


def log_ratio(value: float, middle: float) -> float:
    """log(value / middle) of what is not negative."""
    return log(max(value, LEAST_POSITIVE)) - log(max(middle, LEAST_POSITIVE))


def median_of(usual: list[float]) -> float | None:
    """The upper median; None of nothing."""
    return sorted(usual)[len(usual) // 2] if usual else None


def in_words(
    doubt: Doubt,
    loss_nats: float,
    usual_loss: float | None,
    grad_norm: float,
    usual_norm: float | None,
    rank_losses: list[float],
    gradient_norms: dict[str, float],
) -> str:
    """What was seen, with the figures that matter to this doubt."""
    match doubt:
        case "loss_spike":
            return f"the loss jumped to {loss_nats:.4g} nats from a usual {usual_loss:.4g}"
        case "gradient_spike":
            return f"the gradient's norm jumped to {grad_norm:.4g} from a usual {usual_norm:.4g}"
        case "not_finite":
            bad_ranks = [str(rank) for rank, loss in enumerate(rank_losses) if not isfinite(loss)]
            if bad_ranks:
                return (
                    f"the loss is not finite on rank {', '.join(bad_ranks)}; no rank changed its parameters"
                )
            bad = next((name for name, norm in gradient_norms.items() if not isfinite(norm)), "the whole")
            return f"the gradient is not finite, {bad} first; no rank changed its parameters"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one step."""

    doubt: Doubt | None
    is_news: bool
    """It begins an episode: to be told and recorded."""
    is_left_out: bool
    """The optimizer must not see it."""


class Health:
    """Judges one step after the other. What is usual belongs to the run's progress and is saved with it.

    `rollbacks`: of earlier launches.
    """

    def __init__(self, progress: Progress, *, skip_spikes: bool, rollbacks: int = 0) -> None:
        self._progress = progress
        self._skip_spikes = skip_spikes
        self.rollbacks = rollbacks
        """Of the run up to now."""
        self.skipped_in_a_row = 0
        """Steps left out up to now, an fp16 overflow not counted."""
        self._not_finite_in_a_row = 0
        self._spikes_in_a_row = 0
        self._sound_steps: dict[Doubt, int] = {}
        """Since the last doubt of a kind."""

    @property
    def must_roll_back(self) -> bool:
        """What is not finite does not pass by itself."""
        return self._not_finite_in_a_row >= MAX_SKIPPED_STEPS

    def judge(self, loss_nats: float, grad_norm: float, *, is_answered: bool = False) -> Verdict:
        """To be called with every step. `is_answered`: an overflow that a lower loss scale takes care of."""
        if is_answered:
            return Verdict(None, is_news=False, is_left_out=True)
        doubt = self._doubt(loss_nats, grad_norm)
        skips_spike = doubt is not None and self._skip_spikes and self.skipped_in_a_row < MAX_SKIPPED_STEPS
        is_left_out = doubt == "not_finite" or skips_spike
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_left_out else 0
        self._not_finite_in_a_row = self._not_finite_in_a_row + 1 if doubt == "not_finite" else 0
        return Verdict(doubt, self._is_news(doubt), is_left_out)

    def rolled_back(self) -> None:
        """Training goes on from a checkpoint: count anew."""
        self.rollbacks += 1
        self.skipped_in_a_row = self._not_finite_in_a_row = 0

    def _doubt(self, loss_nats: float, grad_norm: float) -> Doubt | None:
        """What is wrong with this step, if anything is; takes it into what is usual if nothing is."""
        if not (isfinite(loss_nats) and isfinite(grad_norm)):
            return "not_finite"
        losses, norms = self._progress.usual_loss_nats, self._progress.usual_grad_norm
        found: Doubt | None = None
        if stands_out(loss_nats, losses, LEAST_LOSS_RATIO):
            found = "loss_spike"
        elif stands_out(grad_norm, norms, LEAST_GRADIENT_RATIO):
            found = "gradient_spike"
        self._spikes_in_a_row = self._spikes_in_a_row + 1 if found else 0
        if self._spikes_in_a_row >= RELEARN_STEPS:  # a new level, not a spike: learn it from here
            losses.clear()
            norms.clear()
            self._spikes_in_a_row = 0
        if not found:
            for window, value in ((losses, loss_nats), (norms, grad_norm)):
                window.append(value)
                del window[:-WINDOW_STEPS]
        return found

    def _is_news(self, doubt: Doubt | None) -> bool:
        is_news = doubt is not None and self._sound_steps.get(doubt, EPISODE_STEPS) >= EPISODE_STEPS
        for kind in self._sound_steps:
            self._sound_steps[kind] += 1
        if doubt is not None:
            self._sound_steps[doubt] = 0
        return is_news
