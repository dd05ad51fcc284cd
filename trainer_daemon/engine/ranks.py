"""This process's place among the ranks, and the few things ranks say to each other.

The place is read from the environment that torchrun sets, so any launcher will do; without one there is a single rank
and every exchange below is the identity. Exchanges are small, on the CPU, and called by all ranks in the same order.
Nothing here pickles: what is broadcast is JSON.
"""

import json
import os
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.flight import FlightRecorder
from trainer_daemon.contract.hardware import DETERMINISTIC_ENVIRONMENT, MPS_TAKES_ONE_RANK, usable_cores
from trainer_daemon.contract.spec import RuntimeSpec

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others in one exchange before it gives up."""


_left: list[object] = []
"""Process groups that were left. gloo's destructor waits for its threads while it holds the interpreter lock, which one of
them may want in order to drop the last tensor it sent: a rank that had trained, saved and left hung for ever, one in ten
on a busy machine. So a group goes with its process."""


@dataclass(frozen=True)
class Ranks:
    """Which rank this is, of how many, on which device."""

    rank: int
    world_size: int
    device: torch.device
    flight: FlightRecorder = field(default_factory=FlightRecorder, compare=False, repr=False)
    """Notes each exchange, for whoever looks at a hang."""

    @property
    def is_main(self) -> bool:
        """Rank 0: the one that reports, samples and publishes checkpoints."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all ranks, in float64. One exchange however many values."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        with self.flight.exchanging("sum"):
            dist.all_reduce(tensor)
        return tensor.tolist()

    def maximum(self, value: float) -> float:
        """The largest over all ranks."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        with self.flight.exchanging("maximum"):
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.item()

    def all_ok(self, ok: bool) -> bool:
        """True on every rank when it is True on each."""
        return self.sum(0.0 if ok else 1.0)[0] == 0

    def exchange(self, *values: float) -> list[list[float]]:
        """Every rank's values in float64, by rank, on all ranks."""
        if self.world_size == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.float64)
        everyones = [torch.empty_like(own) for _ in range(self.world_size)]
        with self.flight.exchanging("exchange"):
            dist.all_gather(everyones, own)
        return [tensor.tolist() for tensor in everyones]

    def broadcast_json(self, value: Any) -> Any:
        """Rank 0's value, on every rank; the other ranks' argument is ignored."""
        if self.world_size == 1:
            return value
        data = bytearray(json.dumps(value).encode() if self.is_main else b"")
        size = torch.tensor([len(data)])
        with self.flight.exchanging("broadcast"):
            dist.broadcast(size, src=0)
            payload = (
                torch.frombuffer(data, dtype=torch.uint8)
                if self.is_main
                else torch.empty(int(size), dtype=torch.uint8)
            )
            dist.broadcast(payload, src=0)
        return json.loads(payload.numpy().tobytes())

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor in rank order, on rank 0; nothing elsewhere. Of one shape, dtype and device type on all ranks."""
        if self.world_size == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)] if self.is_main else None
        with self.flight.exchanging("gather"):
            dist.gather(tensor, gathered, dst=0)
        return gathered or []

    def close(self) -> None:
        """Leave the process group, as the last thing that this process does with the others."""
        if dist.is_initialized():
            _left.append(dist.group.WORLD)
            dist.destroy_process_group()


ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
"""A process that has nobody to talk to."""


def choose_device(runtime: RuntimeSpec, local_rank: int) -> torch.device:
    """The device of one rank. Raises SpecError when the one asked for is not here."""
    wanted = runtime.device
    if wanted == "auto":
        wanted = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    if wanted == "cuda":
        if not torch.cuda.is_available():
            raise SpecError(
                "runtime.device: this torch sees no CUDA device; use --set runtime.device=cpu, or see: llmctl doctor"
            )
        if local_rank >= torch.cuda.device_count():
            raise SpecError(
                f"runtime.nproc: rank {local_rank} has no GPU, there are {torch.cuda.device_count()}; lower --nproc"
            )
        return torch.device("cuda", local_rank)
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise SpecError("runtime.device: this torch sees no MPS device; use --set runtime.device=cpu")
    return torch.device(wanted)


def join_ranks(runtime: RuntimeSpec, flight: FlightRecorder | None = None) -> Ranks:
    """Take this process's place and meet the other ranks. Raises SpecError for a device that is not here, or
    that takes one rank only."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if runtime.deterministic:  # before CUDA starts, and for launchers that are not ours
        os.environ.update(DETERMINISTIC_ENVIRONMENT)
    if runtime.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(runtime.deterministic)  # a second: it imports torch's compiler
    device = choose_device(runtime, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "mps" and world_size > 1:
        raise SpecError(MPS_TAKES_ONE_RANK)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32: what fp32 means on a GPU
    torch.set_num_threads(threads_per_rank(runtime, device, world_size))
    if world_size > 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    return Ranks(rank, world_size, device, flight or FlightRecorder())


def collective_trace() -> dict[str, Any]:
    """torch's own flight records, by what carries the collectives: every call with its sizes and how far it is. To be called
    from any thread, while another one waits in a collective."""
    traces = {
        "nccl": "_dump_nccl_trace_json",
        "cpu": "_dump_fr_trace_json",
    }  # private, and not in every torch
    bindings = import_module("torch._C._distributed_c10d")
    return {
        name: json.loads(getattr(bindings, function)())
        for name, function in traces.items()
        if hasattr(bindings, function)
    }


def threads_per_rank(runtime: RuntimeSpec, device: torch.device, world_size: int) -> int:
    """torch's CPU threads: as the spec asks, else OMP_NUM_THREADS, else this rank's share of the cores on a CPU and one
    beside an accelerator."""
    if runtime.threads_per_rank is not None:
        return runtime.threads_per_rank
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isascii() and chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    if device.type != "cpu":
        return 1
    return max(1, usable_cores() // ranks_on_this_machine(world_size))


def ranks_on_this_machine(world_size: int) -> int:
    """As the launcher says; else all of them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
