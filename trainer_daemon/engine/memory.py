"""Memory that a rank has in use: of its device as torch's allocator counts it, of the process on a CPU."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer_daemon.contract.hardware import computer_memory_bytes

PROCESS_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes; None where the platform does not say."""

    now: int | None
    """In use: tensors on CUDA and MPS, resident pages of the process on a CPU."""
    peak: int | None
    """The most at any time since the last `forget_peak` on CUDA, since the process began on a CPU."""


def memory_use(device: torch.device) -> MemoryUse:
    """What is in use now. Asks counters, never the device, so it costs microseconds and no wait."""
    if device.type == "cuda":
        # asked once: each of torch's shorter functions makes a flat dictionary of all its counters, in every step
        allocated = torch.cuda.memory_stats_as_nested_dict(device)["allocated_bytes"]["all"]
        return MemoryUse(allocated["current"], allocated["peak"])
    if device.type == "mps":
        return MemoryUse(torch.mps.current_allocated_memory(), None)
    return process_memory()


def memory_of_a_rank(device: torch.device, ranks_here: int) -> int | None:
    """Bytes of the device, or this rank's share of the computer's memory. The same at every start on one machine, so
    that what is decided from it is too; None where the platform does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    there = computer_memory_bytes()
    return there // ranks_here if there else None


def forget_peak(device: torch.device) -> None:
    """Begin a new peak where the device can: on CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def process_memory(status: Path = PROCESS_STATUS) -> MemoryUse:
    """This process's resident memory on Linux; unknown elsewhere."""
    # once a step: bare calls and two searches take a fifth of what reading every line as text does
    try:
        fd = os.open(status, os.O_RDONLY | os.O_CLOEXEC)
        try:
            said = os.read(fd, 2**14)
        finally:
            os.close(fd)
    except OSError:
        return MemoryUse(None, None)
    # not getrusage: its maximum begins at that of the process that started this one
    return MemoryUse(_bytes_of(b"VmRSS:", said), _bytes_of(b"VmHWM:", said))


def _bytes_of(name: bytes, said: bytes) -> int | None:
    """`NAME  1234 kB` -> bytes."""
    count = said.partition(name)[2].partition(b" kB")[0].strip()
    return 1024 * int(count) if count.isdigit() else None
