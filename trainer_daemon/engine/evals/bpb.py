"""Held-out loss in bits per byte: the one figure that runs with different tokenizers share.

The rows read are the first ones of the held-out set, whole and in order, however many ranks there are and whatever the
batch: only rounding in the model's own arithmetic can tell two layouts apart. nanochat reads whole batches only, so its
set shrinks with the batch; that figure is reported beside ours, and is the same wherever the batch divides.
"""

# B rows of a batch, T tokens, V vocabulary

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_daemon.engine.data.batches import as_tensors
from trainer_daemon.engine.data.rows import Rows
from trainer_daemon.engine.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class BpbResult:
    val_bpb: float
    """Nats summed over counted targets / (ln 2 x bytes of counted targets); specials count in neither."""
    loss_nats: float
    """Mean nats per counted target."""
    tokens: int
    """Targets counted, all ranks."""


def evaluated_rows(rows: Rows, *, max_tokens: int, batch_rows: int, world_size: int) -> tuple[range, range]:
    """The first max_tokens // T rows, in two parts: those in whole batches of all ranks, and the rest of them."""
    count = max(1, min(len(rows), max_tokens // rows.sequence_len))
    in_whole_batches = count - count % (batch_rows * world_size)
    return range(in_whole_batches), range(in_whole_batches, count)


@torch.no_grad()
def token_losses(model: LanguageModel, inputs: Tensor, targets: Tensor) -> Tensor:
    """(B, T), (B, T) -> (B·T,) nats of each target, without gradients."""
    return model(inputs, targets, loss_reduction="none")


@torch.no_grad()
def held_out_sums(
    losses_of: Callable[[Tensor, Tensor], Tensor],
    rows: Rows,
    token_bytes: Tensor,
    *,
    numbers: range,
    batch_rows: int,
    rank: int,
    world_size: int,
) -> tuple[float, float, float]:
    """(nats, bytes, targets counted) of this rank's share of the rows with these numbers.

    Rank r reads the r-th of them, the (r + W)-th, …. `losses_of` maps inputs (B, T) and targets (B, T), int64, to nats per target,
    (B * T,); the caller puts the model in evaluation mode. `token_bytes` is (V,), 0 for ids that do not count, on the
    model's device.
    """
    mine = numbers[rank::world_size]
    device = token_bytes.device
    # mps has no float64
    sums = torch.zeros(3, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    for first in range(0, len(mine), batch_rows):
        inputs, targets = as_tensors(rows.rows(mine[first : first + batch_rows]), device)
        nats = losses_of(inputs, targets).view(-1)
        ids = targets.view(-1)
        target_bytes = torch.where(ids < 0, 0, token_bytes[ids.clamp(min=0)])  # an empty position has no byte
        counted = target_bytes > 0
        # a special's own loss may be infinite: it is left out, not multiplied by 0
        batch = torch.where(counted, nats.float(), 0.0), target_bytes, counted
        sums += torch.stack([part.to(sums.device).double().sum() for part in batch])
    nats_sum, bytes_sum, tokens = sums.tolist()
    return nats_sum, bytes_sum, tokens


def bits_per_byte(nats_sum: float, bytes_sum: float, tokens: float) -> BpbResult:
    """The result, from sums over all ranks."""
    return BpbResult(nats_sum / (math.log(2) * bytes_sum), nats_sum / tokens, int(tokens))
