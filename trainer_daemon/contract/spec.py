"""The run spec: everything that decides what a run computes, parsed once at the edge and frozen.

A field is a choice; whatever can be computed from choices is in `scaling.py`. `None` always means "the depth
dial or the machine decides", never "off". Unknown keys are refused with the nearest known name, because a typo
in a learning rate costs a day. Cross-field rules are together at the end of `RunSpec`.
"""

import json
import tomllib
from collections.abc import Sequence
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from trainer_daemon.contract.core_tasks import CORE_TASKS, HELLASWAG, MOST_SHOTS, EvalTask
from trainer_daemon.contract.errors import SpecError, did_you_mean
from trainer_daemon.contract.hardware import MPS_TAKES_ONE_RANK

Interval = Annotated[
    Annotated[int, Field(ge=1)] | Literal["off"],
    BeforeValidator(lambda value: "off" if value is None else value),
]
"""Steps from one time to the next; off: never for the number of the step."""
Minutes = Annotated[
    Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | Literal["off"],
    BeforeValidator(lambda value: "off" if value is None else value),
]
"""Wall time since it was last done, for whatever reason, until it is due; off: never for the time. The main rank's clock
decides and all ranks act at the same step. What is due by the clock falls on other steps in every run; nothing that has
an interval touches the weights, so losses and weights are the same bits all the same."""
PositiveRate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""Share of a running mean that one step keeps."""
Betas = tuple[Decay, Decay]
"""Of AdamW's first and second moment."""

Family = Literal["nanochat", "classic", "moe"]
"""nanochat: rotary positions, windows, value embeddings and residual scalars, trained by Muon and AdamW. classic: the GPT of the
textbooks, with learned positions, LayerNorm, ReLU, biases and an untied head, trained by AdamW alone. moe: a mixture of
experts with keys and values from latents, trained by Muon and AdamW."""
FOREIGN: dict[Family, tuple[str, ...]] = {
    "nanochat": ("moe", "muon", "adamw"),
    "classic": (
        "model.n_kv_head",
        "model.window_pattern",
        "model.short_window_fraction",
        "moe",
        "optim",
        "muon",
        "schedule.weight_decay",
    ),
    "moe": ("model.n_kv_head", "model.window_pattern", "model.short_window_fraction", "optim"),
}
"""Sections and keys that mean nothing to a family: refused where they are given, and no part of its specs."""
RATES_ARE_IN: dict[Family, str] = {
    "nanochat": "section optim",
    "classic": "section adamw",
    "moe": "sections muon and adamw",
}
YOUNGER_THAN_HASHES = ("model.family", "schedule.warmdown", "schedule.restart_every")
"""Not in the hash while they are as they always were, so that older specs keep theirs."""


def _known_core_task(name: str) -> str:
    names = [task.name for task in CORE_TASKS]
    if name not in names:
        raise ValueError(f'CORE has no task "{name[:60]}"{did_you_mean(name, names)}')
    return name


CoreTaskName = Annotated[str, AfterValidator(_known_core_task)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=False)


class ModelSpec(Section):
    """The network. Width, heads and every count follow from depth."""

    family: Family = "nanochat"
    """Which network it is. `nanochat`: rotary positions, sliding windows, value embeddings; Muon and AdamW (section optim).
    `classic`: learned positions, LayerNorm, ReLU, biases, an untied head; AdamW (section adamw). `moe`: a mixture of experts
    (section moe), rotary positions, keys and values from latents; Muon and AdamW (sections muon, adamw)."""
    depth: int = Field(default=20, ge=1, le=128)
    """Number of blocks, and the one dial: width = aspect_ratio x depth, rounded up to a multiple of head_dim."""
    aspect_ratio: int = Field(default=64, ge=1, le=1024)
    """Width per unit of depth."""
    head_dim: int = Field(default=128, ge=2, le=512, multiple_of=2)
    """Width of one attention head; even, since rotary positions pair the halves."""
    n_kv_head: int | None = Field(default=None, ge=1)
    """Key/value heads (grouped-query attention); None: as many as query heads."""
    sequence_len: int = Field(default=2048, ge=2, le=1 << 20)
    """Tokens of context, T."""
    window_pattern: str = Field(default="SSSL", pattern=r"^[SL]+$")
    """Attention window of each layer, tiled over depth: L full context, S a part; the last layer is always L."""
    short_window_fraction: float = Field(default=0.25, gt=0, le=1, allow_inf_nan=False)
    """What S sees of the context, rounded up to a multiple of 128 tokens."""


