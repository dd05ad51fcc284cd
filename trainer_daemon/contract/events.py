"""What can happen in a run, each event declared once.

A dataclass below is the whole declaration: its name in snake case is its `kind` in the journal and on the wire, its
fields are the JSON keys, and the docstring under a field defines the metric. Plain dataclasses and stdlib JSON, so
that a rank on a bare GPU image can emit them; readers ignore unknown fields and kinds, so an old cockpit reads a
newer run. `None` means unknown, never 0.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypedDict

from trainer_daemon.contract.generation import FinishReason

EVENT_KINDS: dict[str, type["Event"]] = {}
"""kind -> class, filled as the classes below are declared."""

Phase = Literal["preparing", "building", "running", "evaluating", "sampling", "saving", "paused", "stopping"]
"""What the ranks are doing between two steps, or `running` while they step."""

State = Literal[
    "starting",
    "running",
    "evaluating",
    "saving",
    "paused",
    "stopping",
    "completed",
    "stopped",
    "failed",
    "crashed",
]
"""What a run is, as a user sees it. The last four are final."""

CommandName = Literal["pause", "resume", "stop", "save", "sample", "evaluate", "check", "set"]
"""What the ranks can be asked for."""

AlertName = Literal[
    "loss_spike",
    "gradient_spike",
    "not_finite",
    "rolled_back",
    "replicas_differ",
    "slow_rank",
    "loss_stuck",
    "slow_descent",
    "early_plateau",
    "overfitting",
    "gibberish",
]
"""What may be wrong with a training. `contract/alerts.py` has the likely cause of each and what to do."""

FailureCause = Literal["nan", "sdc", "rank_exit", "hang", "no_progress", "spec", "checkpoint", "unkillable"]
"""Why a run failed. nan: the loss stayed not finite. sdc: replicas came apart, silent data corruption. no_progress: restart
after restart without a new checkpoint. spec: the spec, the data or the checkpoints cannot be used."""

AttentionKernel = Literal["fa3", "flex", "sdpa", "blocked"]
"""FlashAttention 3, FlexAttention, torch's scaled_dot_product_attention, and SDPA over blocks of queries."""

FINAL_STATES: frozenset[State] = frozenset({"completed", "stopped", "failed", "crashed"})
RESUMABLE_STATES: frozenset[State] = FINAL_STATES - {"completed"}


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""

    @classmethod
    @cache
    def kind(cls) -> str:
        """`TrainStep` -> `train_step`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init_subclass__(cls) -> None:
        # dataclass(slots=True) builds the class twice; the second, slotted one wins
        EVENT_KINDS[cls.kind()] = cls


def to_fields(event: Event) -> dict[str, Any]:
    """The event's own fields, ready for JSON."""
    # asdict copies deeply, at 20 us an event; the values are plain already
    return {name: getattr(event, name) for name in event.__dataclass_fields__}


def from_fields(kind: str, values: dict[str, Any]) -> Event | None:
    """The event a kind and its JSON fields describe; None for a kind that this version does not know."""
    cls = EVENT_KINDS.get(kind)
    if cls is None:
        return None
    try:
        return cls(*[values[name] for name in cls.__dataclass_fields__])
    except KeyError:  # an older version did not have them all; those with a default do without
        pass
    try:
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})
    except (
        TypeError
    ):  # another version wrote it without a field of ours: its line is sound, its meaning unknown
        return None


# ---------------------------------------------------------------------------------------------- from the daemon


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """The supervisor's own states: starting, running, stopping and the final ones."""

    state: State
    reason: str
    """Why, in words; for a failed run the sentence that says what to do."""
    pid: int
    """Of the supervisor."""
    attempt: int
    """Launches of the ranks so far, from 1."""
    cause: FailureCause | None = None
    """Of a failed run, for programs."""


@dataclass(frozen=True, slots=True)
class RankExited(Event):
    """A rank ended other than by finishing its work."""

    rank: int
    exit_code: int | None
    signal: str | None
    message: str
    """The exception's own words, or what the signal means."""
    is_root_cause: bool
    """False for ranks that fell because another one did."""


