"""What a plan will take: memory, disk, time and money, by arithmetic alone.

Sizes of weights, optimizer state and checkpoints are exact, since the engine's dtypes are fixed: matrices, head and
scalars in fp32, embedding tables in bf16 or fp32 (of families classic and moe always fp32), AdamW's moments in the dtype of their
parameter, Muon's in fp32.
Activations and speed are estimates, and each says what it rests on.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, lcm
from typing import Literal

from trainer_daemon.contract.errors import SpecError, did_you_mean
from trainer_daemon.contract.hardware import DEVICE_PEAKS, bf16_peak_flops, device_memory_bytes
from trainer_daemon.contract.scaling import (
    VALUE_GATE_CHANNELS,
    ModelShape,
    TrainingPlan,
    classic_matrices,
    count_parameters,
    moe_expanders,
    moe_muon_matrices,
)
from trainer_daemon.contract.spec import RunSpec

Precision = Literal["fp32", "bf16", "fp16", "fp8"]
ActivationCheckpointing = Literal["off", "block", "selective"]

FP32 = 4
ACTIVATION_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2}
TABLE_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 4, "fp8": 2}
"""Embedding tables, their gradients and moments: fp16 has too little range for these."""

ACTIVATIONS_PER_LAYER: dict[Literal["nanochat", "classic"], dict[ActivationCheckpointing, float]] = {
    "nanochat": {"off": 16.8, "selective": 12.6, "block": 2.5},
    "classic": {"off": 12.1, "selective": 11.1, "block": 1.0},
}
"""Values per token and channel that autograd keeps of one block, by activation checkpointing; counted on the eager
model, compiled it keeps fewer."""
RESIDUALS_PER_LAYER: dict[ActivationCheckpointing, float] = {"off": 2.0, "selective": 2.0, "block": 1.0}
"""Of them, in family classic, those of the residual stream, which stays in fp32."""
ACTIVATIONS_AROUND: dict[Literal["nanochat", "classic"], float] = {"nanochat": 4, "classic": 2}
"""The same as of a block, of what stands before and after the blocks."""


@dataclass(frozen=True, slots=True)
class MixtureActivations:
    """What autograd keeps of one block of family moe, per token; counted as those of the other families were."""

    fp32_per_channel: int
    per_channel: int
    per_inner: int
    """Of an expert's inner width, for each expert that the token meets."""
    per_routed_channel: int
    """Of the width, for each expert that the token is sent to."""
    per_latent: int


MIXTURE_ACTIVATIONS: dict[ActivationCheckpointing, MixtureActivations] = {
    "off": MixtureActivations(10, 0, 4, 2, 2),
    "selective": MixtureActivations(0, 7, 2, 1, 2),
    "block": MixtureActivations(1, 0, 0, 0, 0),
}
MIXTURE_AROUND_FP32, MIXTURE_AROUND = 2, 1
"""Values per token and channel before and after the blocks of family moe, in fp32 and in the compute dtype."""
LOSS_COPIES = 3
"""fp32 copies of a chunk's logits that the loss holds at a time."""
LOSS_ROWS_ON_GPU = 8192
LOSS_ROWS_ON_CPU = 512
MUON_WORKING_BYTES = 16
"""Per element of the largest stack of matrices, while it is updated: gradient, update, weights and decay in fp32."""

USABLE_SHARE_OF_A_GPU = 0.9
"""The rest is for the driver, the libraries' workspaces and fragmentation."""
USABLE_SHARE_OF_A_COMPUTER = 0.5
"""Others live there too, and whoever takes too much is killed by the kernel."""

ASSUMED_GPU_MFU = 0.45
"""Reported for models of this kind on 8 x H100 in bf16: 0.41 at depth 12, 0.46 at 18, 0.50 at 24."""
COMPUTED_AGAIN: dict[ActivationCheckpointing, float] = {"off": 0.0, "selective": 0.0, "block": 1 / 3}
"""Share of a step's FLOPs that is computed twice: a whole forward pass, or, of `selective`, nothing that counts."""
JOURNAL_BYTES_PER_STEP = 900


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on the device of one rank."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What autograd keeps of one micro-batch of the eager model, and the loss's chunk of logits: an estimate. Measured
    within a tenth in fp32; in bf16 a CPU also keeps its attention weights, up to half as much again."""
    update: int
    """Working memory of this rank's part of the optimizer's largest stack; the activations are gone by then."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + max(self.activations, self.update)