class MoESpec(Section):
    """The mixture of experts in every block of model.family moe. Beside the routed experts there is one that sees every token."""

    experts: int = Field(default=6, ge=1, le=1024)
    """Experts of a block among which its router chooses."""
    experts_per_token: int = Field(default=2, ge=1, le=64)
    """How many of them a token is sent to; none is ever full."""
    expert_ratio: float = Field(default=2.68, gt=0, le=64, allow_inf_nan=False)
    """Inner width of an expert in widths of the model, rounded to a multiple of 8."""
    latent_width: int = Field(default=64, ge=1, le=1 << 14)
    """Width of the latent that the keys of all heads are made from, and of the one for the values."""
    balance_weight: float = Field(default=0.01, ge=0, le=100, allow_inf_nan=False)
    """Weight of the loss that keeps experts evenly used, beside the cross-entropy in nats; the reported loss is without it."""


class DataSpec(Section):
    """What is read, and which of it is held out."""

    source: Annotated[str, Field(min_length=1)] | Annotated[dict[str, Weight], Field(min_length=1)] = (
        "stories"
    )
    """`stories`: the generated corpus that needs no download; else a file, a folder or a glob of text (.txt, .jsonl,
    .jsonl.gz, .jsonl.zst, .parquet) or of ids (.bin, .h5), a set that `llmctl data prepare` wrote, or hf://OWNER/NAME. Paths
    are looked up in the working folder and then in $LLMCTL_HOME/data. A table of sources with weights, such as
    { web = 0.7, code = 0.3 }, mixes them by bytes of text and ends with the first that has no more; a prepared set among
    them is turned back into its text."""
    text_field: str = "text"
    """The field of a .jsonl line or the column of a .parquet file that holds the text."""
    held_out: str = Field(default="auto", min_length=1)
    """Validation set: `hundredth` (every hundredth document), `last_file` (the last in sorted order), or the file, folder
    or glob that holds it (of hf://, the split). auto: the files whose name says val, valid, validation or dev, else the last of several
    .parquet files (nanochat's layout), else the hundredths."""
    separator: Literal["before", "after", "none"] | None = None
    """Side of each document on which a file of ids has its separator; none: nothing divides them. Such a file does not say
    it, so it has to be given; text needs none."""
    separator_id: int | None = Field(default=None, ge=0, lt=1 << 32)
    """The separator in a file of ids; None: that of the tokenizer (50256 for gpt2)."""
    conversations: bool = False
    """The files of ids hold conversations in the tokenizer's <|user_start|>, <|user_end|>, <|assistant_start|> and
    <|assistant_end|>, as nanochat's chat models are trained on; `chat` and `serve` then speak to the model that way."""
    packing: Literal["bos-bestfit", "concat", "best-fit-padded"] = "bos-bestfit"
    """`bos-bestfit`: every row begins at a document's start, the rest of a cropped document is dropped.
    `concat`: documents run on from row to row, nothing is dropped. `best-fit-padded`: whole documents as far as they fit,
    nothing is dropped, and what is left of a row is empty; tokens of a batch count empty positions too."""
    document_mask: bool = False
    """Whether the documents of a row are kept apart: attention, and the share that a token takes of the one before, end at
    a document's beginning, in training and validation alike. Positions run on; only distances enter the model."""
    live: Literal["off", "keep", "window"] = "off"
    """Whether training begins before all text is tokenized. off: it does not, and rows are shuffled over the whole corpus.
    keep: it begins with the first shard, while the rest is tokenized beside it or by a `data prepare` that is under way;
    shards are read in the corpus's order, rows shuffled within each, and end up as a prepared set. window: the same for
    corpora too large to keep: only the shards about the reader exist, in the run's folder. Held out are then whole files
    or a split, or the hundredths of the first shard."""
    stories: int = Field(default=20_000, ge=200, le=100_000_000)
    """How many stories to generate (source `stories`)."""
    level: int = Field(default=1, ge=1, le=3)
    """Richness of the generated stories: 1 a small cast, 3 everything."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Seed of the story generator; the order of rows is seeded by the run's own seed."""