@dataclass(frozen=True, slots=True)
class Stalled(Event):
    """The ranks have said nothing for longer than their phase allows; the supervisor's word. Any later one of theirs ends it."""

    silent_seconds: float
    usual_seconds: float | None
    """Median step_seconds of this launch before; None when there was no step yet."""
    phase: Phase = "running"
    """What they were doing when they fell silent."""
    stacks: str | None = None
    """Folder inside the run folder that has every rank's stacks of that moment; None where they cannot be had."""
    kill_seconds: float | None = None
    """The silence at which they are killed and started again; None for ranks that another launcher owns."""
    collectives: str | None = None
    """A JSON file inside the run folder with what every rank was last doing with the others; None where it cannot be had."""
    finding: str | None = None
    """Who waits for whom, by that file, in words."""

    def in_words(self) -> str:
        """One sentence for status, cockpit and command line, without a full stop."""
        doing = "no step" if self.phase == "running" else f"{self.phase} without a word"
        seen = f": {self.finding}" if self.finding else ": a rank may hang"
        files = [f"{self.stacks}/rank-*.stacks"] if self.stacks else []
        files += [self.collectives] if self.collectives else []
        where = f"; where each rank is: {', '.join(files)}" if files else ""
        end = f"; at {self.kill_seconds:.0f} s they are killed and started again" if self.kill_seconds else ""
        return f"{doing} for {self.silent_seconds:.0f} s{seen}{where}{end}"


@dataclass(frozen=True, slots=True)
class Command(Event):
    """A request to the ranks, accepted and recorded; rank 0 reads it at its next step boundary."""

    request_id: str
    name: CommandName
    arguments: dict[str, Any]
    """For `sample`: the fields of a `Generation` but messages and logprobs. For `stop`: even_unsaved, whether
    to end when the checkpoint cannot be written; without it the ranks then train on. For `set`: key, value. Otherwise
    empty."""
    deadline: float | None = None
    """Seconds since 1970 after which it must not take effect any more; None: it waits as long as it takes."""


@dataclass(frozen=True, slots=True)
class Forked(Event):
    """The run began with a checkpoint of another one: its weights, optimizer and data position."""

    run: str
    """Name of the other run, as it was then; or the folder that its checkpoint lay in."""
    step: int
    manifest_sha256: str
    """Of the checkpoint's MANIFEST.json: names it for good."""


class RankUse(TypedDict):
    """What one rank's process takes of the machine, seen from outside."""

    rank: int
    pid: int
    cores: float | None
    """Cores that it kept busy since the sample before; None in its first."""
    memory_bytes: int | None
    """Resident in main memory."""
    device: int | None
    """`index` of the accelerator that it computes on, by its local rank and CUDA_VISIBLE_DEVICES; None without one."""


class DeviceUse(TypedDict):
    """What one accelerator does, as its driver says."""

    index: int
    name: str
    utilisation: float | None
    """Share of the driver's last sampling period in which any kernel ran: 1 also while kernels wait for memory."""
    memory_bytes: int | None
    """Taken by all processes."""
    memory_total_bytes: int | None
    power_watts: float | None
    power_limit_watts: float | None
    temperature_celsius: float | None
    is_slowed_by_heat: bool | None
    """Whether clocks are lower than asked for because of heat."""


@dataclass(frozen=True, slots=True)
class SystemSampled(Event):
    """What the ranks' processes and devices were doing, now and then while ranks live. Of this machine alone."""

    cores_busy: float | None
    """Cores kept busy by all of the machine since the sample before; None in the first."""
    cores: int
    """Logical cores that the machine has."""
    load: float | None
    """Processes that wanted to run, mean of the last minute."""
    memory_bytes: int | None
    """Main memory that cannot be had any more: total less available."""
    memory_total_bytes: int | None
    ranks: list[RankUse]
    devices: list[DeviceUse]
    """All accelerators of the machine, other people's too; empty where no driver answers."""


