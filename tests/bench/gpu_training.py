"""Training steps on a GPU: tokens/s, MFU and memory by depth, precision and attention kernel, and what is left to win.

Needs torch, numpy, pydantic, safetensors and this repository, on any Python from 3.11: `python -m tests.bench.gpu_training`.
The model, loss, optimizer and compilation are a run's own; the rows are random tokens, so nothing waits for data.

A step of the depth dial has many micro-steps on one GPU. A few are timed, and the optimizer by itself; the figures are for
the whole step that they make: accumulation x micro-step + optimizer. A profile of one micro-step and one optimizer step
says by kernel where the time goes.
"""

import argparse
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import home
from trainer_daemon.contract.scaling import training_plan
from trainer_daemon.contract.spec import RunSpec, build_spec
from trainer_daemon.engine.flops import device_peak
from trainer_daemon.engine.models.attention import choose_attention
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.models.loss import use_fused_kernel
from trainer_daemon.engine.native import NativeError
from trainer_daemon.engine.optim.muon_adamw import build_optimizer
from trainer_daemon.engine.precision import COMPUTE_DTYPES, choose_precision

KERNELS_SHOWN = 14


@dataclass(frozen=True, slots=True)
class Measured:
    """One way of training one model."""

    rows: int
    micro_steps: int
    """In a step of the plan's global batch on this one device."""
    first_seconds: float
    """The first micro-step and optimizer step, compilation included."""
    micro_seconds: float
    optimizer_seconds: float
    tokens_per_second: float
    mfu: float | None
    """Of the device's bf16 peak, whatever the precision; None where it is not known."""
    peak_bytes: int | None
    """Most memory that tensors took at once; None on a CPU."""
    profile: str