class TokenizerSpec(Section):
    """Byte-level BPE: learned from the run's own text at first use and shared by all runs that ask for the same, or given."""

    name: str = Field(default="trained", min_length=1)
    """`trained`: learned from the run's text; a published one (gpt2, r50k_base, p50k_base, cl100k_base, o200k_base); or one
    that `llmctl tokenizer train` stored, by its name or path."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Content hash that the tokenizer must have; None: whatever `name` means."""
    vocab_size: int = Field(default=32768, ge=265, le=1 << 20)
    """Ids asked for when it is trained, 256 bytes and 9 specials included; a small corpus may run out of merges and return
    fewer."""
    train_bytes: int = Field(default=2_000_000_000, ge=1000)
    """At most this much text is used to train the tokenizer."""


class OptimSpec(Section):
    """Muon for the matrices, AdamW for tables, head and scalars. Rates are at a batch of 2^19 tokens, width 768."""

    embedding_lr: PositiveRate = 0.3
    """AdamW rate of the token embedding; value embeddings get half of it."""
    unembedding_lr: PositiveRate = 0.008
    """AdamW rate of the output head."""
    matrix_lr: PositiveRate = 0.02
    """Muon rate of every matrix inside the blocks."""
    scalar_lr: PositiveRate = 0.5
    """AdamW rate of the x0 lambdas; residual lambdas get a hundredth of it."""
    smear_backout_lr: PositiveRate = 0.2
    """AdamW rate of the smear gate and of the smear and backout lambdas, at any batch and width."""
    weight_decay: float = Field(default=0.28, ge=0, le=100, allow_inf_nan=False)
    """Muon's cautious weight decay at depth 12; the dial scales it to this batch and model."""
    embedding_betas: Betas = (0.8, 0.995)
    """AdamW betas of the token embedding."""
    value_embedding_betas: Betas = (0.8, 0.995)
    """AdamW betas of the value embeddings."""
    unembedding_betas: Betas = (0.8, 0.96)
    """AdamW betas of the output head."""
    resid_lambda_betas: Betas = (0.8, 0.95)
    """AdamW betas of the residual lambdas."""
    x0_lambda_betas: Betas = (0.96, 0.95)
    """AdamW betas of the x0 lambdas; the first was measured upstream, with a cliff from 0.97."""
    smear_backout_betas: Betas = (0.8, 0.95)
    """AdamW betas of the smear gate and of the smear and backout lambdas."""
    adam_eps: float = Field(default=1e-10, gt=0, le=1, allow_inf_nan=False)
    """Added to the root of AdamW's second moment."""
    muon_momentum: Decay = 0.97
    """Muon's momentum between its warm-up and the warm-down."""
    muon_momentum_start: Decay = 0.85
    """Muon's momentum at the first step."""
    muon_momentum_warmup_steps: int = Field(default=400, ge=0)
    """Steps in which Muon's momentum rises; they win over the warm-down of a short run."""
    muon_momentum_end: Decay = 0.90
    """Muon's momentum at the end of the warm-down."""
    muon_beta2: Decay = 0.9
    """Decay of the second moments by which NorMuon evens out rows."""