# ------------------------------------------------------------------------------------------------ from rank 0


@dataclass(frozen=True, slots=True)
class AttemptStarted(Event):
    """The ranks are up and know each other."""

    attempt: int
    world_size: int
    device: str
    """torch's device type: cpu, cuda, mps."""
    device_name: str
    precision: Literal["fp32", "bf16", "fp16", "fp8"]
    threads_per_rank: int
    torch_version: str
    deterministic: bool = False
    """Whether every kernel was asked to give the same bits on every run."""


@dataclass(frozen=True, slots=True)
class PhaseChanged(Event):
    """The ranks entered a phase; `running` once they are back at stepping."""

    phase: Phase
    step: int


@dataclass(frozen=True, slots=True)
class PrepareProgress(Event):
    """How far the corpus, the tokenizer or the token shards are."""

    what: str
    done: int
    total: int | None
    unit: str


@dataclass(frozen=True, slots=True)
class RunPlanned(Event):
    """What the spec came to, with the vocabulary and the data that were really found."""

    total_steps: int
    total_tokens: int
    global_batch_tokens: int
    grad_accum_steps: int
    vocab_size: int
    parameters: int
    scaling_parameters: int
    flops_per_token: int
    peak_flops: float | None
    """Peak FLOP/s of one rank's device at the compute dtype; None where it is unknown."""
    peak_flops_source: str
    """Where the peak comes from: the table, a measurement, or why there is none."""
    train_rows: int | None
    """Rows of sequence_len + 1 tokens in the training set; None while they are still being made (data.live)."""
    held_out_rows: int
    bits_per_byte_floor: float | None
    """Entropy floor of the corpus where it is known (generated stories): no model can do better on average."""
    micro_batch_size: int | None = None
    """Rows that a rank takes at a time."""


@dataclass(frozen=True, slots=True)
class AttentionChosen(Event):
    """The kernel that computes attention in this attempt; all of them compute the same function."""

    kernel: AttentionKernel
    why: str
    """That it was asked for, or what the choice went by."""


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """Training goes on from a checkpoint: whatever was recorded after this step is a cut branch."""

    step: int
    checkpoint: str
    min_val_bpb: float | None
    """The best evaluation up to there."""


STEP_PARTS = ("data", "compute", "wait", "optimizer")
"""What `step_seconds` is made of, in the order in which a step does it; each is told in a field of its own."""


@dataclass(frozen=True, slots=True)
class TrainStep(Event):
    """One optimizer step, measured over the global batch of all ranks."""

    step: int
    """Steps done, this one included: the first is 1."""
    loss_nats: float | None
    """Mean cross-entropy in nats per target token over this step's global batch, all ranks; None: not finite."""
    grad_norm: float | None
    """Euclidean norm of the mean gradient over all parameters, before any clipping."""
    learning_rate_scale: float
    """The schedule's multiplier of every peak learning rate at this step."""
    step_seconds: float
    """Wall time of the step on rank 0: data, forward/backward, reduce, optimizer; not what is done between steps."""
    tokens: int
    """Training tokens seen in total."""
    tokens_per_second: float
    """Global batch tokens / step_seconds."""
    mfu: float | None
    """flops_per_token x tokens_per_second / (peak FLOP/s x ranks), a fraction; None where the peak is unknown."""
    epoch: float | None
    """Rows drawn / rows in the training set; None while nobody knows how many there are (data.live)."""
    was_skipped: bool = False
    """True when no rank changed its parameters: a number was not finite, or a spike and health.skip_spikes is on."""
    learning_rates: dict[str, float] | None = None
    """Learning rate of each parameter group at this step: its peak x learning_rate_scale. A matrix with more rows than
    columns takes the root of their ratio times `matrix`."""
    data_seconds: float | None = None
    """Of step_seconds: reading rows and bringing them to the device; on CUDA as long as the device waited for them."""
    compute_seconds: float | None = None
    """Of step_seconds: forward, backward and the gradient's norm, with the averaging of gradients beside the last backward."""
    forward_seconds: float | None = None
    """Of compute_seconds: the forward passes, the part that waits for no other rank."""
    wait_seconds: float | None = None
    """Of step_seconds: the exchange of words with the other ranks, and a save's copy that is not ready. What backward
    itself waits for, while gradients are averaged, is in compute_seconds: a rank that is late shows there on the others,
    and is named in a notice."""
    optimizer_seconds: float | None = None
    """Of step_seconds: the update of the parameters."""
    memory_bytes: int | None = None
    """In use after the step on rank 0: by tensors on its device, on a CPU the process's resident memory, read four times a
    second."""
    peak_memory_bytes: int | None = None
    """The most in use on rank 0, by tensors during the step on CUDA; on a CPU resident since the process began."""

    @property
    def part_seconds(self) -> dict[str, float | None]:
        """Seconds of each of STEP_PARTS."""
        return {part: getattr(self, f"{part}_seconds") for part in STEP_PARTS}


