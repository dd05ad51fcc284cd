"""How many rows a rank takes at a time when the spec leaves it to the machine: the most that fit.

On CUDA it is tried: a network that is thrown away makes two whole steps at the real shape, largest candidate first, and
all ranks agree on what fitted everywhere. Within a try the ranks exchange nothing while one of them may be out of
memory, since a rank that fell in the middle of a reduce would leave the others waiting. Elsewhere it is estimated: the
kernel kills a process that takes too much of a computer's memory, and no one could try again.

A smaller micro-batch is accumulated more often; the global batch, and so the function that is trained, stays the same.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import inf

import torch
from torch.nn.parallel import DistributedDataParallel

from trainer_daemon.contract.errors import RunFailedError, SpecError
from trainer_daemon.contract.estimate import (
    ActivationCheckpointing,
    Precision,
    largest_that_fits,
    rank_memory,
    usable_bytes,
)
from trainer_daemon.contract.events import Notice
from trainer_daemon.contract.scaling import TrainingPlan
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.engine.memory import forget_peak, memory_of_a_rank, memory_use
from trainer_daemon.engine.network import Network, build_network
from trainer_daemon.engine.outbox import Emit
from trainer_daemon.engine.ranks import Ranks, ranks_on_this_machine

STEPS_OF_A_TRY = 2
"""The first step allocates what the second finds in its way: optimizer buffers, gradients, workspaces."""
OPTIMISM = 2.0
"""Tries begin at the largest candidate whose estimate is under this many times the memory: compiled models keep less."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided, the same on all ranks."""

    plan: TrainingPlan
    why: str


def settle_micro_batch(
    spec: RunSpec,
    plan: TrainingPlan,
    precision: Precision,
    ranks: Ranks,
    emit: Emit,
    saved_rows: int | None,
    document_start: int | None,
) -> TrainingPlan:
    """The plan in portions that fit, where the spec leaves that to the machine. All ranks.

    A resumed run keeps the rows of its checkpoint where they still divide a rank's share: other portions round sums
    otherwise. Raises SpecError when not even one row fits.
    """
    if spec.train.micro_batch_size != "auto":
        return plan
    if saved_rows and plan.rows_per_rank % saved_rows == 0:
        return plan.in_portions_of(saved_rows)
    choice = choose_micro_batch(
        plan,
        precision,
        spec.runtime.activation_checkpointing,
        ranks,
        build=lambda trial: build_network(spec, trial, precision, ranks, lambda _: None, document_start),
    )
    rows, times = choice.plan.micro_batch_size, choice.plan.grad_accum_steps
    emit(Notice("info", f"micro-batch: {rows} rows, {times} a step, are the most that fit: {choice.why}"))
    return choice.plan


def choose_micro_batch(
    plan: TrainingPlan,
    precision: Precision,
    checkpointing: ActivationCheckpointing,
    ranks: Ranks,
    build: Callable[[TrainingPlan], Network],
) -> Choice:
    """The plan in the largest portions that fit on every rank. `build` makes a network for a trial. All ranks.

    Raises SpecError when not even one row fits.
    """
    on_cpu = ranks.device.type == "cpu"
    there = memory_of_a_rank(ranks.device, ranks_on_this_machine(ranks.world_size))
    least = -ranks.maximum(-float(there or 0))
    if not least:
        raise SpecError(
            "train.micro_batch_size: auto needs to know this machine's memory; give a number of rows"
        )
    usable = usable_bytes(int(least), on_cpu=on_cpu)

    def within(memory_bytes: float) -> TrainingPlan | None:
        return largest_that_fits(plan, precision, memory_bytes, on_cpu=on_cpu, checkpointing=checkpointing)

    if ranks.device.type == "cuda":
        choice = try_out(within(OPTIMISM * usable) or plan.in_portions_of(1), usable, ranks, build)
    elif estimated := within(usable):
        size = rank_memory(estimated, precision, on_cpu=on_cpu, checkpointing=checkpointing).total
        choice = Choice(
            estimated, f"an estimated {_gib(size)} of the {_gib(usable)} that a rank may take here"
        )
    else:
        choice = None
    if choice is None:
        raise SpecError(
            f"train.micro_batch_size: not even one row fits into the {_gib(usable)} that a rank may take; use --set "
            f"runtime.activation_checkpointing=block, a shorter model.sequence_len or a smaller model.depth"
        )
    return choice


def try_out(
    first: TrainingPlan, usable: int, ranks: Ranks, build: Callable[[TrainingPlan], Network]
) -> Choice | None:
    """The first of `first` and its halvings with which a network makes two steps in `usable` bytes on every rank.

    The network is gone afterwards, and random generators are as they were. None when none fits. All ranks.
    """
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        choice = _first_that_fits(first, usable, ranks, build(first))
    gc.collect()  # a replica refers to itself
    _empty_cache(ranks.device)
    return choice


def _first_that_fits(first: TrainingPlan, usable: int, ranks: Ranks, network: Network) -> Choice | None:
    for candidate in first.halvings():
        if candidate.micro_batch_size <= first.micro_batch_size:
            peak = peak_of_two_steps(network, candidate, ranks)
            if peak <= usable:
                took = f"two steps tried before training took {_gib(peak)} of {_gib(usable)}"
                return Choice(candidate, took)
    return None


def peak_of_two_steps(network: Network, plan: TrainingPlan, ranks: Ranks) -> float:
    """Bytes at the highest, on the fullest rank; inf when any rank ran out of memory. All ranks."""
    forget_peak(ranks.device)
    for _ in range(STEPS_OF_A_TRY):
        # first everything that may fail on one rank alone, then the step, which ranks may take together
        if not ranks.all_ok(_forward_and_backward(network, plan, ranks.device)):
            network.model.zero_grad()
            _empty_cache(ranks.device)
            return inf
        network.optimizer.step(learning_rate_scale=0.0, muon_momentum=0.9, weight_decay_scale=0.0)
        network.model.zero_grad()
    return ranks.maximum(float(memory_use(ranks.device).peak or 0))


def _forward_and_backward(network: Network, plan: TrainingPlan, device: torch.device) -> bool:
    """A step's micro-batches without any exchange between ranks; of many, two, since from the second on the gradients
    of those before are there as well. False when they did not fit."""
    tokens = torch.zeros(plan.micro_batch_size, plan.shape.sequence_len, dtype=torch.int64, device=device)
    replica = network.replica
    alone = replica.no_sync() if isinstance(replica, DistributedDataParallel) else nullcontext()
    try:
        with alone:
            for _ in range(min(2, plan.grad_accum_steps)):
                replica(tokens, tokens).backward()
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
        return False
    return True


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no memory, on a device or, as far as it notices, on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def out_of_memory_told(ranks: Ranks, plan: TrainingPlan) -> Iterator[None]:
    """Turn torch's error into a sentence that says what to set: RunFailedError, which no restart follows."""
    try:
        yield
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
        rows = plan.micro_batch_size
        smaller = f"train.micro_batch_size={rows // 2} or auto, or " if rows > 1 else ""
        raise RunFailedError(
            f"rank {ranks.rank} ran out of memory with {rows} rows of {plan.shape.sequence_len} tokens at a time; "
            f"use --set {smaller}runtime.activation_checkpointing=block ({str(e).splitlines()[0]})"
        ) from e


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