class MuonSpec(Section):
    """Muon for the matrices inside the blocks, of model.family moe. Rates are taken as they are, whatever the batch and width."""

    learning_rate: PositiveRate = 1.5e-3
    """Peak rate of a square matrix; one with more rows than columns takes the root of their ratio times it."""
    momentum: Decay = 0.95
    """Share of the mean gradient that one step keeps."""
    weight_decay: float = Field(default=0.0, ge=0, le=100, allow_inf_nan=False)
    """At the first step; schedule.weight_decay says how it falls."""


class AdamWSpec(Section):
    """AdamW for all parameters alike, of model.family classic; of family moe for what Muon does not take: embedding, head,
    norms and the tensors that expand latents. Rates are taken as they are, whatever the batch and width."""

    learning_rate: PositiveRate = 3e-4
    """Peak rate."""
    betas: Betas = (0.9, 0.95)
    """Of the first and second moment."""
    eps: float = Field(default=1e-8, gt=0, le=1, allow_inf_nan=False)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0, le=100, allow_inf_nan=False)
    """Of every tensor of two or more dimensions, embeddings among them; biases and norms have none."""


class MuonAndAdamW(NamedTuple):
    """The sections of the two optimizers of model.family moe."""

    muon: MuonSpec
    adamw: AdamWSpec


class ScheduleSpec(Section):
    """How the learning rate moves over a run: linear warm-up, constant, warm-down; or waves."""

    warmup_steps: int = Field(default=40, ge=0)
    """Steps of linear warm-up."""
    warmdown_ratio: Fraction = 0.65
    """Share of the run spent going down."""
    warmdown: Literal["linear", "cosine"] = "linear"
    """Whether the warm-down is a line or half a cosine."""
    final_lr_frac: Fraction = 0.05
    """Multiplier that the warm-down ends at."""
    restart_every: int | None = Field(default=None, ge=1)
    """Steps of a wave: after the warm-up the rate falls from its peak to `final_lr_frac` along half a cosine and begins anew,
    again and again (warm restarts), in place of one warm-down. None: no waves."""
    learning_rate_factor: PositiveRate = 1.0
    """Factor on every learning rate of the whole schedule: the dial to turn while a run trains, with `llmctl set`."""
    weight_decay: Literal["cosine", "linear"] = "cosine"
    """How Muon's weight decay falls from its peak at the first step to 0 after the last."""