@dataclass(frozen=True, slots=True)
class ExpertsUsed(Event):
    """How a mixture of experts sent its tokens: means over all batches of all ranks in the steps since the one before. A
    share is of the choices in one layer, of which a token makes as many as it meets routed experts."""

    step: int
    """The last one of these steps."""
    steps: int
    balance_loss: float
    """Mean over the layers of E x the sum over its experts of (mean router probability x share of tokens that prefer it): 1 when
    all are alike, E when one has everything. Training adds moe.balance_weight times it to the loss that is reported."""
    router_entropy_nats: float
    """Mean over layers and tokens of the entropy of the router's probabilities; ln E: it does not tell experts apart."""
    busiest_share: float
    """The largest share of any expert of any layer; 1/E when all are alike."""
    idlest_share: float
    """The smallest one; 0: an expert that learns nothing."""
    shares: list[list[float]]
    """Of each expert, by layer."""
    entropies: list[float]
    """Of the router's probabilities in nats, by layer."""


@dataclass(frozen=True, slots=True)
class RanksPaced(Event):
    """What each rank took for the part of a step before ranks wait for each other: medians over the steps before. A run of
    one rank has nobody to wait for, and none."""

    step: int
    """The last one of these steps."""
    steps: int
    data_seconds: list[float]
    """By rank: reading rows and bringing them to the device."""
    forward_seconds: list[float]
    """By rank: the forward passes."""


@dataclass(frozen=True, slots=True)
class Evaluated(Event):
    """Held-out loss."""

    step: int
    val_bpb: float
    """Nats summed over counted targets / (ln 2 x bytes of counted targets); specials count in neither. Over the first
    `rows` rows of the held-out set, however many ranks there are and whatever the batch."""
    val_loss_nats: float
    """Mean nats per counted target token."""
    tokens: int
    seconds: float
    rows: int | None = None
    """Held-out rows read: eval.tokens / sequence_len of them, or all there are."""
    val_bpb_whole_batches: float | None = None
    """val_bpb over the rows that fill whole batches of all ranks, nanochat's set; the same where the batch divides `rows`,
    None where it holds more."""


@dataclass(frozen=True, slots=True)
class CoreTaskScored(Event):
    """One task of CORE, asked of the model in training."""

    step: int
    task: str
    accuracy: float
    """Share of the examples that were answered rightly, all ranks."""
    centred: float
    """(accuracy - what guessing gets) / (1 - what guessing gets)."""
    examples: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CoreScored(Event):
    """All tasks of CORE that were asked, in one figure."""

    step: int
    core: float | None
    """Mean of the centred accuracies of all 22 tasks; None where some were not asked: other tasks, another scale."""
    mean_centred: float
    """Mean of the centred accuracies of the tasks that were asked."""
    tasks: int
    """How many were asked."""
    missing: list[str]
    """Tasks whose examples are not in eval.core_source, or that eval.core_tasks leaves out."""
    seconds: float

    def in_words(self) -> str:
        """One sentence for log and command line, without a full stop."""
        if self.core is not None:
            return f"CORE {self.core:.4f}"
        return f"mean centred accuracy {self.mean_centred:.4f} of {self.tasks} of CORE's tasks"


