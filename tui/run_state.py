"""All that the cockpit knows of one run: a pure fold over its journal's records. Widgets draw it and never add to it.

The numbers are `RunStatus`, the same fold that `llmctl status` prints; the curves are columns. Live samples from a
stored checkpoint, which no journal records, are folded in as the same events. Knows nothing of Textual or sockets.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from trainer_daemon.contract.events import (
    FINAL_STATES,
    Alert,
    AttemptStarted,
    AttentionChosen,
    CheckpointFailed,
    CheckpointSaved,
    Command,
    CommandDone,
    CoreScored,
    Evaluated,
    Event,
    ExpertsUsed,
    Finished,
    Notice,
    PrepareProgress,
    RankExited,
    RanksPaced,
    ReplicasCompared,
    Resumed,
    RunPlanned,
    SampleChunk,
    Sampled,
    SettingChanged,
    Stalled,
    StateChanged,
    SystemSampled,
    TrainStep,
)
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.status import RunStatus
from trainer_daemon.contract.text import printable
from tui.alarms import Alarm, alarm_of
from tui.chart.axis import compact
from tui.chart.view import smoothing_of
from tui.machine import Machine
from tui.store import Ema, RunHistory
from tui.wording import count, size

if TYPE_CHECKING:
    from trainer_daemon.contract.course import Item, Steps

Area = Literal["status", "curves", "checkpoints", "samples", "notes", "system", "alerts"]
"""What a batch of records can change; a widget draws again when its own area did."""
Level = Literal["info", "good", "warning", "error"]

STEP_METRICS = (
    "loss_nats",
    "grad_norm",
    "learning_rate_scale",
    "tokens_per_second",
    "mfu",
    "step_seconds",
    "data_seconds",
    "compute_seconds",
    "wait_seconds",
    "optimizer_seconds",
    "memory_bytes",
    "peak_memory_bytes",
)
NOTES_KEPT = 2000
SAMPLES_KEPT = 200
HAPPENINGS_KEPT = 2000
"""Of each kind that is told, marked on the charts and never taken back: the newest."""
WATCHED_ROWS = 100_000
"""Steps that a cockpit keeps one and all. With what is left of older ones the columns of a run come to 34 MB, and no more."""


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the log of events."""

    wall: float
    level: Level
    text: str


@dataclass(slots=True)
class Checkpoint:
    """A checkpoint that was saved, joined with the evaluation of the same step."""

    step: int
    path: str
    """Folder name inside the run's `checkpoints/`."""
    bytes: int
    loss_nats: float | None
    saved_at: float
    val_bpb: float | None = None


@dataclass(slots=True)
class Sample:
    """A text the model wrote or is writing."""

    prompt: str
    text: str = ""
    request_id: str | None = None
    """None for the scheduled ones."""
    checkpoint: str | None = None
    """The stored checkpoint that was asked; None for the model in training."""
    step: int | None = None
    """Steps of training behind it; None until it is known."""
    tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    seconds: float | None = None
    is_done: bool = False
    error: str | None = None


@dataclass(slots=True)
class _StepRows:
    """Training steps gathered for one bulk append: the columns cost less by the hundred."""

    step: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STEP_METRICS})