class TrainSpec(Section):
    """How long, in which portions. The first horizon given wins: iterations, FLOPs, tokens per parameter."""

    num_iterations: int | None = Field(default=None, ge=1)
    """Optimizer steps; None: from the next horizon."""
    target_flops: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Total training FLOPs; None: from the next horizon."""
    target_param_data_ratio: float = Field(default=12.0, gt=0, allow_inf_nan=False)
    """Tokens per scaling parameter (matrices + head)."""
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 32
    """Rows that one rank takes through one forward/backward; fewer where its share of the batch is smaller. auto: the
    most that fit on every rank, tried out before training on CUDA, estimated elsewhere; kept by a resumed run."""
    global_batch_tokens: int | None = Field(default=None, ge=2)
    """Tokens of one optimizer step over all ranks; None: from depth."""
    grad_clip_norm: PositiveRate | None = None
    """Gradients longer than this (Euclidean norm over all parameters) are shortened to it; None: never."""


class EvalSpec(Section):
    """Held-out loss in bits per byte."""

    every: Interval = 250
    """Steps between evaluations; also before the first step and after the last. With both intervals off: on request only."""
    every_minutes: Minutes = "off"
    """Or sooner, after so much time without one."""
    tokens: int = Field(default=80 * 524_288, ge=1)
    """Held-out tokens read each time: whole rows from the head of the held-out set, one batch of all ranks at least."""
    core_every: Interval = "off"
    """Steps between evaluations of CORE, 22 tasks of knowledge and sense; also after the last step."""
    core_source: str = "core"
    """Folder with the tasks' examples as DCLM's evaluation bundle lays them out, language_understanding/hellaswag.jsonl
    and so on: a path, or a name below $LLMCTL_HOME/data. A task whose file is not there is left out."""
    core_tasks: tuple[CoreTaskName, ...] | None = Field(default=None, min_length=1)
    """Only these tasks, for example ["hellaswag_zeroshot"]; None: all that are there."""
    core_examples: int | None = Field(default=500, gt=MOST_SHOTS)
    """Most examples of a task that are asked; None: all of them."""


def asking(settings: EvalSpec, task: EvalTask) -> EvalSpec:
    """The settings with the tasks that `task` stands for: `core` as the spec has it, or HellaSwag alone."""
    return settings.model_copy(update={"core_tasks": (HELLASWAG,)}) if task == "hellaswag" else settings


class SampleSpec(Section):
    """What the model is asked to write while it trains."""

    every: Interval = 2000
    """Steps between samples; also after the last step. With both intervals off: on request only."""
    every_minutes: Minutes = "off"
    """Or sooner, after so much time without one."""
    prompts: tuple[str, ...] = (
        "The capital of France is",
        "If yesterday was Friday, then tomorrow will be",
        "My favorite color is",
    )
    """Beginnings that the model continues; an empty one starts from nothing."""
    max_tokens: int = Field(default=16, ge=1, le=1 << 16)
    """Tokens written for each prompt."""
    temperature: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    """0 takes the likeliest token each time."""
    top_k: int | None = Field(default=None, ge=1)
    """Draw only among the k likeliest tokens; None: all."""


class CheckpointSpec(Section):
    """When to save and what to keep. A run always saves on stop and at its end."""

    every: Interval = "off"
    """Steps between saves."""
    every_minutes: Minutes = "off"
    """Or sooner, after so much time without one."""
    keep_last: int = Field(default=3, ge=2)
    """Newest checkpoints kept; the best by val_bpb and the pinned ones are kept beside them."""
    keep_every: int | None = Field(default=None, ge=1)
    """Checkpoints of steps that this divides are kept for good; None: no step is kept for its number."""
    asynchronous: Literal["auto", "on", "off"] = "auto"
    """Whether training goes on while a checkpoint is written, from a copy in host memory. auto: beside an accelerator;
    on a CPU the writer would share the training's cores."""


