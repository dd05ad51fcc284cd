"""The optimizer's step alone, in turns, in one process: its stacks against a loop over matrices, and on two gloo ranks its
work split against both ranks doing all of it. Each ratio is the median of the ratios of neighbours in time.

`python -m tests.bench.optimizer_step ROUNDS`; the second part is the same command, once a rank.
"""

import os
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import nn

from tests.bench.plain import PlainGPT, PlainOptimizer
from tests.parallel import in_parallel
from trainer_daemon.contract.scaling import TrainingPlan, training_plan
from trainer_daemon.contract.spec import RuntimeSpec, build_spec
from trainer_daemon.engine.allocator import keep_freed_memory
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.optim.muon_adamw import build_optimizer
from trainer_daemon.engine.ranks import ALONE, Ranks, join_ranks

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
VOCAB_SIZE = 32768


def plan_of(depth: int) -> TrainingPlan:
    spec = build_spec({"model": {"depth": depth}, "train": {"num_iterations": 100}})
    return training_plan(spec, VOCAB_SIZE, world_size=1)


def with_gradients(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)


def engine_step(plan: TrainingPlan, dtype: torch.dtype, ranks: Ranks) -> Callable[[], None]:
    model = GPT(plan.shape, compute_dtype=dtype)
    model.init_weights(0)
    optimizer = build_optimizer(model, plan, ranks=ranks)
    with_gradients(model)
    return lambda: optimizer.step(learning_rate_scale=1.0, muon_momentum=0.85, weight_decay_scale=1.0)


def loop_step(plan: TrainingPlan, dtype: torch.dtype) -> Callable[[], None]:
    model = GPT(plan.shape, compute_dtype=dtype)
    model.init_weights(0)
    plain = PlainGPT(model)
    with_gradients(plain)
    return PlainOptimizer(plain, model, plan).step


def compare(name: str, slow: Callable[[], None], fast: Callable[[], None], rounds: int, ranks: Ranks) -> None:
    seconds: dict[Callable[[], None], list[float]] = {slow: [], fast: []}
    for step in seconds:
        step()
    for _ in range(rounds):
        for step, taken in seconds.items():
            ranks.sum(0.0)  # they begin together
            started = perf_counter()
            step()
            ranks.sum(0.0)
            taken.append(perf_counter() - started)
    ratio = median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))
    if ranks.is_main:
        print(
            f"  {name:24}{median(seconds[slow]):8.3f} s{median(seconds[fast]):8.3f} s{ratio:8.2f}", flush=True
        )


def main(rounds: int) -> None:
    ranks = join_ranks(RuntimeSpec(device="cpu", threads_per_rank=1))
    keep_freed_memory()
    if ranks.is_main:
        what = ("loop over matrices / stacks", "all on each rank / split")[ranks.world_size > 1]
        print(f"torch {torch.__version__}, {ranks.world_size} rank(s), 1 thread each, V {VOCAB_SIZE}: {what}")
    for depth in (4, 6):
        plan = plan_of(depth)
        for precision, dtype in PRECISIONS.items():
            split = engine_step(plan, dtype, ranks)
            slow = loop_step(plan, dtype) if ranks.world_size == 1 else engine_step(plan, dtype, ALONE)
            compare(f"depth {depth}, {precision}", slow, split, rounds, ranks)
    ranks.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
    if "RANK" not in os.environ:
        in_parallel([sys.executable, "-m", "tests.bench.optimizer_step", sys.argv[1]], world_size=2)
