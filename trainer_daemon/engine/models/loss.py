"""Cross-entropy from the hidden states, softcapped or plain, without ever holding the logits of a whole batch.

At a vocabulary of 32768 the fp32 logits of 32 x 2048 tokens are 8.6 GB a copy, and on a CPU they cost more time than
the rest of a small model. So rows are taken a chunk at a time, and each chunk's gradients are computed in the forward
pass, while its logits are still in cache; backward only scales them. What is done to a chunk between its products is
`plain_chunk_loss_`; on a CPU `use_fused_kernel` puts the same in one compiled visit (cross_entropy.cpp) in its place. Without
a cap it is `uncapped_chunk_loss_`.
N rows, C width, V vocabulary.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_daemon.engine.native import load_library

Reduction = Literal["mean", "sum", "none"]
IGNORE_INDEX = -1
"""A target that counts for nothing."""
KERNEL_SOURCE = Path(__file__).with_name("cross_entropy.cpp")

_kernel: ctypes.CDLL | None = None


def use_fused_kernel(folder: Path) -> None:
    """Compute chunks on the CPU with the compiled kernel from now on, kept in `folder`. Raises NativeError without one."""
    global _kernel  # noqa: PLW0603 - one for the process, as a compiled operator is
    if _kernel is None:
        _kernel = load_library(KERNEL_SOURCE, folder)


def softcap(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap): fp32, bounded by the cap, the identity near zero."""
    return cap * torch.tanh(logits.float() / cap)


def softcapped_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, reduction: Reduction = "mean"
) -> Tensor:
    """(N, C), (V, C), (N,) -> scalar, or (N,) for "none": nats of targets under softmax(softcap(hidden @ weight.T)).

    The mean is over targets that count; a batch without any gives 0. "none" with gradients holds all logits at once.
    """
    return _cross_entropy(hidden, weight, None, targets, cap, reduction)


def head_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    """(N, C), (V, C), (V,), (N,) -> scalar, or (N,) for "none": nats of targets under softmax(hidden @ weight.T + bias).

    Mean and "none" as `softcapped_cross_entropy` has them.
    """
    return _cross_entropy(hidden, weight, bias, targets, None, reduction)


def _cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    cap: float | None,
    reduction: Reduction,
) -> Tensor:
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        if reduction == "none":
            return _row_losses(hidden, weight, bias, targets, cap)
        loss_sum = ChunkedCrossEntropy.apply(hidden, weight, bias, targets, cap)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    else:
        rows, w = chunk_rows(hidden.device), weight.to(hidden.dtype)
        losses = torch.cat(
            [
                _row_losses(h, w, bias, t, cap)
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


def _row_losses(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, cap: float | None
) -> Tensor:
    b = None if bias is None else bias.to(hidden.dtype)
    logits = F.linear(hidden, weight.to(hidden.dtype), b)  # (N, V)
    if not logits.requires_grad and cap is not None and _is_fused(logits):
        return _chunk_loss_(logits)(logits, targets, cap)
    precise = logits.float() if cap is None else softcap(logits, cap)
    return F.cross_entropy(precise, targets, ignore_index=IGNORE_INDEX, reduction="none")


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the losses."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, cap: float | None
    ) -> Tensor:
        w = weight.to(hidden.dtype)  # (V, C)
        b = None if bias is None else bias.to(hidden.dtype)  # (V,)
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight)
        bias_grad = None if bias is None else torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        rows = chunk_rows(hidden.device)
        for h, t, h_grad in zip(
            torch.split(hidden, rows), torch.split(targets, rows), torch.split(hidden_grad, rows), strict=True
        ):
            logits = torch.mm(h, w.T) if b is None else torch.addmm(b, h, w.T)  # (rows, V)
            if cap is None:
                total += uncapped_chunk_loss_(logits, t).sum()
            else:
                total += _chunk_loss_(logits)(logits, t, cap).sum()
            logits_grad = logits
            torch.mm(logits_grad, w, out=h_grad)
            if bias_grad is not None:
                bias_grad += logits_grad.sum(0, dtype=bias_grad.dtype)
            if weight_grad.dtype == hidden.dtype:
                weight_grad.addmm_(logits_grad.T, h)
            else:  # chunks are summed in the master weight's dtype
                weight_grad += logits_grad.T @ h
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        (scale,) = grad_outputs
        hidden_grad, weight_grad, bias_grad = ctx.saved_tensors
        return (
            hidden_grad * scale.to(hidden_grad.dtype),
            weight_grad * scale,
            None if bias_grad is None else bias_grad * scale,
            None,
            None,
        )


