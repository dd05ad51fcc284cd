"""Which rows of the data are behind a step that is not sound: odd text shows in a few of them, weights that came apart in all.

A step knows its loss as one number. So its rows are read again, one forward pass more, before anything moves: once an episode,
and what fails here costs this part of the evidence alone.
"""

from math import inf, isfinite, isnan, nan
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from trainer_daemon.contract.output import say
from trainer_daemon.engine.data.rows import RowArray
from trainer_daemon.engine.evals.bpb import token_losses
from trainer_daemon.engine.health import Doubt
from trainer_daemon.engine.job import Job

STANDS_OUT = 2.0
"""A row that has so many times the loss of the one in the middle is odd by itself."""
ROWS_TOLD = 4
TEXT_LETTERS = 400
"""Of a row's text that is kept."""


class RowLoss(NamedTuple):
    """One row of a step."""

    row: int
    """Its number in the training set."""
    loss_nats: float
    """Mean over its targets that count; not finite where the forward pass is not."""


def losses_by_row(job: Job) -> list[RowLoss]:
    """Of the present step, the highest first; empty where a rank could not compute its own. All ranks."""
    samples_seen = job.progress.samples_seen
    share = job.batches.global_rows // job.ranks.world_size
    # a mean is never infinite: that is the word of a rank that has none
    own = [inf] * share
    job.model.eval()
    try:
        own = [
            loss if isfinite(loss) else nan
            for inputs, targets, _ in job.batches.micro_batches(samples_seen)
            for loss in mean_by_row(token_losses(job.model, inputs, targets), targets)
        ]
    except Exception as e:  # noqa: BLE001  # out of memory, or whatever a changed model raises: never the run's end
        say(f"the losses of the rows of step {job.progress.step + 1} are not known: {type(e).__name__}: {e}")
    finally:
        job.model.train()
    losses = [loss for of_rank in job.ranks.exchange(*own) for loss in of_rank]
    if inf in losses:
        return []
    numbers = job.batches.global_row_numbers(samples_seen)
    rows = map(RowLoss, numbers, losses)
    return sorted(rows, key=lambda row: inf if isnan(row.loss_nats) else row.loss_nats, reverse=True)


def mean_by_row(losses: Tensor, targets: Tensor) -> list[float]:
    """(B·T,), (B, T) -> B means over the targets that count; 0 for a row without any."""
    counts = targets >= 0  # (B, T)
    sums = torch.where(counts, losses.view(targets.shape).double(), 0.0).sum(dim=1)  # (B,)
    return (sums / counts.sum(dim=1).clamp(min=1)).tolist()


def in_words(doubt: Doubt, rows: list[RowLoss]) -> str:
    """What their losses say of where the fault is; "" of nothing."""
    if not rows:
        return ""
    bad = [row for row in rows if not isfinite(row.loss_nats)]
    if bad:
        which = f"row {bad[0].row} is" if len(bad) == 1 else f"{len(bad)} of its {len(rows)} rows are"
        return f"; {which} not finite when read again"
    if doubt == "not_finite":
        return "; all its rows are finite when read again"
    worst, middle = rows[0], median(row.loss_nats for row in rows)
    if worst.loss_nats > STANDS_OUT * middle:
        return f"; row {worst.row} has {worst.loss_nats:.4g} nats, the one in the middle {middle:.4g}: look at its text"
    least = rows[-1].loss_nats
    return (
        f"; its rows are alike, {least:.4g} to {worst.loss_nats:.4g} nats: the weights rather than the text"
    )


def with_text(job: Job, rows: list[RowLoss]) -> list[dict[str, object]]:
    """The worst rows, for the record, with the beginning of their text. The main rank."""
    if not rows:
        return []
    told = rows[:ROWS_TOLD]
    texts = job.batches.tokens_of([row.row for row in told])
    return [
        {
            "row": row.row,
            "loss_nats": row.loss_nats if isfinite(row.loss_nats) else None,
            "text": text_of(job, tokens),
        }
        for row, tokens in zip(told, texts, strict=True)
    ]


def text_of(job: Job, tokens: RowArray) -> str:
    """The beginning of a row, its empty positions left out."""
    return job.tokenizer.decode(int(token) for token in tokens[:TEXT_LETTERS] if token >= 0)[:TEXT_LETTERS]
