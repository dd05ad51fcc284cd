"""Rows as the model takes them: which ones at a given point of the run, and as tensors.

No threads, and no state but a micro-batch read ahead: a step's rows follow from `samples_seen`. The global batch is the
same for every number of ranks, and rank r takes its r-th part of it, so ranks need not agree on anything but the number of
samples seen.
"""

# B rows of one micro-batch, T tokens

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer_daemon.engine.data.order import Order
from trainer_daemon.engine.data.rows import RowArray, Rows


def rank_rows(
    order: Order, samples_seen: int, *, global_rows: int, rank: int, world_size: int
) -> npt.NDArray[np.int64]:
    """The numbers of this rank's rows of the step that begins after `samples_seen` rows of the run."""
    assert global_rows % world_size == 0, f"{global_rows} rows cannot be shared by {world_size} ranks"
    share = global_rows // world_size
    return order.rows(samples_seen + rank * share, share)


def as_tensors(rows: RowArray, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, T + 1) -> inputs (B, T), targets (B, T), int64, on the device; an empty position is input 0 and target -1."""
    tokens = torch.from_numpy(rows.astype(np.int64))
    if device.type == "cuda":
        tokens = tokens.pin_memory().to(device, non_blocking=True)
    elif device.type != "cpu":
        tokens = tokens.to(device)
    inputs = tokens[:, :-1].clamp(min=0) if rows.dtype.kind == "i" else tokens[:, :-1].contiguous()
    return inputs, tokens[:, 1:].contiguous()


class MicroBatch(NamedTuple):
    """What one rank takes through one forward and backward."""

    inputs: Tensor
    """(B, T)"""
    targets: Tensor
    """(B, T)"""
    weight: float
    """Factor of its mean loss, such that the sum over a rank's micro-batches, averaged over the ranks, is the mean over
    all targets of the step that count. Without empty positions it is 1 / micro-batches."""


class Batches:
    """One rank's training data."""

    def __init__(
        self,
        rows: Rows,
        order: Order,
        *,
        global_rows: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        assert global_rows % (world_size * micro_batch_size) == 0, "the spec's batch rule was not applied"
        self.global_rows = global_rows
        self.micro_batch_size = micro_batch_size
        self._rows = rows
        self._order = order
        self._rank = rank
        self._world_size = world_size
        self._device = device
        self._ahead: tuple[int, MicroBatch] | None = None
        """The first micro-batch of the step that begins after so many samples."""

    def micro_batches(self, samples_seen: int) -> Iterator[MicroBatch]:
        """The step's micro-batches for this rank, in fixed order.

        Each is read when it is asked for, while a GPU still works on the one before; the first of the next step is read
        behind the last one of this, so no step begins with a wait, unless its rows are yet to be made.
        """
        numbers, targets = self._rank_rows(samples_seen), self._targets(samples_seen)
        for first in range(0, len(numbers), self.micro_batch_size):
            is_ahead = first == 0 and self._ahead is not None and self._ahead[0] == samples_seen
            yield self._ahead[1] if is_ahead and self._ahead else self._read(numbers, first, targets)
        following = samples_seen + self.global_rows
        if self.are_ready(following):
            self._ahead = following, self._read(self._rank_rows(following), 0, self._targets(following))

    def are_ready(self, samples_seen: int) -> bool:
        """Whether all ranks' rows of the step that begins after `samples_seen` can be read without a wait."""
        return self._order.is_ready(samples_seen, self.global_rows)

    def _read(self, numbers: npt.NDArray[np.int64], first: int, step_targets: int) -> MicroBatch:
        mine = numbers[first : first + self.micro_batch_size]
        weight = self._rows.count_targets(mine) * self._world_size / max(1, step_targets)
        return MicroBatch(*as_tensors(self._rows.rows(mine), self._device), weight)

    def _rank_rows(self, samples_seen: int) -> npt.NDArray[np.int64]:
        return rank_rows(
            self._order,
            samples_seen,
            global_rows=self.global_rows,
            rank=self._rank,
            world_size=self._world_size,
        )

    def _targets(self, samples_seen: int) -> int:
        """Targets of the whole step that count, all ranks."""
        if not self._rows.has_padding:
            return self.global_rows * self._rows.sequence_len
        return self._rows.count_targets(self._order.rows(samples_seen, self.global_rows))

    def global_row_numbers(self, samples_seen: int) -> list[int]:
        """The numbers of all ranks' rows of the step that begins after `samples_seen` rows of the run."""
        return self._order.rows(samples_seen, self.global_rows).tolist()

    def tokens_of(self, numbers: list[int]) -> RowArray:
        """(len(numbers), T + 1) ids of rows of the training set."""
        return self._rows.rows(numbers)

    def epoch(self, samples_seen: int) -> float | None:
        """Rows drawn / rows in the training set; None while nobody knows how many there are."""
        return self._order.epoch(samples_seen)
