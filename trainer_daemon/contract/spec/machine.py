"""Where a run trains, what is watched while it does, and who is told."""

from typing import Annotated, Literal

from pydantic import Field

from trainer_daemon.contract.spec.section import Section


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
