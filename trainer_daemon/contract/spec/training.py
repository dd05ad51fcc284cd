"""How long a run trains, and what it does in between: evaluate, write samples, save."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trainer_daemon.contract.core_tasks import CORE_TASKS, HELLASWAG, MOST_SHOTS, EvalTask
from trainer_daemon.contract.errors import did_you_mean
from trainer_daemon.contract.spec.section import Interval, Minutes, PositiveRate, Section


def _known_core_task(name: str) -> str:
    names = [task.name for task in CORE_TASKS]
    if name not in names:
        raise ValueError(f'CORE has no task "{name[:60]}"{did_you_mean(name, names)}')
    return name


CoreTaskName = Annotated[str, AfterValidator(_known_core_task)]


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
