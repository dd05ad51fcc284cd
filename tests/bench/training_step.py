"""A training step on a CPU: the engine against plain PyTorch. Ratios are what it is for.

Each way of computing the step is a process of its own, so that none inherits another's memory, and all take turns, one
step each: what else the machine does falls on all alike. Ratios are of neighbours in a turn, and of these the median.
Plain PyTorch is measured with the C library's allocator as it comes, and keeping freed memory as the engine does.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch

from tests.bench.plain import PlainGPT, PlainOptimizer
from trainer_daemon.contract.rundir import home
from trainer_daemon.contract.scaling import training_plan
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.engine.allocator import keep_freed_memory
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.models.loss import use_fused_kernel
from trainer_daemon.engine.optim.muon_adamw import build_optimizer

SEQUENCE_LEN, VOCAB_SIZE, ROWS = 512, 32768, 8
WAYS = (
    "plain compiled, as it comes",
    "plain compiled, memory kept",
    "plain, memory kept",
    "engine",
    "engine compiled",
)
"""The first two are what the others are compared with."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one step."""

    wall: float
    cpu: float
    """Of all threads: on a machine that others use, the fairer one."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--precisions", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--serve", nargs=3, metavar=("WAY", "PRECISION", "DEPTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve:
        serve(*options.serve)
        return
    print(
        f"torch {torch.__version__}, {options.threads} threads, T {SEQUENCE_LEN}, V {VOCAB_SIZE}, {ROWS} rows, "
        f"medians of {options.rounds} turns"
    )
    for depth in options.depths:
        found = {}
        for precision in options.precisions:
            print(f"\ndepth {depth}, {precision}: seconds of a step, and how many times as fast", flush=True)
            found[precision] = measure(options, precision, depth)
            report(found[precision])
        if {"fp32", "bf16"} <= found.keys():
            report_across(found["fp32"], found["bf16"])


def measure(options: argparse.Namespace, precision: str, depth: int) -> dict[str, list[Seconds]]:
    """Each way's steps, in turns."""
    with ExitStack() as stack:
        step = {
            way: stack.enter_context(served(way, precision, depth, options.threads)) for way in options.ways
        }
        seconds: dict[str, list[Seconds]] = {way: [] for way in step}
        for _ in range(options.rounds):
            for way, take_step in step.items():
                seconds[way].append(take_step())
    return seconds


def report(seconds: dict[str, list[Seconds]]) -> None:
    baselines = [way for way in WAYS[:2] if way in seconds]
    print(f"  {'':30}{'wall':>8}{'cpu':>8}   " + "".join(f"{f'x {way} (cpu)':>40}" for way in baselines))
    for way, taken in seconds.items():
        line = f"  {way:30}{median(s.wall for s in taken):8.3f}{median(s.cpu for s in taken):8.3f}   "
        for baseline in baselines:
            neighbours = list(zip(seconds[baseline], taken, strict=True))
            wall = median(theirs.wall / ours.wall for theirs, ours in neighbours)
            cpu = median(theirs.cpu / ours.cpu for theirs, ours in neighbours)
            line += f"{f'{wall:.2f} ({cpu:.2f})':>40}"
        print(line, flush=True)


def report_across(fp32: dict[str, list[Seconds]], bf16: dict[str, list[Seconds]]) -> None:
    """The engine in bf16 against plain PyTorch in fp32, by medians of CPU seconds: these two did not take turns."""
    for way in WAYS[:2]:
        if way in fp32 and "engine" in bf16:
            theirs, ours = (median(s.cpu for s in taken) for taken in (fp32[way], bf16["engine"]))
            print(f"  engine in bf16 x {way}, in fp32: ({theirs / ours:.2f})", flush=True)


@contextmanager
def served(way: str, precision: str, depth: int, threads: int) -> Iterator[Callable[[], Seconds]]:
    """A process that takes a step each time it is asked, warmed up."""
    command = [sys.executable, "-m", "tests.bench.training_step", "--threads", str(threads), "--serve"]
    with subprocess.Popen(
        [*command, way, precision, str(depth)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        asking, answers = child.stdin, child.stdout
        assert asking is not None
        assert answers is not None

        def step() -> Seconds:
            asking.write("step\n")
            asking.flush()
            wall, cpu = map(float, answers.readline().split())
            return Seconds(wall, cpu)

        try:
            for _ in range(2):  # compiles, and fills the caches
                step()
            yield step
        finally:
            asking.close()


def serve(way: str, precision: str, depth: str) -> None:
    """Take a step for every line of stdin, and answer with its seconds."""
    if way != WAYS[0]:
        keep_freed_memory()
    step = build_step(way, DTYPES[precision], int(depth))
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever else prints must not answer
        for _ in sys.stdin:
            wall, cpu = perf_counter(), process_time()
            step()
            print(perf_counter() - wall, process_time() - cpu, file=answers, flush=True)


def build_step(way: str, dtype: torch.dtype, depth: int) -> Callable[[], None]:
    """Forward, backward, optimizer."""
    spec = build_spec(
        {
            "model": {"depth": depth, "sequence_len": SEQUENCE_LEN},
            "train": {
                "num_iterations": 100,
                "global_batch_tokens": ROWS * SEQUENCE_LEN,
                "micro_batch_size": ROWS,
            },
        }
    )
    plan = training_plan(spec, VOCAB_SIZE, world_size=1)
    text = torch.randint(0, VOCAB_SIZE, (ROWS, SEQUENCE_LEN + 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    engine = GPT(plan.shape, compute_dtype=dtype)
    engine.init_weights(0)
    model: torch.nn.Module
    take: Callable[[], None]
    if way.startswith("engine"):
        use_fused_kernel(home() / "kernels")
        model, optimizer = engine, build_optimizer(engine, plan)

        def take() -> None:
            optimizer.step(learning_rate_scale=1.0, muon_momentum=0.85, weight_decay_scale=1.0)
    else:
        model = PlainGPT(engine)
        take = PlainOptimizer(model, engine, plan).step
    forward: Any = torch.compile(model, dynamic=False) if "compiled" in way else model

    def step() -> None:
        forward(inputs, targets).backward()
        take()
        model.zero_grad()

    return step


if __name__ == "__main__":
    main()