class RuntimeSpec(Section):
    """Where and how it runs; nothing here changes which function is trained, only its rounding."""

    nproc: Annotated[int, Field(ge=1, le=1 << 16)] | Literal["auto"] = "auto"
    """Ranks on this machine; auto: one a GPU, or one on a CPU."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda, else mps, else cpu."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"
    """Compute dtype; auto: bf16 on GPUs and CPUs that multiply in it, fp32 elsewhere (TF32 products on a GPU). fp16, for
    GPUs older than bf16, scales the loss; all ranks skip a step whose gradient overflows on any. fp8 is bf16 with the blocks' products in fp8,
    on NVIDIA GPUs of compute capability 8.9 and newer; it pays from about depth 20."""
    fp8_recipe: Literal["tensorwise", "rowwise"] = "tensorwise"
    """Scales of precision fp8: one a tensor, or one a row, more exact and slower (compute capability 9 and 10)."""
    threads_per_rank: int | None = Field(default=None, ge=1, le=1024)
    """torch CPU threads of one rank; None: cores / ranks on a CPU run, 1 per rank beside a GPU."""
    compile: Literal[
        "auto", "off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
    ] = "auto"
    """torch.compile of the model, by the name of its mode. auto: `default` on a CUDA device, off elsewhere, where the
    engine's own kernels are faster. Without a working compiler the run goes on eagerly and says so."""
    attention: Literal["auto", "fa3", "flex", "sdpa", "blocked"] = "auto"
    """Attention kernel: FlashAttention 3 (Hopper, bf16 or fp16, when installed), FlexAttention (CUDA), torch's SDPA, or
    SDPA over blocks of queries. auto: the first of them that can run, on a CPU `blocked`."""
    activation_checkpointing: Literal["off", "block", "selective"] = "off"
    """Computing activations again in backward instead of keeping them, with the same gradients. `selective` keeps what
    products and attention gave, `block` nothing but each block's inputs, for a fourth more computing."""
    deterministic: bool = False
    """Only kernels that give the same bits on every run, slower on a GPU; a CPU gives them anyway. Refuses an operation
    that has none."""
    max_restarts: int = Field(default=3, ge=0, le=100)
    """Restarts in a row, without a new checkpoint in between, before a crashing run is given up."""
    restart_delay_seconds: float = Field(default=5.0, ge=0, le=3600, allow_inf_nan=False)
    """Wait before the first restart; each further one in a row waits three times as long."""
    time_limit_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Wall time of one sitting, from its start or its resume: the run is saved and stopped before it is over. None: as long
    as it takes."""


class HealthSpec(Section):
    """What is watched while it trains, and what is done about it."""

    hang_seconds: float = Field(default=60.0, gt=0, le=86_400, allow_inf_nan=False)
    """Silence that makes ranks that should be stepping count as hanging, or ten median steps when that is longer; what
    they do between steps gets a multiple of it. At twice that time they are killed and started again."""
    skip_spikes: bool = False
    """Leave out the update of a step whose loss or gradient norm stands far out, at most three in a row; each is counted.
    Without it a spike is told and recorded only. A step that is not finite is always left out."""
    check_replicas_every: int | None = Field(default=None, ge=1)
    """Steps between checks that all ranks hold the same parameters to the bit, which ends a run whose replicas came apart;
    None: never checked."""


AlertOccasion = Literal["crash", "finish", "stall", "spike", "diagnosis"]
"""crash: ranks fell, whether they start again or not. finish: completed or stopped. stall: no step comes. spike: of loss or
gradient, or not finite. diagnosis: something slower, such as a plateau or a slow rank."""


class AlertsSpec(Section):
    """Who is told when something happens to the run."""

    command: tuple[str, ...] = ()
    """A program and its arguments, run without a shell, with a JSON message on its stdin; empty: none."""
    url: str | None = Field(default=None, pattern=r"^https?://", max_length=2000)
    """Where the same message is posted; its `text` is what chat services show. None: nowhere."""
    on: tuple[AlertOccasion, ...] = ("crash", "finish", "stall", "spike", "diagnosis")
    """The occasions."""
    timeout_seconds: float = Field(default=10.0, gt=0, le=600, allow_inf_nan=False)
    """What a command or an address gets to take the message."""


class RunSpec(Section):
    """One run, whole. Its canonical JSON is hashed; the hash travels with every checkpoint."""

    preset: str | None = None
    """The preset it was made from, for the reader; decides nothing."""
    tag: Annotated[str, Field(max_length=32, pattern=r"^[\w.+-]*$")] = ""
    """A word to tell runs apart by, shown in `ls`; decides nothing."""
    notes: str = Field(default="", max_length=2000)
    """What the run is for, in the reader's own words, shown in `status`; decides nothing."""
    seed: int = Field(default=42, ge=0, lt=1 << 63)
    """Seeds initial weights, row order and sampling."""
    model: ModelSpec = ModelSpec()
    moe: MoESpec = MoESpec()
    data: DataSpec = DataSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    optim: OptimSpec = OptimSpec()
    muon: MuonSpec = MuonSpec()
    adamw: AdamWSpec = AdamWSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    train: TrainSpec = TrainSpec()
    eval: EvalSpec = EvalSpec()
    sample: SampleSpec = SampleSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    health: HealthSpec = HealthSpec()
    alerts: AlertsSpec = AlertsSpec()

    @model_validator(mode="after")
    def _cross_field_rules(self) -> Self:
        family = self.model.family
        if strange := _given(self, FOREIGN[family]):
            whose = " and ".join(
                other for other, foreign in FOREIGN.items() if not {*strange} & {*_given(self, foreign)}
            )
            raise ValueError(
                f"{', '.join(strange)}: not of model.family {family}{whose and f' but of {whose}'}; take it out (rates and "
                f"decay of {family} are in {RATES_ARE_IN[family]})"
            )
        if family == "moe" and self.moe.experts_per_token > self.moe.experts:
            raise ValueError(
                f"moe.experts_per_token: {self.moe.experts_per_token} of {self.moe.experts} experts cannot be chosen; "
                f"at most {self.moe.experts}"
            )
        usual = ScheduleSpec()
        if self.schedule.restart_every is not None and (
            one_fall := [
                f"schedule.{key}"
                for key in ("warmdown", "warmdown_ratio")
                if getattr(self.schedule, key) != getattr(usual, key)
            ]
        ):
            raise ValueError(
                f"{', '.join(one_fall)}: there is no one warm-down where schedule.restart_every makes waves; take one of the "
                f"two out"
            )
        if self.runtime.precision == "fp8":
            if self.runtime.device in ("cpu", "mps"):
                raise ValueError(
                    f"runtime.precision: fp8 needs an NVIDIA GPU, not {self.runtime.device}; use "
                    f"--set runtime.precision=auto"
                )
            if self.model.sequence_len % 16:
                raise ValueError(
                    f"model.sequence_len: {self.model.sequence_len} is not a multiple of 16, which fp8 needs; "
                    f"nearest: {round(self.model.sequence_len / 16) * 16 or 16}"
                )
        if self.runtime.device == "mps" and self.runtime.nproc not in ("auto", 1):
            raise ValueError(MPS_TAKES_ONE_RANK)
        if self.runtime.attention in ("fa3", "flex") and self.runtime.device in ("cpu", "mps"):
            raise ValueError(
                f"runtime.attention: {self.runtime.attention} needs an NVIDIA GPU and runtime.device is "
                f"{self.runtime.device}; use auto"
            )
        if self.runtime.attention == "fa3" and self.data.document_mask:
            raise ValueError(
                "runtime.attention: fa3 does not know the documents that data.document_mask keeps apart; use auto"
            )
        return self

    @model_serializer(mode="wrap")
    def _own_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what means nothing to the family."""
        tables: dict[str, Any] = handler(self)
        for key in FOREIGN[self.model.family]:
            _drop(tables, key)
        return tables

    @property
    def optimizer(self) -> OptimSpec | AdamWSpec | MuonAndAdamW:
        """The sections of the family's optimizer."""
        match self.model.family:
            case "nanochat":
                return self.optim
            case "classic":
                return self.adamw
            case "moe":
                return MuonAndAdamW(self.muon, self.adamw)

    def canonical_json(self) -> str:
        """The spec as one line of JSON with sorted keys: the same spec gives the same bytes."""
        tables = self.model_dump(mode="json")
        for key in YOUNGER_THAN_HASHES:
            section, _, name = key.partition(".")
            if tables[section][name] == type(getattr(self, section)).model_fields[name].default:
                _drop(tables, key)
        return json.dumps(tables, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def content_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return sha256(self.canonical_json().encode()).hexdigest()[:16]


def _given(spec: RunSpec, keys: Sequence[str]) -> list[str]:
    """Of these sections and keys, every key that was given a value."""
    given = []
    for key in keys:
        name, _, inner = key.partition(".")
        section: Section = getattr(spec, name)
        if name in spec.model_fields_set:
            given += [f"{name}.{each}" for each in sorted(section.model_fields_set) if inner in ("", each)]
    return given


def _drop(tables: dict[str, Any], key: str) -> None:
    """Take a section or a `section.key` out of a spec's tables."""
    name, dot, inner = key.partition(".")
    if dot:
        tables.get(name, {}).pop(inner, None)
    else:
        tables.pop(name, None)


def all_keys() -> list[str]:
    """Every key of every family, in the order of the spec."""
    keys: list[str] = []
    for name, field in RunSpec.model_fields.items():
        section = _section_of(field.annotation)
        keys += [f"{name}.{inner}" for inner in section.model_fields] if section else [name]
    return keys


def flat_values(spec: RunSpec) -> dict[str, Any]:
    """Every choice by the key that `--set` takes: `{"seed": 42, "model.depth": 4, …}`, values as JSON has them."""
    flat: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json").items():
        if isinstance(getattr(spec, name), Section):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def spec_differences(*specs: RunSpec) -> dict[str, list[Any]]:
    """`{"optim.matrix_lr": [0.02, 0.03]}`: each key whose value is not the same in all of the specs, with all its values;
    None where a spec's family does not have it."""
    all_values = [flat_values(spec) for spec in specs]
    keys = dict.fromkeys(key for values in all_values for key in values)
    rows = {key: [values.get(key) for values in all_values] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def load_toml(path: Path) -> dict[str, Any]:
    """The raw tables of a spec file. Raises SpecError when it is missing or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise SpecError(f"cannot read the spec {path}: {e}") from e
    except tomllib.TOMLDecodeError as e:
        raise SpecError(f"{path} is not valid TOML: {e}") from e


def parse_override(text: str) -> tuple[list[str], Any]:
    """`"train.num_iterations=20"` -> `(["train", "num_iterations"], 20)`. The value is TOML; a bare word is a string."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise SpecError(f'a value is set as KEY=VALUE, for example train.num_iterations=20; got "{text}"')
    try:
        return parts, tomllib.loads(f"value = {value}")["value"]
    except ValueError:  # not TOML, or a number of thousands of digits
        return parts, None if value.strip() in {"none", "null"} else value


def build_spec(tables: dict[str, Any], overrides: list[str] | None = None) -> RunSpec:
    """Validate raw tables with `KEY=VALUE` overrides on top. Raises SpecError naming the field and what to change."""
    merged = deepcopy(tables)
    for text in overrides or []:
        parts, value = parse_override(text)
        target = merged
        for part in parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise SpecError(f'--set {text}: "{part}" is a value, not a section')
        target[parts[-1]] = value
    try:
        return RunSpec.model_validate(merged)
    except ValidationError as e:
        raise SpecError(_explain(e)) from e


def _explain(invalid: ValidationError) -> str:
    """What pydantic found, in the spec's own terms: a sentence for each key."""
    by_key: dict[tuple[str, ...], list[Any]] = {}
    for error in invalid.errors():
        # a union such as int | "auto" adds its branch to the location; the spec's own keys are what a user can type
        branches = ("literal[", "int", "constrained", "dict[")
        location = tuple(str(part) for part in error["loc"] if not str(part).startswith(branches))
        by_key.setdefault(location, []).append(error)
    return "; ".join(_explain_key(location, errors) for location, errors in by_key.items())


def _explain_key(location: tuple[str, ...], errors: list[Any]) -> str:
    """What is wrong at one key; a union has an error for each of its branches."""
    key, error = ".".join(location), errors[0]
    if error["type"] == "extra_forbidden":
        return f'unknown key "{key}"{did_you_mean(location[-1], known := _keys_near(location), shown=known)}'
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    wanted = [e["msg"].removeprefix("Input should be ").partition(", unable to parse")[0] for e in errors]
    wanted[0] = errors[0]["msg"].partition(", unable to parse")[0]
    message = " or ".join(wanted).replace("a valid tuple", 'a list, as in ["one", "two"]')
    return f"{key}: {message[:1].lower()}{message[1:]} (got {error['input']!r})"


def _keys_near(location: tuple[str, ...]) -> dict[str, str]:
    """The keys that an unknown one may be meant for, by their last word: a namesake in another section, else its section's."""
    *path, last = location
    for name, field in RunSpec.model_fields.items():
        section = _section_of(field.annotation)
        if section is not None and last in section.model_fields:
            return {last: f"{name}.{last}"}
    return {name: ".".join((*path, name)) for name in _section_at(path).model_fields}


def _section_at(path: Sequence[str]) -> type[BaseModel]:
    section: type[BaseModel] = RunSpec
    for part in path:
        found = _section_of(section.model_fields[part].annotation)
        assert found is not None, path
        section = found
    return section


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds; None for a plain value."""
    among = (annotation, *get_args(annotation))
    return next((t for t in among if isinstance(t, type) and issubclass(t, BaseModel)), None)