def matrix_shapes(shape: ModelShape) -> list[tuple[int, int]]:
    """(rows, cols) of every matrix that Muon updates."""
    if shape.family == "classic":
        return []
    if shape.family == "moe":
        return moe_muon_matrices(shape)
    C, kv_width = shape.n_embd, shape.n_kv_head * shape.head_dim
    block = [(C, C), (kv_width, C), (kv_width, C), (C, C), (4 * C, C), (C, 4 * C)]
    gates = sum(shape.has_value_embedding(layer) for layer in range(shape.n_layer))
    return block * shape.n_layer + [(shape.n_kv_head, VALUE_GATE_CHANNELS)] * gates


def weight_bytes(shape: ModelShape, precision: Precision) -> int:
    """All parameters, as they are held and saved."""
    p = count_parameters(shape)
    tables = p.embedding + p.value_embedding
    return FP32 * (p.matrices + p.unembedding + p.scalars) + table_bytes(shape, precision) * tables


def table_bytes(shape: ModelShape, precision: Precision) -> int:
    """Of one parameter of an embedding."""
    return TABLE_BYTES[precision] if shape.family == "nanochat" else FP32


def optimizer_bytes(shape: ModelShape, precision: Precision, world_size: int = 1) -> int:
    """State of the rank that has most: rows of every table, matrices of every shape, all of the scalars.

    AdamW: two moments a parameter. Muon: a momentum a parameter and, but in family moe, one second moment an index of the
    longer side.
    """
    p = count_parameters(shape)
    if shape.family == "classic":
        C, table = shape.n_embd, shape.padded_vocab_size
        tensors = [*classic_matrices(shape), (table, C), (table, C), (shape.learned_positions, C)]
        return _adamw_bytes(tensors, p.scalars, world_size)
    if shape.family == "moe":
        tensors = [*moe_expanders(shape), *[(shape.padded_vocab_size, shape.n_embd)] * 2]
        momentum = sum(
            ceil(count / world_size) * rows * cols
            for (rows, cols), count in Counter(matrix_shapes(shape)).items()
        )
        return _adamw_bytes(tensors, p.scalars, world_size) + FP32 * momentum
    own_rows = ceil(shape.padded_vocab_size / world_size)
    head, tables = (
        own_rows * parameters // shape.padded_vocab_size
        for parameters in (p.unembedding, p.embedding + p.value_embedding)
    )
    adamw = 2 * (FP32 * (head + p.scalars) + TABLE_BYTES[precision] * tables)
    muon = FP32 * sum(
        ceil(count / world_size) * (rows * cols + max(rows, cols))
        for (rows, cols), count in Counter(matrix_shapes(shape)).items()
    )
    return adamw + muon


def _adamw_bytes(tensors: Iterable[tuple[int, int]], scalars: int, world_size: int) -> int:
    """In fp32, of (rows, values of each) whose rows are split, and of what every rank has whole."""
    return 2 * FP32 * (sum(ceil(rows / world_size) * cols for rows, cols in tensors) + scalars)


def checkpoint_bytes(shape: ModelShape, precision: Precision) -> int:
    """Tensors of one checkpoint; its JSON and random-generator states add some kilobytes and the tokenizer."""
    return weight_bytes(shape, precision) + optimizer_bytes(shape, precision)


