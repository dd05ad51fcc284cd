"""A training step on a CPU: the engine against plain PyTorch, in turns, in one process. Ratios are what it is for."""

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from tests.bench.plain import PlainGPT, PlainOptimizer
from trainer_daemon.contract.scaling import training_plan
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.engine.allocator import keep_freed_memory
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.optim.muon_adamw import build_optimizer

SEQUENCE_LEN, VOCAB_SIZE = 512, 32768


def build_steps(depth: int, rows: int) -> dict[str, Callable[[], None]]:
    """One callable a way of computing the same step: forward, backward, optimizer."""
    spec = build_spec(
        {
            "model": {"depth": depth, "sequence_len": SEQUENCE_LEN},
            "train": {
                "num_iterations": 100,
                "global_batch_tokens": rows * SEQUENCE_LEN,
                "micro_batch_size": rows,
            },
        }
    )
    plan = training_plan(spec, VOCAB_SIZE, world_size=1)
    text = torch.randint(0, VOCAB_SIZE, (rows, SEQUENCE_LEN + 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    steps: dict[str, Callable[[], None]] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = GPT(plan.shape, compute_dtype=dtype)
        model.init_weights(0)
        optimizer = build_optimizer(model, plan)
        plain = PlainGPT(model)
        plain_optimizer = PlainOptimizer(plain, model, plan)
        compiled = torch.compile(plain, dynamic=False)

        def engine_step(model: GPT = model, optimizer=optimizer) -> None:  # type: ignore[no-untyped-def]
            model(inputs, targets).backward()
            optimizer.step(learning_rate_scale=1.0, muon_momentum=0.85, weight_decay_scale=1.0)
            model.zero_grad()

        def plain_step(forward=plain, plain: PlainGPT = plain, optimizer=plain_optimizer) -> None:  # type: ignore[no-untyped-def]
            forward(inputs, targets).backward()
            optimizer.step()
            plain.zero_grad()

        steps[f"plain {precision}"] = plain_step
        steps[f"plain {precision}, compiled"] = lambda forward=compiled, step=plain_step: step(forward)  # type: ignore[misc]
        steps[f"engine {precision}"] = engine_step
    return steps


def main(rounds: int = 5) -> None:
    keep_freed_memory()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, T {SEQUENCE_LEN}, V {VOCAB_SIZE}, medians of {rounds}"
    )
    for depth, rows in ((4, 8), (6, 8)):
        steps = build_steps(depth, rows)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for step in steps.values():
            step()  # compiles, and fills the caches
        for _ in range(rounds):
            for name, step in steps.items():
                started = perf_counter()
                step()
                seconds[name].append(perf_counter() - started)
        baseline = median(seconds["plain fp32, compiled"])
        print(f"\ndepth {depth}, {rows} rows{'':16}step s   x compiled plain fp32")
        for name, taken in seconds.items():
            print(f"  {name:28}{median(taken):8.3f}{baseline / median(taken):10.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
