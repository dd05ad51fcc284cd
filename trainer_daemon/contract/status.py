"""What a run is right now: a fold over its journal, seen in the light of its locks.

The supervisor keeps this fold and stores it in `state.json` with the sequence numbers it covers; a reader loads that,
folds on what came after, and asks the locks who is alive. So the answer is the same with a live daemon, a dead one and
none, and a run whose processes are gone never reads as running.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import isnan
from typing import TYPE_CHECKING, Any

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import (
    FINAL_STATES,
    STEP_PARTS,
    Alert,
    AttemptStarted,
    CheckpointSaved,
    CommandDone,
    CoreScored,
    Evaluated,
    Finished,
    Forked,
    PhaseChanged,
    RankExited,
    Resumed,
    RunPlanned,
    SettingChanged,
    Stalled,
    State,
    StateChanged,
    TrainStep,
)
from trainer_daemon.contract.journal import Record, read_all
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.transitions import BY_RANKS
from trainer_daemon.contract.wire import VERSION

if TYPE_CHECKING:
    from trainer_daemon.contract.course import Steps

STATE_OF_PHASE: dict[str, State] = {
    "preparing": "starting",
    "building": "starting",
    "running": "running",
    "evaluating": "evaluating",
    "sampling": "running",
    "saving": "saving",
    "paused": "paused",
    "stopping": "stopping",
}

STEP_SECONDS_DECAY = 0.9
"""Smoothing of step_seconds behind the ETA."""
SMOOTHED_STEPS = 64
"""Of many steps that come at once the newest so many are smoothed: those before would weigh a thousandth."""


@dataclass(slots=True)
class RunStatus:
    """The fields of `llmctl status --json`. Unknown is None."""

    name: str
    tag: str = ""
    """The spec's words for its reader, as `notes` are."""
    notes: str = ""
    state: State = "starting"
    phase: str | None = None
    step: int = 0
    total_steps: int | None = None
    tokens: int = 0
    total_tokens: int | None = None
    loss_nats: float | None = None
    val_bpb: float | None = None
    min_val_bpb: float | None = None
    core: dict[str, Any] | None = None
    """The newest answer to CORE: {step, core, mean_centred, tasks}; `core` is None where not all 22 tasks were asked."""
    bits_per_byte_floor: float | None = None
    mfu: float | None = None
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    eta_seconds: float | None = None
    learning_rate_scale: float | None = None
    grad_norm: float | None = None
    learning_rates: dict[str, float] | None = None
    step_parts: dict[str, float] | None = None
    """{data, compute, wait, optimizer}: seconds of each in a step, smoothed as step_seconds is."""
    memory_bytes: int | None = None
    peak_memory_bytes: int | None = None
    """The most that any step of the present launch reported."""
    last_checkpoint: dict[str, Any] | None = None
    """{step, path}, path inside the run's `checkpoints/`."""
    attempt: int = 0
    """Launches of the ranks so far."""
    attempt_steps: int = 0
    """Steps of the present launch."""
    restarts: int = 0
    """Launches by a supervisor after a failure; a resume by the user is none."""
    training_seconds: float = 0.0
    """Seconds of all attempts, each from its ranks' first event to their last; not what the run lay stopped."""
    trained_until: float | None = None
    """Monotonic seconds up to which training_seconds counts: a clock that is set adds nothing."""
    world_size: int | None = None
    device: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """What was changed while it ran, key to value."""
    forked_from: str | None = None
    """RUN@STEP of the checkpoint that it began with."""
    error: dict[str, str] | None = None
    """{kind, message} of what is wrong, if anything is."""
    alert: dict[str, Any] | None = None
    """{name, step, message} of the newest alert about the training since the ranks were launched."""
    skipped_steps: int = 0
    """Steps of this run's present branch that changed nothing."""
    rollbacks: int = 0
    """Times that the ranks went back to a checkpoint because the loss stayed not finite, over the whole run."""
    pid: int | None = None
    """Of the supervisor."""
    started_at: float | None = None
    updated_at: float | None = None
    spec_hash: str | None = None
    protocol: str = ".".join(map(str, VERSION))
    cursors: dict[str, int] = field(default_factory=dict)
    """Per stream, the sequence number of the last event folded in."""

    def apply(self, record: Record) -> None:
        """Fold one record in."""
        self.cursors[record.stream] = record.seq
        if (
            record.stream == "system"
        ):  # the supervisor's look at the machine: the training may be silent meanwhile
            return
        self.updated_at = record.wall
        if self.started_at is None:
            self.started_at = record.wall
        if record.stream == "train":
            if self.error is not None and self.error["kind"] == "stalled":
                self.error = None
            if self.trained_until is not None and not isinstance(record.event, AttemptStarted):
                self.training_seconds += max(0.0, record.mono - self.trained_until)
            self.trained_until = record.mono
        match record.event:
            case StateChanged() as e:
                self._change_state(e)
            case PhaseChanged(phase, step):
                self.phase = phase
                self.step = max(self.step, step)
                # the supervisor's word is final; and a stop that was asked for stays visible until it is done
                reported = STATE_OF_PHASE.get(phase, "running")
                if reported in BY_RANKS[self.state]:
                    self.state = reported
            case AttemptStarted() as e:
                self.world_size, self.device, self.attempt_steps = e.world_size, e.device, 0
                self.memory_bytes = self.peak_memory_bytes = self.step_parts = None
            case RunPlanned() as e:
                self.total_steps, self.total_tokens = e.total_steps, e.total_tokens
                self.bits_per_byte_floor = e.bits_per_byte_floor
            case Resumed(step=step, min_val_bpb=best):
                # what came after that step was cut off, its evaluations too
                self.step, self.val_bpb, self.min_val_bpb = step, None, best
                if self.core is not None and self.core["step"] > step:
                    self.core = None
            case TrainStep() as e:
                self._take_step(e)
            case Evaluated() as e:
                self.val_bpb = e.val_bpb
                self.min_val_bpb = e.val_bpb if self.min_val_bpb is None else min(self.min_val_bpb, e.val_bpb)
            case CoreScored(step=step, core=core, mean_centred=mean, tasks=tasks):
                self.core = {"step": step, "core": core, "mean_centred": mean, "tasks": tasks}
            case CheckpointSaved() as e:
                self.last_checkpoint = {"step": e.step, "path": e.path}
            case RankExited(rank=rank, message=message, is_root_cause=True):
                self.error = {"kind": "rank_exit", "message": f"rank {rank}: {message}"}
            case SettingChanged(key=key, value=value):
                self.settings[key] = value
            case Forked(run=origin, step=step):
                self.forked_from = f"{origin}@{step}"
            case CommandDone(name="stop", ok=False) if self.state == "stopping":
                self.state = (
                    "running"  # it could not be saved; if it ends all the same, its last word follows
                )
            case Stalled() as e:
                self.error = {"kind": "stalled", "message": f"{e.in_words()}. See: llmctl logs {self.name}"}
            case Alert() as e:
                self.alert = {"name": e.name, "step": e.step, "message": e.in_words()}
                self.rollbacks += e.name == "rolled_back"
            case Finished(reason="failed", message=message, cause=cause):
                self.error = {"kind": cause or "failed", "message": message}
            case _:
                pass

    def apply_steps(self, steps: "Steps") -> None:
        """Fold in many steps that follow each other: what `apply` makes of them one by one, in a tenth of the time."""
        columns, older = steps.columns, len(steps) - 1
        if older:
            if self.started_at is None:
                self.started_at = columns["wall"][0]
            mono = columns["mono"][:older]
            began = mono[0] if self.trained_until is None else self.trained_until
            self.training_seconds += sum(
                max(0.0, after - before) for before, after in pairwise([began, *mono])
            )
            self.trained_until = mono[-1]
            self.skipped_steps += sum(was > 0 for was in columns["was_skipped"][:older])
            peaks = [peak for peak in columns["peak_memory_bytes"][:older] if not isnan(peak)]
            if peaks:
                self.peak_memory_bytes = max(self.peak_memory_bytes or 0, int(max(peaks)))
            smoothed = min(older, SMOOTHED_STEPS)
            self.attempt_steps += older - smoothed
            row = older - smoothed
            while row < older and (self.step_seconds is None or self.attempt_steps < 2):  # warming up
                self.attempt_steps += 1
                parts = {part: columns[f"{part}_seconds"][row] for part in STEP_PARTS}
                known = {part: seconds for part, seconds in parts.items() if not isnan(seconds)}
                self._smooth_pace(columns["step_seconds"][row], known)
                row += 1
            self.attempt_steps += older - row
            self.step_seconds = _smooth_on(self.step_seconds, columns["step_seconds"][row:older])
            before = self.step_parts or {}
            means = {
                part: _smooth_on(before.get(part), columns[f"{part}_seconds"][row:older])
                for part in STEP_PARTS
            }
            self.step_parts = {part: mean for part, mean in means.items() if mean is not None} or None
        self.apply(steps.last)

    def _change_state(self, e: StateChanged) -> None:
        # a supervisor enters `starting` when a restart is due, and again when it launches
        was_due = self.state == "starting" and e.pid == self.pid
        if e.state == "starting" and was_due and e.attempt > self.attempt > 0:
            self.restarts += 1
        self.state, self.pid, self.attempt = e.state, e.pid, e.attempt
        if e.state == "failed":
            kind = e.cause or (self.error["kind"] if self.error else "failed")
            self.error = {"kind": kind, "message": e.reason}
        elif e.state == "starting":
            self.error, self.alert, self.phase = None, None, None
        if e.state in FINAL_STATES:
            self.eta_seconds = None

    def _take_step(self, e: TrainStep) -> None:
        self.step, self.tokens = e.step, e.tokens
        self.loss_nats, self.grad_norm = e.loss_nats, e.grad_norm
        self.mfu, self.tokens_per_second = e.mfu, e.tokens_per_second
        self.learning_rate_scale, self.learning_rates = e.learning_rate_scale, e.learning_rates
        self.memory_bytes = e.memory_bytes
        if e.peak_memory_bytes is not None:
            self.peak_memory_bytes = max(self.peak_memory_bytes or 0, e.peak_memory_bytes)
        self.attempt_steps += 1
        self.skipped_steps += e.was_skipped
        parts = {part: seconds for part, seconds in e.part_seconds.items() if seconds is not None}
        self._smooth_pace(e.step_seconds, parts)
        if self.total_steps is not None and self.step_seconds is not None:
            self.eta_seconds = self.step_seconds * max(0, self.total_steps - e.step)

    def _smooth_pace(self, step_seconds: float, parts: Mapping[str, float]) -> None:
        """Of one step more, the last of `attempt_steps`."""
        # the first step of an attempt warms up kernels and caches, and says nothing about the ones to come
        is_first = self.step_seconds is None or self.attempt_steps <= 2
        self.step_seconds = _smooth(None if is_first else self.step_seconds, step_seconds)
        before = self.step_parts if self.step_parts and not is_first else {}
        self.step_parts = {
            part: _smooth(before.get(part), seconds) for part, seconds in parts.items()
        } or None

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `state.json` stores them."""
        return asdict(self)


def _smooth(mean: float | None, value: float) -> float:
    """The next value of an exponential mean; without one before, the value itself."""
    return value if mean is None else mean + (1 - STEP_SECONDS_DECAY) * (value - mean)


def _smooth_on(mean: float | None, values: Sequence[float]) -> float | None:
    """`_smooth` of one value after the other; NaN ends a mean, and the next value begins it anew."""
    for value in values:
        mean = None if isnan(value) else _smooth(mean, value)
    return mean


def load_snapshot(run: RunDir) -> RunStatus:
    """What `state.json` says, or a fresh status where there is none that can be read."""
    try:
        values = json.loads(run.state_file.read_bytes())
        return RunStatus(**{key: values[key] for key in RunStatus.__dataclass_fields__ if key in values})
    except (OSError, ValueError, TypeError):
        return RunStatus(name=run.name, spec_hash=run.read_spec().content_hash())


def fold_journal(run: RunDir, status: RunStatus) -> RunStatus:
    """Fold in everything on disk that the status does not cover yet."""
    for record in read_all(run.journal, dict(status.cursors)):
        status.apply(record)
    return status


def observe(run: RunDir) -> RunStatus:
    """What the run is now, by its journal and its locks, with its spec's words. Costs a few milliseconds and needs no daemon."""
    from trainer_daemon.contract.settings import present_spec  # pydantic, which `judge` does without

    status = judge(run)
    with suppress(
        LlmctlError
    ):  # a spec that cannot be read has no words, and what the run is can be said without
        spec = present_spec(run)
        status.tag, status.notes = spec.tag, spec.notes
    return status


def judge(run: RunDir) -> RunStatus:
    """What the run is now, by its journal and its locks alone."""
    # the locks are read first: a run that ends in between is then seen with its last words, not as crashed
    supervisor, ranks = run.supervisor_is_alive(), run.ranks_are_alive()
    status = fold_journal(run, load_snapshot(run))
    if status.state in FINAL_STATES or supervisor:
        return status
    if ranks:
        message = f"its supervisor died; the ranks train on. Take it over with: llmctl resume {run.name}"
        status.error = {"kind": "supervisor_lost", "message": message}
    else:
        message = f"its processes are gone without a last word. Continue from the last checkpoint: llmctl resume {run.name}"
        status.state, status.error, status.eta_seconds = (
            "crashed",
            {"kind": "crashed", "message": message},
            None,
        )
    return status