class RunState:
    """One run, folded. `apply` and `tell` say which areas changed."""

    def __init__(self, name: str, whole_rows: int | None = None) -> None:
        """`whole_rows`: how many of the newest steps are kept one and all, `WATCHED_ROWS` for who stays; None for every step."""
        self.status = RunStatus(name=name)
        self.history = RunHistory(whole_rows)
        self.machine = Machine()
        self.plan: RunPlanned | None = None
        self.attempt: AttemptStarted | None = None
        self.stages: dict[str, PrepareProgress] = {}
        """What is prepared, in order, each with its newest word."""
        self.checkpoints: dict[str, Checkpoint] = {}
        """By path, in order of saving."""
        self.checkpoint_words: dict[int, dict[str, str]] = {}
        """By step and by command: what is done here with a checkpoint, or what came of it."""
        self.setting_changes: list[SettingChanged] = []
        """What was changed while it trained, in order."""
        self.samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self.notes: deque[Note] = deque(maxlen=NOTES_KEPT)
        self.alarms: deque[Alarm] = deque(maxlen=HAPPENINGS_KEPT)
        """What went wrong, in the order in which it did."""
        self.restart_steps: list[int] = []
        """Where training went on from a checkpoint."""
        self.skipped_steps: deque[int] = deque(maxlen=HAPPENINGS_KEPT)
        """Which changed no parameter."""
        self.best_step: int | None = None
        """Of `status.min_val_bpb`."""
        self._core_missing: list[str] | None = None
        """Which of CORE's tasks the curve is without."""
        self.refusals: list[str] = []
        """What commands could not do, until someone has shown it."""
        self.smooth_loss_nats: float | None = None
        """What the noisy loss comes to by now, smoothed as its chart is at first."""
        self._loss_ema = Ema(smoothing_of(None))
        self._rows = _StepRows()
        self._last_step = 0
        self._asked: dict[str, Sample] = {}

    # What the fold is asked

    @property
    def has_ended(self) -> bool:
        return self.status.state in FINAL_STATES

    @property
    def is_preparing(self) -> bool:
        """Before its first step or evaluation there is nothing to plot."""
        is_known = bool(self.status.cursors)
        return is_known and self.status.state == "starting" and not self.history.metrics

    @property
    def share_done(self) -> float | None:
        total = self.status.total_steps
        return self.status.step / total if total else None

    @property
    def best_checkpoint(self) -> Checkpoint | None:
        """The one with the lowest val_bpb; the newest if none was evaluated."""
        scored = [c for c in self.checkpoints.values() if c.val_bpb is not None]
        if scored:
            return min(scored, key=lambda c: c.val_bpb or math.inf)
        return self.last_checkpoint

    @property
    def last_checkpoint(self) -> Checkpoint | None:
        return max(self.checkpoints.values(), key=lambda c: c.step, default=None)

    # The fold

    def apply(self, items: "Iterable[Item]") -> set[Area]:
        """Fold records and steps in, in order."""
        changed: set[Area] = set()
        for record in items:
            if not isinstance(record, Record):
                self._take_steps(record)
                changed |= {"status", "curves"}
                continue
            self.status.apply(record)
            changed.add("status")
            if (alarm := alarm_of(record, self.status.step)) is not None:
                self.alarms.append(alarm)
                changed.add("alerts")
            if record.event is not None:
                changed |= self._fold(record.event, record.wall)
        self._append_rows()
        return changed

    def tell(self, event: Event, wall: float) -> set[Area]:
        """Fold in an event that no journal records: a sample from a stored checkpoint."""
        return self._fold(event, wall)

    def note_checkpoint(self, step: int, command: str, word: str | None) -> set[Area]:
        """Have this word of a command beside a checkpoint; None: none."""
        words = self.checkpoint_words.setdefault(step, {})
        words.pop(command, None)
        if word is not None:
            words[command] = word
        return {"checkpoints"}

    def ask(self, request_id: str, prompt: str, checkpoint: str | None) -> set[Area]:
        """A sample was asked for here: show it before the run, or the worker that serves `checkpoint`, has heard of it."""
        self._asked_sample(request_id, prompt).checkpoint = checkpoint
        return {"samples"}

    def fail_sample(self, request_id: str, error: str) -> set[Area]:
        """A sample that was asked for will not come, or not to its end."""
        sample = self._asked.get(request_id)
        if sample is not None and not sample.is_done:
            sample.is_done, sample.error = True, printable(error)
        return {"samples"}

    def judge(self, observed: RunStatus | None) -> set[Area]:
        """Take what the locks say of a run whose journal has fallen silent: crashed, or without its supervisor.

        `observed` is the run in their light, None while its supervisor answers. A crash that does not know all that is known
        here is passed over: it was seen before the newest records came. Ranks without a supervisor write on meanwhile.
        """
        kind = observed.error["kind"] if observed and observed.error else None
        if observed is None or kind not in ("crashed", "supervisor_lost"):
            if self.status.error is None or self.status.error["kind"] != "supervisor_lost":
                return set()
            self.status.error = None
            return {"status"}
        if kind == "supervisor_lost":
            if self.status.error == observed.error or self.has_ended:
                return set()
            self.status.error = observed.error
            return {"status"}
        is_older = any(observed.cursors.get(stream, 0) < seq for stream, seq in self.status.cursors.items())
        if is_older or (observed.state, observed.error) == (self.status.state, self.status.error):
            return set()
        self.status.state, self.status.error = observed.state, observed.error
        self.status.eta_seconds = observed.eta_seconds
        if kind == "crashed" and observed.error:
            self._note(self.status.updated_at or 0.0, "error", f"crashed: {observed.error['message']}")
            self._abandon_samples()
        return {"status", "notes", "samples"}

    def _fold(self, event: Event, wall: float) -> set[Area]:
        match event:
            case TrainStep():
                self._take_step(event, wall)
                return {"curves"}
            case Evaluated():
                self._take_evaluation(event, wall)
                return {"curves", "checkpoints", "notes"}
            case CoreScored():
                self._take_core(event, wall)
                return {"curves", "notes"}
            case ExpertsUsed():
                self._take_expert_use(event, wall)
                return {"curves"}
            case CheckpointSaved():
                self._take_checkpoint(event, wall)
                return {"curves", "checkpoints", "notes"}
            case Resumed(step=step, checkpoint=checkpoint):
                self._append_rows()
                self.history.truncate(step)
                self._last_step = step
                self.restart_steps.append(step)
                self._note(wall, "warning", f"resumed from {checkpoint} at step {count(step)}")
                return {"curves", "notes"}
            case SampleChunk(request_id, text):
                self._take_chunk(request_id, text)
                return {"samples"}
            case Sampled():
                self._take_sample(event)
                return {"samples"}
            case Command():
                return self._take_command(event, wall)
            case CommandDone():
                return self._take_answer(event, wall)
            case RanksPaced():
                self.machine.pace(event)
                return {"system"}
            case SystemSampled():
                self.machine.look(event, wall)
                return {"system"}
            case PrepareProgress():
                self.stages[event.what] = event
                return {"status"}
            case RunPlanned():
                self.plan = event
                self.history.flops_per_token = event.flops_per_token
                if not self._last_step:
                    self._loss_ema = Ema(smoothing_of(event.total_steps))
            case AttemptStarted():
                self.attempt = event
            case SettingChanged():
                self.setting_changes.append(event)
            case StateChanged(state="starting" | "completed" | "stopped" | "failed" | "crashed"):
                self._abandon_samples()
            case _:
                pass
        if (words := _in_words(event)) is not None:
            self._note(wall, *words)
            return {"status", "notes"}
        return {"status"}

    def _take_step(self, e: TrainStep, wall: float) -> None:
        if e.step <= self._last_step:  # steps taken again without a word of a resume
            self._append_rows()
            self.history.truncate(e.step - 1)
        self._last_step = e.step
        if e.was_skipped:
            self.skipped_steps.append(e.step)
        rows = self._rows
        rows.step.append(e.step)
        rows.seconds.append(self._seconds(wall))
        rows.tokens.append(e.tokens)
        for name, values in rows.values.items():
            value = getattr(e, name)
            values.append(math.nan if value is None else value)

    def _take_steps(self, steps: "Steps") -> None:
        """What `_take_step` does with one, with many."""
        self._append_rows()
        self.status.apply_steps(steps)
        columns = {name: np.frombuffer(values) for name, values in steps.columns.items()}
        step = columns["step"]
        self.skipped_steps += step[columns["was_skipped"] > 0].astype(int).tolist()
        seconds = np.maximum(0.0, columns["wall"] - (self.status.started_at or columns["wall"][0]))
        goes_back = np.flatnonzero(np.diff(step, prepend=self._last_step) <= 0)
        for begin, end in pairwise([*sorted({0, *goes_back.tolist()}), len(step)]):
            if step[begin] <= self._last_step:
                self.history.truncate(step[begin] - 1)
            self._last_step = int(step[end - 1])
            part = slice(begin, end)
            values = {name: columns[name][part] for name in STEP_METRICS}
            self._extend(step[part], seconds[part], columns["tokens"][part], values)

    def _append_rows(self) -> None:
        rows = self._rows
        if rows.step:
            self._extend(rows.step, rows.seconds, rows.tokens, rows.values)
            self._rows = _StepRows()

    def _extend(
        self, step: ArrayLike, seconds: ArrayLike, tokens: ArrayLike, values: Mapping[str, ArrayLike]
    ) -> None:
        self.history.extend("train_step", step=step, seconds=seconds, tokens=tokens, values=values)
        smooth = self._loss_ema.extend(np.asarray(values["loss_nats"], dtype=np.float64))
        finite = smooth[np.isfinite(smooth)]
        if len(finite):
            self.smooth_loss_nats = float(finite[-1])

    def _take_evaluation(self, e: Evaluated, wall: float) -> None:
        self._append_score(
            "evaluated",
            e.step,
            wall,
            {
                "val_bpb": e.val_bpb,
                "val_loss_nats": e.val_loss_nats,
                "val_bpb_whole_batches": e.val_bpb_whole_batches,
            },
        )
        is_best = self.status.min_val_bpb == e.val_bpb
        if is_best:
            self.best_step = e.step
        for checkpoint in self.checkpoints.values():
            if checkpoint.step == e.step:
                checkpoint.val_bpb = e.val_bpb
        best = ", the best so far" if is_best else ""
        self._note(wall, "info", f"step {count(e.step)}: val_bpb {e.val_bpb:.4f}{best}")

    def _take_core(self, e: CoreScored, wall: float) -> None:
        if self._core_missing is None:
            self._core_missing = e.missing
        if e.missing == self._core_missing:  # other tasks are another scale, and no point of the same curve
            self._append_score("core_scored", e.step, wall, {"core": e.core, "mean_centred": e.mean_centred})
        self._note(wall, "good", f"step {count(e.step)}: {e.in_words()}")

    def _take_expert_use(self, e: ExpertsUsed, wall: float) -> None:
        """Over all layers, and of each: `busiest_share.3` is that of the fourth."""
        values = {
            "busiest_share": e.busiest_share,
            "idlest_share": e.idlest_share,
            "router_entropy_nats": e.router_entropy_nats,
            "balance_loss": e.balance_loss,
        }
        for layer, (shares, entropy) in enumerate(zip(e.shares, e.entropies, strict=True)):
            values |= {
                f"busiest_share.{layer}": max(shares),
                f"idlest_share.{layer}": min(shares),
                f"router_entropy_nats.{layer}": entropy,
            }
        self._append_score("experts_used", e.step, wall, values)

    def _append_score(self, kind: str, step: int, wall: float, values: Mapping[str, float | None]) -> None:
        """A row of what is measured now and then; along the x axis count the tokens trained on."""
        trained = step * self.plan.global_batch_tokens if self.plan else self.status.tokens
        self.history.append(kind, step=step, seconds=self._seconds(wall), tokens=trained, values=values)

    def _take_checkpoint(self, e: CheckpointSaved, wall: float) -> None:
        self.checkpoints.pop(e.path, None)
        self.checkpoints[e.path] = Checkpoint(e.step, e.path, e.bytes, e.loss_nats, wall)
        self._note(
            wall, "good", f"step {count(e.step)}: checkpoint saved, {size(e.bytes)} in {e.seconds:.1f} s"
        )

    def _take_command(self, e: Command, wall: float) -> set[Area]:
        if e.name == "sample":
            self._asked_sample(e.request_id, str(e.arguments.get("prompt", "")))
            return {"samples"}
        self._note(wall, "info", f"asked to {e.name} at the next step")
        return {"notes"}

    def _take_answer(self, e: CommandDone, wall: float) -> set[Area]:
        message = printable(e.message)
        if e.name == "sample":
            return set() if e.ok else self.fail_sample(e.request_id, message)
        if e.ok:
            self._note(wall, "good", f"{e.name} done" + (f": {message}" if message else ""))
        else:
            self._note(wall, "error", f"{e.name} refused: {message}")
            self.refusals.append(f"{e.name} refused: {message}")
        return {"notes"}

    def _asked_sample(self, request_id: str, prompt: str) -> Sample:
        """The sample of a request. Streams are not ordered among each other: the request may come after its text."""
        sample = self._asked.get(request_id)
        if sample is None:
            sample = self._asked[request_id] = Sample("", request_id=request_id)
            self._keep(sample)
        sample.prompt = sample.prompt or printable(prompt)
        return sample

    def _keep(self, sample: Sample) -> None:
        if len(self.samples) == SAMPLES_KEPT:
            self._asked.pop(self.samples[0].request_id or "", None)
        self.samples.append(sample)

    def _take_chunk(self, request_id: str, text: str) -> None:
        sample = self._asked_sample(request_id, "")
        if not sample.is_done:
            sample.text += printable(text)

    def _take_sample(self, e: Sampled) -> None:
        if e.request_id is None:
            sample = Sample(printable(e.prompt))
            self._keep(sample)
        else:
            sample = self._asked_sample(e.request_id, e.prompt)
        sample.text, sample.is_done, sample.error = printable(e.text), True, None
        sample.step, sample.tokens, sample.seconds = e.step, e.tokens, e.seconds
        sample.temperature, sample.top_k = e.temperature, e.top_k

    def _abandon_samples(self) -> None:
        """What the ranks were writing when they went will not be finished."""
        for request_id, sample in self._asked.items():
            if sample.checkpoint is None:
                self.fail_sample(request_id, "the run ended before it was written")

    def _seconds(self, wall: float) -> float:
        return max(0.0, wall - (self.status.started_at or wall))

    def _note(self, wall: float, level: Level, text: str) -> None:
        self.notes.append(Note(wall, level, printable(text)))