def uncapped_chunk_loss_(logits: Tensor, targets: Tensor) -> Tensor:
    """(N, V), (N,) -> (N,) losses in fp32; the logits become their own gradients, softmax - onehot."""
    precise = torch.promote_types(logits.dtype, torch.float32)
    counts = (targets != IGNORE_INDEX).to(precise)[:, None]  # (N, 1)
    target = targets.clamp(min=0)[:, None]  # (N, 1)
    log_p = torch.log_softmax(logits, dim=1, dtype=precise)  # (N, V)
    log_p_target = log_p.gather(1, target)  # (N, 1)
    logits.copy_(log_p.exp_().mul_(counts))
    logits.scatter_(1, target, ((log_p_target.exp() - 1) * counts).to(logits.dtype))
    return -(log_p_target * counts).squeeze(1)


def plain_chunk_loss_(logits: Tensor, targets: Tensor, cap: float) -> Tensor:
    """(N, V), (N,) -> (N,) losses in fp32; the logits become their own gradients.

    tanh(y) = 2σ(2y) − 1, and σ is eight times as fast on a CPU: with s = σ(2x/cap), softmax(cap·tanh(x/cap)) =
    softmax(2·cap·s) = p and ∂loss/∂x = (p − onehot)·4s(1 − s).
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    counts = (targets != IGNORE_INDEX).to(precise)[:, None]  # (N, 1)
    target = targets.clamp(min=0)[:, None]  # (N, 1)
    s = logits.to(precise).mul_(2 / cap).sigmoid_()  # (N, V); fp32 logits are overwritten
    p = torch.softmax(s * (2 * cap), dim=1)  # (N, V)
    s_target, p_target = s.gather(1, target), p.gather(1, target)  # (N, 1)
    logits.copy_(p.mul_(s.addcmul_(s, s, value=-1)).mul_(4 * counts))
    # the target's own is put in its place: a scatter into p would keep a compiler from fusing the passes over it
    at_target = (p_target - 1) * (4 * counts * s_target * (1 - s_target))
    logits.scatter_(1, target, at_target.to(logits.dtype))
    return -(p_target.log_() * counts).squeeze(1)  # p >= exp(-2·cap)/V, far from underflow


def _is_fused(logits: Tensor) -> bool:
    return _kernel is not None and logits.is_cpu and logits.dtype in (torch.float32, torch.bfloat16)


def _chunk_loss_(logits: Tensor) -> Callable[[Tensor, Tensor, float], Tensor]:
    """What computes a chunk of such logits here."""
    if not _is_fused(logits):
        return plain_chunk_loss_
    return fused_operator if torch.compiler.is_compiling() else fused_chunk_loss_


def fused_chunk_loss_(logits: Tensor, targets: Tensor, cap: float) -> Tensor:
    """`plain_chunk_loss_` as one visit."""
    assert _kernel is not None
    assert logits.is_contiguous()
    N, V = logits.shape
    targets = targets.contiguous()
    if N and int(targets.max()) >= V:
        raise IndexError(f"target {int(targets.max())} is out of bounds for a vocabulary of {V}")
    losses = torch.empty(N)
    visit = _kernel.chunk_loss_float32 if logits.dtype == torch.float32 else _kernel.chunk_loss_bfloat16
    visit(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (logits, targets, losses)),
        ctypes.c_int64(N),
        ctypes.c_int64(V),
        ctypes.c_float(cap),
        ctypes.c_int(torch.get_num_threads()),
    )
    return losses


# an operator of its own, so that a compiler passes it by; called as one, it would have torch's compiler imported, a second
# of every start, to keep that compiler away
fused_operator = torch.library.custom_op(
    "llmctl::fused_chunk_loss_", fused_chunk_loss_, mutates_args=("logits",)
)


@fused_operator.register_fake
def _(logits: Tensor, targets: Tensor, cap: float) -> Tensor:  # noqa: ARG001 - the operator's signature
    return logits.new_empty(logits.size(0), dtype=torch.float32)
