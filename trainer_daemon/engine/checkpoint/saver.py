"""Saves beside the training: the ranks stand still for a copy to host memory, a thread of the main rank does the rest.

One thread, that of the main rank, and one save at a time. What it does takes place outside the interpreter lock
(safetensors, hashing, fsync), so the steps go on at their pace. It exchanges nothing with the other ranks: they learn at
a step boundary, from the main one, how a save ended, and until then none of them counts it.
"""

import threading
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.spec import CheckpointSpec
from trainer_daemon.engine.checkpoint import store
from trainer_daemon.engine.checkpoint.files import (
    Progress,
    SaveFailedError,
    Snapshot,
    generator_states,
    write_checkpoint,
)
from trainer_daemon.engine.checkpoint.store import Lineage
from trainer_daemon.engine.ranks import Ranks


@dataclass(frozen=True, slots=True)
class SaveResult:
    """How a save ended."""

    step: int
    error: str | None = None
    """Why there is no checkpoint; None when there is one."""
    path: str = ""
    """Folder name of the checkpoint."""
    bytes: int = 0
    loss_nats: float | None = None
    """Of its step."""
    seconds: float = 0.0
    """From the step boundary where it began until it was published."""
    blocked_seconds: float = 0.0
    """Of these, how long the ranks stood still."""
    retention_error: str | None = None
    """Why older checkpoints could not be deleted."""


class Saver(Closing):
    """The save in flight, if there is one. All ranks hold one and call it alike; the main rank's writes."""

    def __init__(self, folder: Path, ranks: Ranks, rules: CheckpointSpec) -> None:
        self.rules = rules
        """What to keep; read after each new checkpoint."""
        self.in_flight: int | None = None
        """The step whose checkpoint is being written, the same on all ranks."""
        self._folder = folder
        self._ranks = ranks
        self._host = _HostCopy(ranks.device)
        self._writer: threading.Thread | None = None
        self._result: SaveResult | None = None

    @property
    def is_asynchronous(self) -> bool:
        """Whether training goes on while a checkpoint is written."""
        asked = self.rules.asynchronous
        return asked == "on" or (asked == "auto" and self._ranks.device.type != "cpu")

    def begin(
        self,
        progress: Progress,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        texts: dict[str, str],
        lineage: Lineage,
    ) -> None:
        """Copy the state and have it written. All ranks, with none in flight. `model` and `optimizer` are the main rank's.

        The tensors must stay as they are until `wait_for_copy`: a forward and backward pass may run, no update.
        """
        assert self.in_flight is None, "one save at a time"
        started = time.perf_counter()
        self.in_flight, self._result = progress.step, None
        own = generator_states(self._ranks.device)
        gathered = {name: self._ranks.gather(state) for name, state in own.items()}
        if not self._ranks.is_main:
            return
        try:
            snapshot = Snapshot(
                progress=deepcopy(progress),
                model=self._host.take("model", model, keep=self.is_asynchronous),
                optimizer=self._host.take("optimizer", optimizer, keep=self.is_asynchronous),
                generators=[
                    {name: states[rank] for name, states in gathered.items()}
                    for rank in range(self._ranks.world_size)
                ],
                texts=texts,
                lineage=lineage,
            )
        except RuntimeError as e:  # torch's: no host memory for the copy
            self._result = SaveResult(
                progress.step, error=f"checkpoint of step {progress.step} abandoned: {e}"
            )
            return
        blocked = time.perf_counter() - started
        self._writer = threading.Thread(
            target=self._write, args=(snapshot, started, blocked), name="checkpoint writer", daemon=True
        )
        self._writer.start()

    def wait_for_copy(self) -> None:
        """Have the device keep its state until it is copied: called before the state changes. Does not block the host."""
        self._host.hold_device()

    def has_ended(self) -> bool:
        """Whether there is a result to be told. Always False but on the main rank."""
        return self._result is not None

    def result(self, within_seconds: float) -> SaveResult | None:
        """How the save in flight ended, or None when it has not within that time. The main rank only."""
        if self._writer is not None:
            self._writer.join(within_seconds)
        return self._result

    def settle(self) -> None:
        """The result was told to all ranks: none is in flight any more. All ranks."""
        self.in_flight = self._writer = self._result = None

    def close(self) -> None:
        """Wait for the save in flight, so that leaving does not undo it."""
        if self._writer is not None:
            self._writer.join()

    def _write(self, snapshot: Snapshot, started: float, blocked: float) -> None:
        """What the thread does; it raises nothing, since nobody would hear it."""
        step = snapshot.progress.step
        try:
            self._host.wait()
            path = write_checkpoint(self._folder, snapshot)
            size = sum(file.stat().st_size for file in path.iterdir())
            seconds = time.perf_counter() - started
        except SaveFailedError as e:
            self._result = SaveResult(step, error=str(e))
            return
        except Exception as e:  # noqa: BLE001  # whatever it was, the run goes on and the reader is told
            self._result = SaveResult(
                step, error=f"checkpoint of step {step} abandoned: {type(e).__name__}: {e}"
            )
            return
        retention_error = None
        try:
            store.retain(self._folder, keep_last=self.rules.keep_last, keep_every=self.rules.keep_every)
        except OSError as e:
            retention_error = str(e)
        blocked_seconds = blocked if self.is_asynchronous else seconds
        self._result = SaveResult(
            step,
            path=path.name,
            bytes=size,
            loss_nats=snapshot.progress.loss_nats,
            seconds=seconds,
            blocked_seconds=blocked_seconds,
            retention_error=retention_error,
        )


class _HostCopy:
    """The state's place in host memory, kept from save to save: pinning gigabytes takes longer than filling them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._copied: torch.cuda.Event | None = None
        self._sources: list[Tensor] = []
        """What is being copied from, so that its memory is not given to another tensor before."""

    def take(self, group: str, tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
        """The tensors in host memory. With `keep` false they may be the tensors themselves: nothing trains meanwhile."""
        if not keep:
            return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if self._stream is None:
            return {name: self._buffer(group, name, t).copy_(t.detach()) for name, t in tensors.items()}
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        copies = {}
        with torch.cuda.stream(self._stream):
            for name, tensor in tensors.items():
                if tensor.is_cpu:  # gathered from all ranks: a copy already
                    copies[name] = tensor
                    continue
                copies[name] = self._buffer(group, name, tensor).copy_(tensor.detach(), non_blocking=True)
                self._sources.append(tensor)
            self._copied = self._stream.record_event()
        return copies

    def _buffer(self, group: str, name: str, like: Tensor) -> Tensor:
        buffer = self._buffers.get((group, name))
        if buffer is None or (buffer.shape, buffer.dtype) != (like.shape, like.dtype):
            buffer = torch.empty(like.shape, dtype=like.dtype, pin_memory=self._stream is not None)
            self._buffers[group, name] = buffer
        return buffer

    def hold_device(self) -> None:
        """Whatever the device is given from here on waits until the copy is done."""
        if (copied := self._copied) is not None:  # the writer's thread forgets it once it has waited, too
            torch.cuda.current_stream(self._device).wait_event(copied)

    def wait(self) -> None:
        """Until the copy is done."""
        if self._copied is not None:
            self._copied.synchronize()
        self._copied = None
        self._sources.clear()