def _in_words(event: Event) -> tuple[Level, str] | None:
    """How the log tells an event that changes nothing but the status; None for what it leaves out."""
    match event:
        case StateChanged(state, reason):
            level: Level = (
                "error" if state in ("failed", "crashed") else "good" if state == "completed" else "info"
            )
            return level, f"{state}: {reason}" if reason else state
        case RankExited(rank=rank, exit_code=code, signal=signal, message=message, is_root_cause=is_cause):
            how = signal or f"exit code {code}"
            return ("error" if is_cause else "warning"), f"rank {rank} died ({how}): {message}"
        case Stalled():
            return "error", event.in_words()
        case AttemptStarted() as e:
            ranks = "1 rank" if e.world_size == 1 else f"{e.world_size} ranks"
            return (
                "info",
                f"attempt {e.attempt}: {ranks} on {e.device_name}, {e.precision}, torch {e.torch_version}",
            )
        case RunPlanned() as e:
            size_text = f"{compact(e.parameters)} parameters, vocabulary of {count(e.vocab_size)}"
            return (
                "info",
                f"{count(e.total_steps)} steps of {count(e.global_batch_tokens)} tokens; {size_text}",
            )
        case SettingChanged(key=key, value=value, before=before) as e:
            return "info", f"{key} is {value} from step {count(e.first_step)} on, it was {before}"
        case AttentionChosen(kernel, why):
            return "info", f"attention: {kernel} ({why})"
        case CheckpointFailed(step, error):
            return "error", f"step {count(step)}: checkpoint abandoned: {error}"
        case ReplicasCompared(difference=difference):
            return "info" if difference is None else "error", event.in_words()
        case Alert(name="not_finite" | "rolled_back" | "replicas_differ"):
            return "error", event.in_words()
        case Alert():
            return "warning", event.in_words()
        case Notice(level=notice_level, text=text):
            return notice_level, text
        case Finished(reason, step, message):
            return (
                "error" if reason == "failed" else "info"
            ), f"ranks {reason} at step {count(step)}: {message}"
        case _:
            return None
