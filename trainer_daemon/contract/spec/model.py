"""Which network is trained."""

from typing import Annotated

from pydantic import Field

from trainer_daemon.contract.spec.family import Family, OnlyOf
from trainer_daemon.contract.spec.section import AddedLater, Section


class ModelSpec(Section):
    """The network. Width, heads and every count follow from depth."""

    family: Annotated[Family, AddedLater()] = "nanochat"
    """Which network it is. `nanochat`: rotary positions, sliding windows, value embeddings; Muon and AdamW (section optim).
    `classic`: learned positions, LayerNorm, ReLU, biases, an untied head; AdamW (section adamw). `moe`: a mixture of experts
    (section moe), rotary positions, keys and values from latents; Muon and AdamW (sections muon, adamw)."""
    depth: int = Field(default=20, ge=1, le=128)
    """Number of blocks, and the one dial: width = aspect_ratio x depth, rounded up to a multiple of head_dim."""
    aspect_ratio: int = Field(default=64, ge=1, le=1024)
    """Width per unit of depth."""
    head_dim: int = Field(default=128, ge=2, le=512, multiple_of=2)
    """Width of one attention head; even, since rotary positions pair the halves."""
    n_kv_head: Annotated[int | None, OnlyOf("nanochat")] = Field(default=None, ge=1)
    """Key/value heads (grouped-query attention); None: as many as query heads."""
    sequence_len: int = Field(default=2048, ge=2, le=1 << 20)
    """Tokens of context, T."""
    window_pattern: Annotated[str, OnlyOf("nanochat")] = Field(default="SSSL", pattern=r"^[SL]+$")
    """Attention window of each layer, tiled over depth: L full context, S a part; the last layer is always L."""
    short_window_fraction: Annotated[float, OnlyOf("nanochat")] = Field(
        default=0.25, gt=0, le=1, allow_inf_nan=False
    )
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
