"""The depth dial: every number that a spec implies, by arithmetic alone.

No torch and no I/O: `plan` says these numbers before a GPU is touched, and the engine builds from the same ones.
Laws: batch size after Power Lines (arXiv 2505.13738), weight decay at constant T_epoch (arXiv 2405.13698),
learning rates with the square root of the batch; all anchored at depth 12. The anchors are tuned values, and those of
rates and decay are of the family nanochat: the others take them as they are given.
"""

from dataclasses import dataclass, replace
from math import ceil, log2, sqrt
from typing import Literal

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.spec import Family, ModelSpec, MoESpec, RunSpec

ANCHOR_SCALING_PARAMETERS = 110_100_912
"""Matrices + head of depth 12 at a vocabulary of 32768: where the hyper-parameters were tuned."""
ANCHOR_BATCH_TOKENS = 2**19
ANCHOR_WIDTH = 768
VALUE_GATE_CHANNELS = 12
"""Leading channels of a block's input that the value-embedding gate reads."""
SMEAR_GATE_CHANNELS = 24
"""Leading channels of the embedding that the smear gate reads."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Of family moe: what a block's experts and latents measure."""

    n_experts: int
    """Among which the router chooses; one more sees every token."""
    experts_per_token: int
    expert_width: int
    latent_width: int
    balance_weight: float
    """Of the loss that keeps experts evenly used; decides no tensor's shape."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The network's dimensions, all of them."""

    n_layer: int
    n_embd: int
    n_head: int
    n_kv_head: int
    head_dim: int
    sequence_len: int
    vocab_size: int
    windows: tuple[int, ...]
    """Per layer: how many keys before its own a query sees (window w: keys i-w..i)."""
    family: Family = "nanochat"
    mixture: Mixture | None = None
    """Of family moe."""

    @property
    def learned_positions(self) -> int:
        """Positions that have parameters of their own; 0 where only distances count."""
        return self.sequence_len if self.family == "classic" else 0

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding tables and the head: the vocabulary rounded up to a multiple of 64; of family moe as it is."""
        return self.vocab_size if self.family == "moe" else 64 * ceil(self.vocab_size / 64)

    def has_value_embedding(self, layer: int) -> bool:
        """Of family nanochat: every second layer, the last one always."""
        return layer % 2 == (self.n_layer - 1) % 2


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters by kind."""

    matrices: int
    embedding: int
    """Of tokens and, where they are learned, of positions."""
    value_embedding: int
    unembedding: int
    scalars: int
    """Whatever is no matrix: gates and lambdas, or biases and norms."""
    inactive: int = 0
    """Of the matrices: those of the experts that a token is not sent to."""

    @property
    def active(self) -> int:
        """Parameters that one token meets."""
        return self.total - self.inactive

    @property
    def total(self) -> int:
        return self.matrices + self.embedding + self.value_embedding + self.unembedding + self.scalars

    @property
    def scaling(self) -> int:
        """What the scaling laws count: matrices + head, as far as one token meets them."""
        return self.matrices - self.inactive + self.unembedding


@dataclass(frozen=True, slots=True)
class LearningRates:
    """Peak learning rate of each parameter group of family nanochat, after scaling to this batch and width."""

    matrix: float
    embedding: float
    value_embedding: float
    unembedding: float
    resid_lambda: float
    x0_lambda: float
    smear_backout: float


@dataclass(frozen=True, slots=True)
class OneRate:
    """Peak learning rate of family classic."""

    adamw: float


@dataclass(frozen=True, slots=True)
class TwoRates:
    """Peak learning rates of family moe."""

    muon: float
    adamw: float