def main() -> None:
    options = parse_options()
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")
    if device.type == "cpu":
        fuse_loss()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, T {options.sequence_len}, V {options.vocab_size}, {vars(options)}"
    )
    print(
        f"{'':28}rows  micro-steps  first s  micro-step s  optimizer s    tok/s    MFU   peak GB", flush=True
    )
    for depth in options.depths:
        for precision, kernel, spec in ways(options, depth):
            label = f"d{depth} {precision} {kernel}"
            try:
                found = measure_or_shrink(spec, options.vocab_size, device, options.steps)
            except SpecError as e:
                print(f"{label:28}skipped: {e}", flush=True)
                continue
            print(f"{label:28}{as_line(found)}", flush=True)
            if options.profile:
                print(found.profile, flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--depths", type=int, nargs="+", default=[12, 20, 26])
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp8"])
    parser.add_argument(
        "--attention",
        nargs="+",
        default=["auto", "fa3", "flex", "sdpa"],
        help="all at bf16, the first otherwise",
    )
    parser.add_argument("--compile", default="auto", help="as runtime.compile")
    parser.add_argument("--checkpointing", default="off", help="as runtime.activation_checkpointing")
    parser.add_argument("--rows", type=int, help="rows of a micro-step; default 32 up to depth 18, 16 beyond")
    parser.add_argument("--sequence-len", type=int, default=2048)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--steps", type=int, default=8, help="micro-steps timed")
    parser.add_argument("--no-profile", dest="profile", action="store_false")
    return parser.parse_args()


def fuse_loss() -> None:
    try:
        use_fused_kernel(home() / "kernels")
    except NativeError as e:
        print(f"the loss runs without its kernel: {e}")


def ways(options: argparse.Namespace, depth: int) -> Iterator[tuple[str, str, RunSpec]]:
    """(precision, attention kernel, spec): attention kernels are compared in the first precision alone."""
    for precision in options.precisions:
        for kernel in options.attention if precision == options.precisions[0] else options.attention[:1]:
            yield (
                precision,
                kernel,
                build_spec(
                    {
                        "model": {"depth": depth, "sequence_len": options.sequence_len},
                        "train": {"micro_batch_size": options.rows or (32 if depth <= 18 else 16)},
                        "runtime": {
                            "precision": precision,
                            "attention": kernel,
                            "compile": options.compile,
                            "activation_checkpointing": options.checkpointing,
                        },
                    }
                ),
            )


def measure_or_shrink(spec: RunSpec, vocab_size: int, device: torch.device, steps: int) -> Measured:
    """Measure with the rows asked for, or with half as many until they fit. Raises SpecError for what cannot run here."""
    while True:
        try:
            return measure(spec, vocab_size, device, steps)
        except torch.OutOfMemoryError:
            assert spec.train.micro_batch_size != "auto"
            rows = spec.train.micro_batch_size // 2
            if rows == 0:
                raise SpecError("not even one row fits into this GPU's memory") from None
        forget_everything()
        print(f"{'':28}{2 * rows} rows do not fit, trying {rows}", flush=True)
        spec = spec.model_copy(update={"train": spec.train.model_copy(update={"micro_batch_size": rows})})


def measure(spec: RunSpec, vocab_size: int, device: torch.device, steps: int) -> Measured:
    forget_everything()
    precision = choose_precision(spec.runtime, device)
    dtype = COMPUTE_DTYPES[precision]
    plan = training_plan(spec, vocab_size, world_size=1)
    attention = choose_attention(spec.runtime.attention, device, dtype, plan.shape.head_dim)
    model = GPT(
        plan.shape,
        compute_dtype=dtype,
        device=device,
        recompute=spec.runtime.activation_checkpointing,
        attention=attention.kernel,
    )
    if precision == "fp8" and not model.train_in_fp8(spec.runtime.fp8_recipe):
        raise SpecError("no product of this model is wide enough for fp8")
    model.init_weights(spec.seed)
    optimizer = build_optimizer(model, plan)
    mode = (
        spec.runtime.compile
        if spec.runtime.compile != "auto"
        else "default"
        if device.type == "cuda"
        else "off"
    )
    forward: Any = model if mode == "off" else torch.compile(model, dynamic=False, mode=mode)

    rows, T = plan.micro_batch_size, plan.shape.sequence_len
    text = torch.randint(0, vocab_size, (rows, T + 1), device=device)
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()

    def micro_step() -> None:
        (forward(inputs, targets) / plan.grad_accum_steps).backward()

    def optimizer_step() -> None:
        optimizer.step(learning_rate_scale=1.0, muon_momentum=0.95, weight_decay_scale=1.0)
        model.zero_grad()

    def whole() -> None:
        micro_step()
        optimizer_step()

    first_seconds = timed(whole, device)
    whole()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    optimizer_seconds, micro_seconds = [], []
    for _ in range(3):
        micro_seconds += [timed(micro_step, device) for _ in range(max(2, steps // 3))][
            1:
        ]  # the first makes .grad
        optimizer_seconds.append(timed(optimizer_step, device))
    step_seconds = plan.grad_accum_steps * median(micro_seconds) + median(optimizer_seconds)
    peak, _ = device_peak(device, dtype, home() / "cpu-peaks.json")
    achieved = plan.flops_per_token * plan.global_batch_tokens / step_seconds
    return Measured(
        rows=rows,
        micro_steps=plan.grad_accum_steps,
        first_seconds=first_seconds,
        micro_seconds=median(micro_seconds),
        optimizer_seconds=median(optimizer_seconds),
        tokens_per_second=plan.global_batch_tokens / step_seconds,
        mfu=achieved / peak if peak else None,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        profile=profiled(whole, device),
    )


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds from an idle device to an idle device."""
    wait_for(device)
    started = perf_counter()
    work()
    wait_for(device)
    return perf_counter() - started


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profiled(work: Callable[[], None], device: torch.device) -> str:
    """The operators that take most of the device's time, with their share of it."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        work()
        wait_for(device)
    # on a GPU only what ran there: the operators that launched it would count it twice
    events = [
        (e.key, float(e.self_device_time_total if on_gpu else e.self_cpu_time_total), e.count)
        for e in seen.key_averages()
        if not on_gpu or str(e.device_type).endswith("CUDA")
    ]
    total = sum(microseconds for _, microseconds, _ in events) or 1.0
    top = sorted(events, key=lambda event: -event[1])[:KERNELS_SHOWN]
    return "\n".join(
        f"    {us / total:6.1%} {us / 1000:9.2f} ms {count:5} x {key[:90]}" for key, us, count in top
    )


def as_line(m: Measured) -> str:
    mfu = f"{m.mfu:.3f}" if m.mfu is not None else "-"
    memory = f"{m.peak_bytes / 1e9:.1f}" if m.peak_bytes is not None else "-"
    times = f"{m.first_seconds:9.1f}{m.micro_seconds:14.4f}{m.optimizer_seconds:13.4f}"
    return f"{m.rows:4}{m.micro_steps:13}{times}{m.tokens_per_second:9,.0f}{mfu:>7}{memory:>10}"


def forget_everything() -> None:
    """Leave nothing of the model before: neither its memory nor its compiled code."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
