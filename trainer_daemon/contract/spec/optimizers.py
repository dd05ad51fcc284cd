"""How each family's parameters are moved: every family has a section, or two, of its own; the schedule is all families'."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from trainer_daemon.contract.spec.family import OnlyOf
from trainer_daemon.contract.spec.section import AddedLater, Betas, Decay, Fraction, PositiveRate, Section


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
    warmdown: Annotated[Literal["linear", "cosine"], AddedLater()] = "linear"
    """Whether the warm-down is a line or half a cosine."""
    final_lr_frac: Fraction = 0.05
    """Multiplier that the warm-down ends at."""
    restart_every: Annotated[int | None, AddedLater()] = Field(default=None, ge=1)
    """Steps of a wave: after the warm-up the rate falls from its peak to `final_lr_frac` along half a cosine and begins anew,
    again and again (warm restarts), in place of one warm-down. None: no waves."""
    learning_rate_factor: PositiveRate = 1.0
    """Factor on every learning rate of the whole schedule: the dial to turn while a run trains, with `llmctl set`."""
    weight_decay: Annotated[Literal["cosine", "linear"], OnlyOf("nanochat", "moe")] = "cosine"
    """How Muon's weight decay falls from its peak at the first step to 0 after the last."""
