"""Softcapped cross-entropy from the hidden states, without ever holding the logits of a whole batch.

At a vocabulary of 32768 the fp32 logits of 32 x 2048 tokens are 8.6 GB a copy, and on a CPU they cost more time than
the rest of a small model. So rows are taken a chunk at a time, and each chunk's gradients are computed in the forward
pass, while its logits are still in cache; backward only scales them.
N rows, C width, V vocabulary.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
IGNORE_INDEX = -1
"""A target that counts for nothing."""


def softcap(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap): fp32, bounded by the cap, the identity near zero."""
    return cap * torch.tanh(logits.float() / cap)


def softcapped_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, reduction: Reduction = "mean"
) -> Tensor:
    """(N, C), (V, C), (N,) -> scalar, or (N,) for "none": nats of targets under softmax(softcap(hidden @ weight.T)).

    The mean is over targets that count; a batch without any gives 0. "none" with gradients holds all logits at once.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        if reduction == "none":
            return _row_losses(hidden, weight, targets, cap)
        loss_sum = ChunkedCrossEntropy.apply(hidden, weight, targets, cap)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    else:
        rows = chunk_rows(hidden.device)
        losses = torch.cat(
            [
                _row_losses(h, weight, t, cap)
                for h, t in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
            ]
        )
        if reduction == "none":
            return losses
        loss_sum = losses.sum()
    return loss_sum if reduction == "sum" else loss_sum / (targets != IGNORE_INDEX).sum().clamp(min=1)


def chunk_rows(device: torch.device) -> int:
    """Rows a chunk: what a CPU core's cache holds; on an accelerator enough to fill it."""
    return 512 if device.type == "cpu" else 8192


def _row_losses(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
    logits = softcap(F.linear(hidden, weight.to(hidden.dtype)), cap)  # (N, V)
    return F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="none")


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the losses. tanh(y) = 2σ(2y) − 1, and σ is eight times as fast on a CPU: with s = σ(2x/cap),
    softmax(cap·tanh(x/cap)) = softmax(2·cap·s) = p and ∂loss/∂x = (p − onehot)·4s(1 − s).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        w = weight.to(hidden.dtype)  # (V, C)
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        rows = chunk_rows(hidden.device)
        for h, t, h_grad in zip(
            torch.split(hidden, rows), torch.split(targets, rows), torch.split(hidden_grad, rows), strict=True
        ):
            counts = (t != IGNORE_INDEX).to(total.dtype)[:, None]  # (rows, 1)
            target = t.clamp(min=0)[:, None]  # (rows, 1)
            s = torch.mm(h, w.T).to(total.dtype).mul_(2 / cap).sigmoid_()  # (rows, V)
            p = torch.softmax(s * (2 * cap), dim=1)  # (rows, V)
            total -= p.gather(1, target).log_().mul_(counts).sum()  # p >= exp(-2·cap)/V, far from underflow

            logits_grad = p.scatter_add_(1, target, torch.full_like(counts, -1.0)).mul_(4 * counts)
            logits_grad = logits_grad.mul_(s.addcmul_(s, s, value=-1)).to(hidden.dtype)
            torch.mm(logits_grad, w, out=h_grad)
            if weight_grad.dtype == hidden.dtype:
                weight_grad.addmm_(logits_grad.T, h)
            else:  # chunks are summed in the master weight's dtype
                weight_grad += logits_grad.T @ h
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (scale,) = grad_outputs
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * scale.to(hidden_grad.dtype), weight_grad * scale, None, None