def rank_memory(
    plan: TrainingPlan, precision: Precision, *, on_cpu: bool, checkpointing: ActivationCheckpointing = "off"
) -> RankMemory:
    """Activations = rows x T x (16.8 L + 4) x C x item bytes + 3 x chunk x V x 4 (of family classic 12.1 L + 2, of which 2 L in
    fp32; of family moe by what a token meets); weights and gradients are whole on every rank, the optimizer's state and work are split.

    With activation checkpointing fewer than 16.8, and those of the one block that is being computed again.
    """
    shape = plan.shape
    tokens = plan.micro_batch_size * shape.sequence_len
    item = ACTIVATION_BYTES[precision]
    of_a_block, of_a_plain_block = (block_bytes(shape, mode, item) for mode in (checkpointing, "off"))
    again = of_a_plain_block - of_a_block
    kept = of_a_block * shape.n_layer + again + _bytes_around(shape, item)
    chunk = min(tokens, LOSS_ROWS_ON_CPU if on_cpu else LOSS_ROWS_ON_GPU)
    largest_stack = max(
        (
            ceil(count / plan.world_size) * rows * cols
            for (rows, cols), count in Counter(matrix_shapes(shape)).items()
        ),
        default=0,  # AdamW updates in place
    )
    weights = weight_bytes(shape, precision)
    return RankMemory(
        weights=weights,
        gradients=weights,
        optimizer=optimizer_bytes(shape, precision, plan.world_size),
        activations=int(tokens * kept) + LOSS_COPIES * chunk * shape.vocab_size * FP32,
        update=MUON_WORKING_BYTES * largest_stack,
    )


def _bytes_around(shape: ModelShape, item: int) -> float:
    """What autograd keeps before and after the blocks, for a token."""
    if shape.family == "moe":
        return (FP32 * MIXTURE_AROUND_FP32 + item * MIXTURE_AROUND) * shape.n_embd
    return ACTIVATIONS_AROUND[shape.family] * item * shape.n_embd


def block_bytes(shape: ModelShape, mode: ActivationCheckpointing, item: int) -> float:
    """What autograd keeps of one block, for a token, where the compute dtype has `item` bytes."""
    if shape.family == "moe":
        m, of = shape.mixture, MIXTURE_ACTIVATIONS[mode]
        assert m is not None
        values = (
            of.per_channel * shape.n_embd
            + of.per_inner * m.expert_width * (m.experts_per_token + 1)
            + of.per_routed_channel * shape.n_embd * m.experts_per_token
            + of.per_latent * m.latent_width
        )
        return FP32 * of.fp32_per_channel * shape.n_embd + item * values
    per_channel = ACTIVATIONS_PER_LAYER[shape.family][mode]
    in_fp32 = RESIDUALS_PER_LAYER[mode] if shape.family == "classic" else 0.0
    return (FP32 * in_fp32 + item * (per_channel - in_fp32)) * shape.n_embd


def usable_bytes(memory_bytes: int, *, on_cpu: bool) -> int:
    """What a rank should take of its device's memory, or of its share of the computer's."""
    return int(memory_bytes * (USABLE_SHARE_OF_A_COMPUTER if on_cpu else USABLE_SHARE_OF_A_GPU))


def largest_that_fits(
    plan: TrainingPlan,
    precision: Precision,
    memory_bytes: float,
    *,
    on_cpu: bool,
    checkpointing: ActivationCheckpointing,
) -> TrainingPlan | None:
    """The plan in the largest portions whose estimate is within these bytes; None when not even one row is."""
    for candidate in plan.halvings():
        memory = rank_memory(candidate, precision, on_cpu=on_cpu, checkpointing=checkpointing)
        if memory.total <= memory_bytes:
            return candidate
    return None


def expected_portions(
    plan: TrainingPlan,
    precision: Precision,
    hardware: "Hardware",
    checkpointing: ActivationCheckpointing,
) -> TrainingPlan | None:
    """The plan in the portions that train.micro_batch_size=auto will choose there, as far as the estimate tells: one row
    where nothing seems to fit. None where the hardware's memory is unknown."""
    if hardware.memory_bytes is None:
        return None
    on_cpu = hardware.is_cpu
    of_a_rank = hardware.memory_bytes // (plan.world_size if on_cpu else 1)
    usable = usable_bytes(of_a_rank, on_cpu=on_cpu)
    found = largest_that_fits(plan, precision, usable, on_cpu=on_cpu, checkpointing=checkpointing)
    return found or plan.in_portions_of(1)