Rates = LearningRates | OneRate | TwoRates


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a spec implies for one vocabulary and world size."""

    shape: ModelShape
    parameters: ParameterCounts
    flops_per_token: int
    global_batch_tokens: int
    micro_batch_size: int
    grad_accum_steps: int
    world_size: int
    total_steps: int
    horizon: Literal["num_iterations", "target_flops", "target_param_data_ratio"]
    learning_rates: Rates
    weight_decay: float
    """Muon's weight decay after scaling, before its schedule; AdamW's of family classic."""

    @property
    def rows_per_rank(self) -> int:
        """One rank's share of a step."""
        return self.micro_batch_size * self.grad_accum_steps

    def in_portions_of(self, rows: int) -> "TrainingPlan":
        """The same steps with `rows` at a time, which must divide a rank's share."""
        assert self.rows_per_rank % rows == 0, f"{rows} rows do not divide {self.rows_per_rank}"
        return replace(self, micro_batch_size=rows, grad_accum_steps=self.rows_per_rank // rows)

    def halvings(self) -> "list[TrainingPlan]":
        """The same steps in ever smaller portions: a rank's whole share first, then about half of the one before."""
        rows = share = self.rows_per_rank
        found = [self.in_portions_of(rows)]
        while rows > 1:
            rows = next(r for r in range(rows // 2, 0, -1) if share % r == 0)
            found.append(self.in_portions_of(rows))
        return found

    @property
    def total_tokens(self) -> int:
        return self.total_steps * self.global_batch_tokens

    @property
    def total_flops(self) -> float:
        return float(self.flops_per_token) * self.total_tokens


def short_window(sequence_len: int, fraction: float) -> int:
    """That part of the context, rounded up to 128; full where that is longer than the context."""
    return min(128 * ceil(sequence_len * fraction / 128), sequence_len)


def model_shape(model: ModelSpec, vocab_size: int, moe: MoESpec | None = None) -> ModelShape:
    """The dimensions that a depth implies; `moe` counts for that family alone, None: as it stands by default. Raises SpecError for a width below that of the smear's gate, and for key/value
    heads that do not divide the heads."""
    n_head = ceil(model.depth * model.aspect_ratio / model.head_dim)
    if model.family == "nanochat" and n_head * model.head_dim < SMEAR_GATE_CHANNELS:
        raise SpecError(
            f"model.aspect_ratio: depth {model.depth} x {model.aspect_ratio} makes a width of {n_head * model.head_dim}, and "
            f"the least is {SMEAR_GATE_CHANNELS}; {ceil(SMEAR_GATE_CHANNELS / model.depth)} is enough"
        )
    n_kv_head = model.n_kv_head or n_head
    if n_head % n_kv_head:
        divisors = [str(k) for k in range(1, n_head + 1) if n_head % k == 0]
        raise SpecError(
            f"model.n_kv_head: {n_kv_head} does not divide {n_head} heads; possible: {', '.join(divisors)}"
        )
    size = {"L": model.sequence_len, "S": short_window(model.sequence_len, model.short_window_fraction)}
    pattern = model.window_pattern if model.family == "nanochat" else "L"
    n_embd = n_head * model.head_dim
    windows = [size[pattern[layer % len(pattern)]] for layer in range(model.depth)]
    windows[-1] = model.sequence_len
    return ModelShape(
        n_layer=model.depth,
        n_embd=n_embd,
        n_head=n_head,
        n_kv_head=n_kv_head,
        head_dim=model.head_dim,
        sequence_len=model.sequence_len,
        vocab_size=vocab_size,
        windows=tuple(windows),
        family=model.family,
        mixture=_mixture(moe or MoESpec(), n_embd) if model.family == "moe" else None,
    )


def _mixture(moe: MoESpec, n_embd: int) -> Mixture:
    return Mixture(
        n_experts=moe.experts,
        experts_per_token=moe.experts_per_token,
        expert_width=8 * max(1, round(moe.expert_ratio * n_embd / 8)),
        latent_width=moe.latent_width,
        balance_weight=moe.balance_weight,
    )


def classic_matrices(shape: ModelShape) -> list[tuple[int, int]]:
    """(rows, cols) of every matrix inside the blocks of family classic."""
    C = shape.n_embd
    return [(3 * C, C), (C, C), (4 * C, C), (C, 4 * C)] * shape.n_layer


def moe_muon_matrices(shape: ModelShape) -> list[tuple[int, int]]:
    """(rows, cols) of every matrix inside the blocks of family moe, an expert's each for itself."""
    assert shape.mixture is not None
    m, C = shape.mixture, shape.n_embd
    attention = [(C, C), (m.latent_width, C), (m.latent_width, C), (C, C)]
    experts = [(m.expert_width, C), (m.expert_width, C), (C, m.expert_width)] * (m.n_experts + 1)
    return [*attention, (m.n_experts, C), *experts] * shape.n_layer


def moe_expanders(shape: ModelShape) -> list[tuple[int, int]]:
    """(heads, values of each) of the tensors of family moe that make keys and values out of latents."""
    assert shape.mixture is not None
    return [(shape.n_head, shape.mixture.latent_width * shape.head_dim)] * 2 * shape.n_layer


def count_parameters(shape: ModelShape) -> ParameterCounts:
    """Parameters by kind; equal to what the built model has."""
    if shape.family == "classic":
        return _count_classic(shape)
    if shape.mixture is not None:
        return _count_moe(shape, shape.mixture)
    C, table = shape.n_embd, shape.padded_vocab_size
    kv_width = shape.n_kv_head * shape.head_dim
    value_layers = sum(shape.has_value_embedding(layer) for layer in range(shape.n_layer))
    attention, mlp = 2 * C * C + 2 * C * kv_width, 8 * C * C
    return ParameterCounts(
        matrices=shape.n_layer * (attention + mlp) + value_layers * shape.n_kv_head * VALUE_GATE_CHANNELS,
        embedding=table * C,
        value_embedding=value_layers * table * kv_width,
        unembedding=table * C,
        scalars=2 * shape.n_layer + SMEAR_GATE_CHANNELS + 2,
    )


def _count_classic(shape: ModelShape) -> ParameterCounts:
    C, table = shape.n_embd, shape.padded_vocab_size
    biases_of_a_block = C + 4 * C + C  # of the attention's output and of both matrices of the MLP
    norms = 2 * C * (2 * shape.n_layer + 1)
    return ParameterCounts(
        matrices=sum(rows * cols for rows, cols in classic_matrices(shape)),
        embedding=(table + shape.learned_positions) * C,
        value_embedding=0,
        unembedding=table * C,
        scalars=shape.n_layer * biases_of_a_block + norms + table,
    )


def _count_moe(shape: ModelShape, m: Mixture) -> ParameterCounts:
    C, table = shape.n_embd, shape.padded_vocab_size
    an_expert = 3 * C * m.expert_width
    return ParameterCounts(
        matrices=sum(rows * cols for rows, cols in (*moe_muon_matrices(shape), *moe_expanders(shape))),
        embedding=table * C,
        value_embedding=0,
        unembedding=table * C,
        scalars=C * (2 * shape.n_layer + 1),
        inactive=shape.n_layer * (m.n_experts - m.experts_per_token) * an_expert,
    )


def flops_per_token(shape: ModelShape) -> int:
    """Forward + backward FLOPs of one token: 6 a matmul weight that it meets, 12·H·D a visible key (whole window, not the
    causal half)."""
    parameters = count_parameters(shape)
    attention = sum(12 * shape.n_head * shape.head_dim * min(w, shape.sequence_len) for w in shape.windows)
    smear = SMEAR_GATE_CHANNELS if shape.family == "nanochat" else 0
    return 6 * (parameters.scaling + smear) + attention


def batch_tokens_for(scaling_parameters: int) -> int:
    """The nearest power of two to the optimal batch, in tokens."""
    exact = ANCHOR_BATCH_TOKENS * (scaling_parameters / ANCHOR_SCALING_PARAMETERS) ** 0.383
    return int(2 ** round(log2(exact)))


def training_plan(spec: RunSpec, vocab_size: int, world_size: int) -> TrainingPlan:
    """Everything that follows from the spec. Raises SpecError when the batch cannot be split over ranks and rows.

    With train.micro_batch_size=auto a rank takes its whole share of a step at once, until it is known what fits.
    """
    shape = model_shape(spec.model, vocab_size, spec.moe)
    parameters = count_parameters(shape)
    flops = flops_per_token(shape)
    batch = spec.train.global_batch_tokens or batch_tokens_for(parameters.scaling)
    asked = spec.train.micro_batch_size
    rows, accum = _split_batch(batch, 1 if asked == "auto" else asked, shape.sequence_len, world_size)
    if asked == "auto":
        rows, accum = rows * accum, 1
    least_rows = 1 if asked == "auto" else rows  # what fits is not known yet
    _check_evaluation(spec.eval.tokens, least_rows, shape.sequence_len, world_size)

    train = spec.train
    horizon: Literal["num_iterations", "target_flops", "target_param_data_ratio"]
    if train.num_iterations is not None:
        horizon, steps = "num_iterations", train.num_iterations
    elif train.target_flops is not None:
        horizon, steps = "target_flops", round(train.target_flops / (flops * batch))
    else:
        horizon, steps = (
            "target_param_data_ratio",
            int(train.target_param_data_ratio * parameters.scaling) // batch,
        )
    if steps < 1:
        raise SpecError(
            f"train.{horizon}: is less than one step of {batch} tokens; raise it or lower train.global_batch_tokens"
        )

    rates, weight_decay = _peaks(spec, shape, parameters, batch)
    return TrainingPlan(
        shape=shape,
        parameters=parameters,
        flops_per_token=flops,
        global_batch_tokens=batch,
        micro_batch_size=rows,
        grad_accum_steps=accum,
        world_size=world_size,
        total_steps=steps,
        horizon=horizon,
        learning_rates=rates,
        weight_decay=weight_decay,
    )


def _peaks(spec: RunSpec, shape: ModelShape, parameters: ParameterCounts, batch: int) -> tuple[Rates, float]:
    """Learning rates and weight decay at this batch and model."""
    if shape.family == "classic":
        return OneRate(spec.adamw.learning_rate), spec.adamw.weight_decay
    if shape.family == "moe":
        return TwoRates(spec.muon.learning_rate, spec.adamw.learning_rate), spec.muon.weight_decay
    batch_scale = sqrt(batch / ANCHOR_BATCH_TOKENS)
    width_scale = (shape.n_embd / ANCHOR_WIDTH) ** -0.5
    optim = spec.optim
    rates = LearningRates(
        matrix=optim.matrix_lr * batch_scale,
        embedding=optim.embedding_lr * batch_scale * width_scale,
        value_embedding=0.5 * optim.embedding_lr * batch_scale * width_scale,
        unembedding=optim.unembedding_lr * batch_scale * width_scale,
        resid_lambda=0.01 * optim.scalar_lr * batch_scale,
        x0_lambda=optim.scalar_lr * batch_scale,
        smear_backout=optim.smear_backout_lr,
    )
    return rates, optim.weight_decay * batch_scale * ANCHOR_SCALING_PARAMETERS / parameters.scaling


def _check_evaluation(tokens: int, rows: int, sequence_len: int, world_size: int) -> None:
    """Raises SpecError when the evaluation is less than one row of every rank's batch: nothing that compares."""
    batch = world_size * rows * sequence_len
    if tokens < batch:
        ranks = f"{world_size} rank{'s' if world_size > 1 else ''}"
        raise SpecError(
            f"eval.tokens: {tokens} is below one batch of {batch} ({ranks} x {rows} rows x {sequence_len} tokens); "
            f"raise it, or lower train.micro_batch_size"
        )


def _split_batch(batch: int, rows: int, sequence_len: int, world_size: int) -> tuple[int, int]:
    """(rows of a rank's micro-batch, micro-batches a step); a rank's share below `rows` is taken at once."""
    row_of_each_rank = world_size * sequence_len
    if batch < rows * row_of_each_rank and batch % row_of_each_rank == 0:
        rows = batch // row_of_each_rank
    portion = rows * row_of_each_rank
    if batch % portion == 0:
        return rows, batch // portion
    step = row_of_each_rank if batch < portion else portion
    below = batch // step * step
    nearest = f"{below} or {below + step}" if below else f"{step}"
    ranks = f"{world_size} rank{'s' if world_size > 1 else ''}"
    split = (
        f"{ranks} x {rows} rows x {sequence_len} tokens"
        if step == portion
        else f"{ranks} x {sequence_len} tokens"
    )
    raise SpecError(
        f"train.global_batch_tokens: {batch} is not a multiple of {step} ({split}); nearest: {nearest}"
        + ("; or change train.micro_batch_size" if step == portion else "")
    )
