"""What went wrong with a run, in the order in which it did: alerts, ranks that died or fell silent, checkpoints that failed.
Each with its likely cause, what to do about it, and a command that does it or shows more."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainer_daemon.contract.events import Alert, CheckpointFailed, RankExited, Stalled
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.text import printable

GRAVE = frozenset({"not_finite", "rolled_back", "replicas_differ"})
"""Alerts that are errors; the others are warnings."""


@dataclass(frozen=True, slots=True)
class Alarm:
    key: str
    """Names it for good, also when the run is opened again."""
    wall: float
    step: int
    level: Literal["warning", "error"]
    name: str
    """The alert's name, or what else happened: stalled, rank_exited, checkpoint_failed."""
    seen: str
    cause: str
    fix: str
    record: str | None = None
    """A JSON file inside the run folder with the evidence."""
    rank: int | None = None
    """Whom it is about, where it is about one."""

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")


def alarm_of(record: Record, step: int) -> Alarm | None:
    """What a record warns of; None for most. `step`: where the run was then, for those that do not say."""
    key = f"{record.stream}:{record.seq}:{record.wall:.0f}"
    match record.event:
        case Alert() as e:
            level: Literal["warning", "error"] = "error" if e.name in GRAVE else "warning"
            seen, cause, fix = map(printable, (e.seen, e.cause, e.fix))
            return Alarm(
                key, record.wall, e.step, level, e.name, seen, cause, fix, e.record, _rank_in(e.seen)
            )
        case Stalled() as e:
            cause = "a rank that hangs in an exchange, a disk that does not answer, or a machine that sleeps"
            fix = "nothing if it goes on; the stacks say where each rank is"
            return Alarm(key, record.wall, step, "error", "stalled", printable(e.in_words()), cause, fix)
        case RankExited(is_root_cause=True) as e:
            how = e.signal or f"exit code {e.exit_code}"
            return Alarm(
                key,
                record.wall,
                step,
                "error",
                "rank_exited",
                printable(f"rank {e.rank} died ({how}): {e.message}"),
                "its last words are in its log; SIGKILL without words is mostly the kernel, out of memory",
                "read the log; the ranks are started again from the newest checkpoint, as often as the spec allows",
                rank=e.rank,
            )
        case CheckpointFailed() as e:
            cause = "a disk that is full, or not there any more"
            fix = "free space, or thin out older checkpoints; training goes on, the earlier ones stand"
            return Alarm(
                key, record.wall, e.step, "error", "checkpoint_failed", printable(e.error), cause, fix
            )
        case _:
            return None


def suggested_command(
    alarm: Alarm, run: str, checkpoint_steps: Sequence[int], *, has_ended: bool = False
) -> str:
    """A command that does what the alarm's fix says, or shows what it speaks of. `checkpoint_steps`: what is stored;
    `has_ended`: the run takes no setting any more, so that another is to begin where this one was still well."""
    before = max((step for step in checkpoint_steps if step < alarm.step), default=None)
    match alarm.name:
        case "loss_spike" if before is not None:
            return f"llmctl fork {run}@{before} --set health.skip_spikes=true"
        case "gradient_spike" if before is not None:
            return f"llmctl fork {run}@{before} --set train.grad_clip_norm=1"
        case "loss_spike" | "gradient_spike" | "not_finite" | "rolled_back" | "early_plateau":
            return _with_rates_times(0.67, run, before, has_ended=has_ended)
        case "loss_stuck" | "slow_descent":
            return _with_rates_times(3, run, before, has_ended=has_ended)
        case "overfitting" if has_ended:
            return f"llmctl eval {run}@best"
        case "replicas_differ":
            return f"llmctl verify {run}"
        case "overfitting":
            return f"llmctl stop {run}"
        case "gibberish":
            return f'llmctl sample {run} "Once upon a time" --temperature 0'
        case "checkpoint_failed":
            return f"llmctl prune {run}"
        case _:
            return f"llmctl logs {run} --rank {alarm.rank or 0}"


def _with_rates_times(factor: float, run: str, before: int | None, *, has_ended: bool) -> str:
    setting = f"schedule.learning_rate_factor={factor}"
    if not has_ended:
        return f"llmctl set {run} {setting}"
    return f"llmctl fork {run}@{before} --set {setting}" if before is not None else f"llmctl plot {run}"


def _rank_in(seen: str) -> int | None:
    found = re.search(r"\brank (\d+)\b", seen)
    return int(found[1]) if found else None