def checkpoints_at_once(spec: RunSpec, total_steps: int) -> int:
    """Most checkpoints on disk at a time: the newest, the best, those kept for good, and the one being written."""
    c = spec.checkpoint
    if c.every == c.every_minutes == "off":
        return 1
    # by the clock any step may be saved
    every = c.every if c.every != "off" and c.every_minutes == "off" else 1
    kept_for_good = total_steps // lcm(every, c.keep_every) if c.keep_every else 0
    return min(ceil(total_steps / every), c.keep_last + 2 + kept_for_good)


def disk_needed_bytes(spec: RunSpec, plan: TrainingPlan, precision: Precision) -> int:
    """Checkpoints and journal. Token shards come on top where the text has not been prepared before."""
    at_once = checkpoints_at_once(spec, plan.total_steps)
    return at_once * checkpoint_bytes(plan.shape, precision) + JOURNAL_BYTES_PER_STEP * plan.total_steps


def evaluation_share(spec: RunSpec, plan: TrainingPlan) -> float:
    """Computing for evaluations at their step interval / computing for training: a held-out token costs a third of a trained one."""
    if spec.eval.every == "off":
        return 0.0
    evaluations = 1 + ceil(plan.total_steps / spec.eval.every)
    return evaluations * spec.eval.tokens / (3 * plan.total_tokens)


@dataclass(frozen=True, slots=True)
class Hardware:
    """Devices of one kind."""

    name: str
    count: int
    peak_flops: float | None
    """bf16 FLOP/s of one device; None where it is unknown."""
    memory_bytes: int | None = None
    """Of one device, or of the whole computer for `cpu`; None where it is unknown."""

    @property
    def is_cpu(self) -> bool:
        return self.name == "cpu"


def parse_hardware(text: str) -> Hardware:
    """`8xH100` -> eight of them; `H100` is one.

    Raises SpecError when there is no count or no name, and for a device of which neither speed nor memory is known.
    """
    count, x, name = text.strip().partition("x")
    if not (x and count.strip().isdecimal()):
        count, name = "1", text
    if not name.strip() or not 1 <= int(count) <= 100_000:
        raise SpecError(f'--on takes COUNTxDEVICE, for example 8xH100; got "{text}"')
    name = name.strip()
    hardware = Hardware(name, int(count), bf16_peak_flops(name), device_memory_bytes(name))
    if hardware.peak_flops is None and hardware.memory_bytes is None and name not in ("cpu", "mps"):
        known = [peak.name for peak in DEVICE_PEAKS]
        raise SpecError(
            f'--on: no device is known as "{name}"{did_you_mean(name, known)}; known are {", ".join(known)}. Of another one '
            f'say its memory, as in --on "{count}x{name} 32GB": all but speed and time is planned'
        )
    return hardware


@dataclass(frozen=True, slots=True)
class Speed:
    """How long the training steps take; None where the device's peak is unknown."""

    mfu: float | None
    tokens_per_second: float | None
    seconds: float | None
    cost: float | None
    """seconds x devices x price, in the price's currency; None without a price."""


def estimate_speed(
    plan: TrainingPlan,
    hardware: Hardware,
    price_per_device_hour: float | None,
    checkpointing: ActivationCheckpointing = "off",
) -> Speed:
    """Time from the peak of as many devices as there are ranks, at the assumed MFU; what is computed again adds to it."""
    if hardware.peak_flops is None:
        return Speed(None, None, None, None)
    mfu = ASSUMED_GPU_MFU / (1 + COMPUTED_AGAIN[checkpointing])
    flops_per_second = mfu * hardware.peak_flops * plan.world_size
    seconds = plan.total_flops / flops_per_second
    cost = None
    if price_per_device_hour is not None:
        # whoever rents eight and uses six pays for eight
        cost = seconds / 3600 * max(hardware.count, plan.world_size) * price_per_device_hour
    return Speed(mfu, flops_per_second / plan.flops_per_token, seconds, cost)
