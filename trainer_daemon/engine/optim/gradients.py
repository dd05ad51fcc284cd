"""A step's gradients, from the backward passes to the update: scaled for fp16, measured, clipped.

torch's GradScaler is not used: it decides on each process alone and wants a torch Optimizer. Here a rank only says
whether its gradient is finite; the loop's one exchange makes that a decision of all ranks, which each then hands to
`adapt`, so that the scale is the same everywhere and part of the checkpoint.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

GROWTH_INTERVAL = 2000
LARGEST_SCALE = 2.0**24
"""GradScaler knows no bound; a model whose gradients vanish would double it until it is infinite."""
"""Finite steps in a row after which the loss scale doubles."""


@dataclass(frozen=True, slots=True)
class LossScale:
    """What fp16 losses are multiplied by before backward, so that small gradients do not vanish. A power of two, so
    that undoing it is exact; the others of its constants are those of torch's GradScaler."""

    value: float = 2.0**16
    good_steps: int = 0
    """Finite steps in a row since the scale last changed."""

    def after(self, *, is_finite: bool) -> "LossScale":
        """The scale of the next step: half after an overflow, 1 at least; double after 2000 finite steps in a row,
        up to 2^24."""
        if not is_finite:
            return LossScale(max(1.0, self.value / 2))
        if self.good_steps + 1 == GROWTH_INTERVAL:
            return LossScale(min(LARGEST_SCALE, self.value * 2))
        return LossScale(self.value, self.good_steps + 1)


class Gradients:
    """The gradients of all parameters; `loss_scale` is None in every precision but fp16."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, clip_norm: float | None, loss_scale: LossScale | None
    ) -> None:
        self.loss_scale = loss_scale
        self._parameters = list(parameters)
        self._clip_norm = clip_norm

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch."""
        (loss * self.loss_scale.value if self.loss_scale else loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    @torch.no_grad()
    def finish(self) -> float:
        """Undo the loss scale and clip, once all micro-batches are in. Returns the Euclidean norm of the whole gradient
        before clipping; where it is not finite, nothing was changed."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        scale = self.loss_scale.value if self.loss_scale else 1.0
        norm = float(torch.nn.utils.get_total_norm(gradients)) / scale
        if not isfinite(norm):
            return norm
        factor = 1 / scale
        if self._clip_norm is not None and norm > self._clip_norm:
            factor *= self._clip_norm / norm
        if factor != 1:
            torch._foreach_mul_(gradients, factor)
        return norm

    def adapt(self, *, is_finite: bool) -> bool:
        """Learn what all ranks agreed on. True when an overflow is answered with a lower loss scale."""
        if self.loss_scale is None:
            return False
        before, self.loss_scale = self.loss_scale, self.loss_scale.after(is_finite=is_finite)
        return self.loss_scale.value < before.value