@dataclass(frozen=True, slots=True)
class SampleChunk(Event):
    """The next piece of a sample that is being written for someone."""

    request_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Sampled(Event):
    """A finished sample."""

    step: int
    prompt: str
    text: str
    tokens: int
    finish_reason: FinishReason
    temperature: float
    top_k: int | None
    seed: int
    seconds: float
    """What it cost the training, wall time."""
    request_id: str | None
    """Who asked; None for the scheduled ones."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] | list[str] = ()
    """Strings before which the text was to end; a list where JSON brought it."""
    forgotten: int = 0
    """Tokens of the beginning that the model no longer read at the end, because the context was full."""


@dataclass(frozen=True, slots=True)
class CheckpointSaved(Event):
    """A checkpoint is on disk, whole, hashed and published."""

    step: int
    path: str
    """Folder name inside the run's `checkpoints/`."""
    bytes: int
    loss_nats: float | None
    """Of this step; its val_bpb is the `Evaluated` event of the same step, which comes after the save began."""
    seconds: float
    """Wall time from the step boundary where it began until it was published."""
    blocked_seconds: float | None = None
    """Of these, how long the ranks stood still; the rest was written while they trained on."""


@dataclass(frozen=True, slots=True)
class CheckpointFailed(Event):
    """A save was abandoned by all ranks; training goes on and the earlier checkpoints stand."""

    step: int
    error: str


@dataclass(frozen=True, slots=True)
class SettingChanged(Event):
    """One of the spec's few values that may change did, on all ranks, for every step after this one: told by the ranks
    when it changed while they train, by the supervisor when it changed with a resume."""

    step: int
    key: str
    value: Any
    before: Any

    @property
    def first_step(self) -> int:
        """The first step that trained with it, which is how people are told."""
        return self.step + 1


@dataclass(frozen=True, slots=True)
class ReplicasCompared(Event):
    """All ranks compared their parameters bit for bit, at a step boundary. Where they differ the run ends."""

    step: int
    world_size: int
    """Ranks that took part; 1: there was nothing to compare with."""
    parameters: int
    """Tensors compared."""
    difference: str | None
    """Which ranks differ in which parameters, in words; None: they are the same."""
    checksum: str | None
    """16 hex digits that follow from the parameters alone: the same in another run whose parameters are the same. None where
    the ranks differ."""
    seconds: float
    """What it cost the training, wall time."""

    def in_words(self) -> str:
        """One sentence for cockpit and command line, without a full stop."""
        if self.difference is not None:
            return f"step {self.step}: replicas came apart: {self.difference}"
        if self.world_size == 1:
            return f"step {self.step}: one rank has nothing to compare with; parameters {self.checksum}"
        return f"step {self.step}: all {self.world_size} ranks hold the same parameters, {self.checksum}"


@dataclass(frozen=True, slots=True)
class CommandDone(Event):
    """A command took effect, or could not."""

    request_id: str
    name: str
    ok: bool
    message: str


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something the reader should know; training goes on."""

    level: Literal["info", "warning", "error"]
    text: str


@dataclass(frozen=True, slots=True)
class Alert(Event):
    """Something looks wrong with the training. Raised once when it begins, not again while it lasts."""

    name: AlertName
    step: int
    seen: str
    """What was observed, with its figures."""
    cause: str
    """What it usually comes from."""
    fix: str
    """What to do about it."""
    record: str | None = None
    """A JSON file inside the run folder with the evidence."""

    def in_words(self) -> str:
        """One paragraph for status, cockpit and command line."""
        record = f" Evidence: {self.record}" if self.record else ""
        return f"step {self.step}: {self.seen}. Likely cause: {self.cause}. What to do: {self.fix}.{record}"


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """Rank 0's last word: the ranks end by their own will."""

    reason: Literal["completed", "stopped", "failed"]
    step: int
    message: str
    cause: FailureCause | None = None
    """When it failed, for programs."""
