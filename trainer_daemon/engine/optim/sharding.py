"""Who updates what, and how the others come to have it.

A buffer's first axis is cut into one slot a rank, all of one size: the last ones may be part padding, or all of it. The
parameters are views of the buffer, so what a rank computes in its slot is the parameter already, and one all-gather in
place brings it to all replicas, the same bits on each. Nothing is copied; with one rank nothing is padded or sent.
"""

from dataclasses import dataclass
from math import ceil

import torch
import torch.distributed as dist
from torch import Tensor

from trainer_daemon.engine.ranks import Ranks

# torch 2.13 gave it a new name and warns about the old one
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(frozen=True, slots=True)
class Split:
    """The part that one rank has of a first axis of `count` entries, in slots of one size."""

    count: int
    rank: int = 0
    world_size: int = 1

    @property
    def slot(self) -> int:
        """Entries of each rank, padding included."""
        return ceil(self.count / self.world_size)

    @property
    def own(self) -> slice:
        """The entries that this rank updates; none where there are more ranks than entries."""
        first = min(self.rank * self.slot, self.count)
        return slice(first, min(first + self.slot, self.count))


class SharedBuffer:
    """Parameters end to end along the first axis, each rank updating its slot."""

    def __init__(self, content: Tensor, split: Split) -> None:
        self.split = split
        padded = split.slot * split.world_size
        if padded > split.count:
            content = torch.cat([content, content.new_zeros(padded - split.count, *content.shape[1:])])
        self.whole = content
        """(count + padding, ...): its entries are the parameters."""
        self.own = content[split.own]
        """The entries that this rank updates."""

    def send(self) -> list[dist.Work]:
        """Begin to exchange slots; what comes back is to be waited for before the buffer is used. All ranks."""
        if self.split.world_size == 1:
            return []
        start = self.split.rank * self.split.slot
        return [_all_gather(self.whole, self.whole[start : start + self.split.slot], async_op=True)]


class SplitState:
    """A tensor of the optimizer's state, of which each rank holds what it updates by."""

    def __init__(self, like: Tensor, split: Split) -> None:
        """Zeros, with the entries of `split` along the first axis and the other axes, dtype and device of `like`."""
        self.split = split
        self._slot = like.new_zeros(split.slot, *like.shape[1:])
        self.own = self._slot[: split.own.stop - split.own.start]
        """This rank's entries."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return (self.split.count, *self._slot.shape[1:])

    def gathered(self, ranks: Ranks) -> Tensor | None:
        """The whole, on the main rank; None elsewhere. All ranks. On the host, unless one rank has it whole anyway."""
        if self.split.world_size == 1:
            return self.own if ranks.is_main else None
        # at once to the host: beside what trains, the device may have no room for all of the state
        slots = [slot.cpu() for slot in ranks.gather(self._slot)]
        return torch.cat(slots)[: self.split.count] if ranks.is_main else None

    def fill(self, whole: Tensor) -> None:
        """Take this rank's entries out of the whole."""
        self.own.copy_(whole[self.split.own])
