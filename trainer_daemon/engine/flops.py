"""The peak that MFU divides by: a data sheet's figure on CUDA, a measured matrix product on a CPU, else unknown.

A CPU's peak depends on its cores, threads, clock and instruction set, which no table lists, so a product of the size
that trains well is timed. Other work on the machine only slows it, and a run often starts beside other work: the best
measurement ever made on this machine is kept in a file, and counts.
"""

import json
import platform
from pathlib import Path
from time import perf_counter

import torch

from trainer_daemon.contract.hardware import find_peak
from trainer_daemon.contract.rundir import write_json

PROBE_SIDE = 1024
PROBE_SECONDS = 0.3


def device_peak(device: torch.device, dtype: torch.dtype, kept: Path) -> tuple[float | None, str]:
    """(dense matmul FLOP/s of one device, where the figure is from); None where it is not known.

    On CUDA it is the bf16 figure whatever the dtype, so that runs compare; on a CPU it is this dtype's at the present
    number of torch threads, and `kept` is the file with earlier measurements.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        peak = find_peak(name)
        if peak is None:
            return None, f"{name} is not in the table of peaks"
        return peak.bf16, f"{peak.name} in bf16: {peak.source}"
    if device.type == "cpu" and dtype == torch.float16:
        return None, "no CPU's fp16 is worth a measurement: one product of the probe takes seconds"
    if device.type == "cpu":
        what = f"{str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads"
        return _best_cpu_flops(
            dtype, f"{platform.node()}, {what}", kept
        ), f"measured: {PROBE_SIDE}³ product, {what}"
    return None, f"no peak is known for {device.type}"


def _best_cpu_flops(dtype: torch.dtype, what: str, kept: Path) -> float:
    """FLOP/s: the better of what is measured now and of what was before."""
    try:
        peaks = {str(key): float(value) for key, value in json.loads(kept.read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        peaks = {}  # not measured yet, or damaged
    peak = measure_product(dtype)
    if peak > peaks.get(what, 0.0):
        peaks[what] = peak
        try:
            write_json(kept, peaks)
        except OSError:  # a full disk costs the memory of it, not the measurement
            return peak
    return peaks[what]


def measure_product(dtype: torch.dtype) -> float:
    """FLOP/s of a square product on this CPU, the fastest of as many as fit into PROBE_SECONDS."""
    a = torch.full((PROBE_SIDE, PROBE_SIDE), 0.5, dtype=dtype)
    out = torch.empty_like(a)
    torch.mm(a, a, out=out)  # the first call prepares the kernel
    seconds: list[float] = []
    while sum(seconds) < PROBE_SECONDS:
        start = perf_counter()
        torch.mm(a, a, out=out)
        seconds.append(perf_counter() - start)
    return 2 * PROBE_SIDE**3 / min(seconds)
