"""What a step costs: where its time goes and how much memory it takes, measured without making a GPU wait.

On a CPU the host's clock is read between the parts. On CUDA the host only queues work, so a part's end is an event in
the stream, and events are read after the wait that ends every step anyway: what is told is the device's time, and a
part that the device idled through, such as slow reading of rows, is seen as long as it idled. What the host did beside
a device that was busy cost nothing and is not counted.
"""

from time import perf_counter
from typing import Literal, NamedTuple

import torch

from trainer_daemon.engine.memory import MemoryUse, forget_peak, memory_use

MEMORY_SECONDS = 0.25
"""On a CPU the kernel is asked for the process's memory this often: 84 us where caches are cold, which short steps would pay each."""

Part = Literal["data", "forward", "compute", "wait", "optimizer"]


class StepCost(NamedTuple):
    """The fields of the same names in the event `TrainStep`, where they are defined. A tuple, since its dictionary costs
    a fifteenth of what that of a dataclass does, in every step."""

    step_seconds: float
    data_seconds: float
    compute_seconds: float
    forward_seconds: float
    wait_seconds: float
    optimizer_seconds: float
    memory_bytes: int | None
    peak_memory_bytes: int | None


class StepMeter:
    """One step after another: `start`, an `end_of` after each part, `finish`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._started = 0.0
        self._marks: list[tuple[Part | None, float | torch.cuda.Event]] = []
        self._memory = MemoryUse(None, None)
        self._next_look_at_memory = 0.0

    def start(self) -> None:
        forget_peak(self._device)
        self._started = perf_counter()
        self._marks = [(None, self._now())]

    def end_of(self, part: Part) -> None:
        """What was done since the last mark was this part of the step; a part may come several times."""
        self._marks.append((part, self._now()))

    def finish(self) -> StepCost:
        """Wait for the device, so that the clock sees the end of the step and not of its launch, and add up."""
        if self._is_cuda:
            torch.cuda.synchronize(self._device)
        step_seconds = perf_counter() - self._started
        parts: dict[Part | None, float] = {
            "data": 0.0,
            "forward": 0.0,
            "compute": 0.0,
            "wait": 0.0,
            "optimizer": 0.0,
        }
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            parts[part] += _seconds_between(before, after)
        memory = self._memory_use()
        return StepCost(
            step_seconds=step_seconds,
            data_seconds=parts["data"],
            compute_seconds=parts["forward"] + parts["compute"],
            forward_seconds=parts["forward"],
            wait_seconds=parts["wait"],
            optimizer_seconds=parts["optimizer"],
            memory_bytes=memory.now,
            peak_memory_bytes=memory.peak,
        )

    def _memory_use(self) -> MemoryUse:
        """On an accelerator the step's own, since its peak is."""
        if self._device.type != "cpu":
            return memory_use(self._device)
        if (now := perf_counter()) >= self._next_look_at_memory:
            self._memory = memory_use(self._device)
            self._next_look_at_memory = now + MEMORY_SECONDS
        return self._memory

    def _now(self) -> float | torch.cuda.Event:
        if not self._is_cuda:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record()
        return event


def _seconds_between(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
    if isinstance(before, torch.cuda.Event) and isinstance(after, torch.cuda.Event):
        return before.elapsed_time(after) / 1000
    assert isinstance(before, float)
    assert isinstance(after, float)
    return after - before
