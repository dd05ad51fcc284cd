"""Rows as the model takes them: which ones at a given point of the run, and as tensors.

No threads and no state: a step's rows follow from `samples_seen`. The global batch is the same for every number of ranks,
and rank r takes its r-th part of it, so ranks need not agree on anything but the number of samples seen.
"""

# B rows of one micro-batch, T tokens

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer_daemon.engine.data.order import RowOrder
from trainer_daemon.engine.data.rows import Rows


def rank_rows(
    order: RowOrder, samples_seen: int, *, global_rows: int, rank: int, world_size: int
) -> npt.NDArray[np.int64]:
    """The numbers of this rank's rows of the step that begins after `samples_seen` rows of the run."""
    assert global_rows % world_size == 0, f"{global_rows} rows cannot be shared by {world_size} ranks"
    share = global_rows // world_size
    return order.rows(samples_seen + rank * share, share)


def as_tensors(rows: npt.NDArray[np.unsignedinteger], device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, T + 1) -> inputs (B, T), targets (B, T), int64, on the device."""
    tokens = torch.from_numpy(rows.astype(np.int64))
    if device.type == "cuda":
        tokens = tokens.pin_memory().to(device, non_blocking=True)
    elif device.type != "cpu":
        tokens = tokens.to(device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


class Batches:
    """One rank's training data."""

    def __init__(
        self,
        rows: Rows,
        *,
        seed: int,
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
        self._order = RowOrder(len(rows), seed)
        self._rank = rank
        self._world_size = world_size
        self._device = device

    def micro_batches(self, samples_seen: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The step's micro-batches for this rank, in fixed order: inputs (B, T), targets (B, T).

        Each is read when it is asked for, so a GPU still works on the one before.
        """
        numbers = rank_rows(
            self._order,
            samples_seen,
            global_rows=self.global_rows,
            rank=self._rank,
            world_size=self._world_size,
        )
        for first in range(0, len(numbers), self.micro_batch_size):
            rows = self._rows.rows(numbers[first : first + self.micro_batch_size])
            yield as_tensors(rows, self._device)

    def global_row_numbers(self, samples_seen: int) -> list[int]:
        """The numbers of all ranks' rows of the step that begins after `samples_seen` rows of the run."""
        return self._order.rows(samples_seen, self.global_rows).tolist()

    def epoch(self, samples_seen: int) -> float:
        """Rows drawn / rows in the training set."""
        return samples_seen / len(self._rows)
