"""Sending tokens to experts: rows sorted by the expert that is to see them, and products in which each group of rows meets
a matrix of its own.

Only what is routed is multiplied. No group has a capacity, so nothing is dropped and nothing is padded. Where torch has a
kernel for all groups at once (bf16 on CUDA) the sizes of the groups never leave the device; elsewhere it is a loop over the
groups, which on CUDA waits for the device once a layer and which torch.compile passes by: a graph break.
Both rearrangements are permutations, so their gradients are gathers too: no atomic adds, the same bits every time.

N tokens   k choices of a token   E experts   M = N·k rows   C width
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPED_KERNEL: Any = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
"""Differentiable; bf16, on CUDA from compute capability 8.0, with sides that are multiples of 8."""
KERNEL_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows that lie together by expert."""

    order: Tensor
    """(M,): the choice, counted token by token, that each row stands for."""
    place: Tensor
    """(M,): the row of each choice."""
    ends: Tensor
    """(E,) int32: where each expert's rows end."""
    choices: int
    """k"""


def group_by_expert(chosen: Tensor, experts: int) -> Groups:
    """`(N, k) -> Groups`; within a group rows keep the order of their tokens."""
    flat = chosen.flatten()  # (M,)
    ordered, order = flat.sort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel(), device=order.device)
    every = torch.arange(experts, device=flat.device, dtype=ordered.dtype)
    ends = torch.searchsorted(ordered, every, right=True, out_int32=True)
    return Groups(order, place, ends, chosen.size(1))


def to_experts(x: Tensor, groups: Groups) -> Tensor:
    """`(N, C) -> (M, C)`: each token's row for each of its experts, by expert."""
    return _Spread.apply(x, groups.order, groups.place, groups.choices)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped


def from_experts(y: Tensor, groups: Groups) -> Tensor:
    """`(M, C) -> (N, k, C)`: what the experts made of each token, in the order of its choices."""
    gathered = _Gather.apply(y, groups.order, groups.place)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    return gathered.view(-1, groups.choices, y.size(-1))


def grouped_product(x: Tensor, weight: Tensor, groups: Groups) -> Tensor:
    """`(M, in), (E, out, in) -> (M, out)`: the rows of each expert times its matrix, in the rows' dtype."""
    weight = weight.to(x.dtype)
    if has_kernel(x, weight):
        return kernel_product(x, weight, groups.ends)
    return _loop(x, weight, groups.ends)


def has_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether one kernel can make the products of all groups."""
    fits = x.dtype == torch.bfloat16 and weight.size(1) % 8 == 0 and weight.size(2) % 8 == 0
    return (
        fits
        and x.is_cuda
        and GROUPED_KERNEL is not None
        and torch.cuda.get_device_capability(x.device) >= KERNEL_CAPABILITY
    )


def kernel_product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """`grouped_product` by torch's kernel."""
    used = torch.diff(ends, prepend=ends.new_zeros(1)) > 0  # (E,)
    product: Tensor = GROUPED_KERNEL(x, _OfUsed.apply(weight, used).mT, offs=ends)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    return product


def loop_product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """`grouped_product` expert by expert."""
    sizes = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
    # an expert without rows takes part with none, so its gradient is there and is zero: DDP waits for every parameter
    return torch.cat([rows @ w.mT for rows, w in zip(torch.split(x, sizes), weight.unbind(), strict=True)])


_loop = loop_product


def keep_loop_from_compiler() -> None:
    """To be called before a model is compiled: sizes of groups would be constants of what is compiled, and new ones would have it
    compiled again. Not done at import, since it loads the compiler."""
    global _loop  # noqa: PLW0603 - one for the process, as the compiler is
    _loop = torch.compiler.disable(loop_product)  # type: ignore[no-untyped-call]  # torch leaves it untyped


class _Spread(torch.autograd.Function):
    """A token's gradient is the sum over its rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor, choices: int) -> Tensor:
        ctx.save_for_backward(place)
        ctx.choices = choices
        return x[order // choices]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (place,) = ctx.saved_tensors
        by_token = grad_outputs[0][place]  # (M, C)
        return by_token.view(-1, ctx.choices, by_token.size(-1)).sum(1), None, None, None


class _Gather(torch.autograd.Function):
    """The inverse of a permutation is its gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return y[place]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return grad_outputs[0][order], None, None


class _OfUsed(torch.autograd.Function):
    """The weights as they are; in backward nothing for experts without rows, whose part of the gradient the kernel leaves
    as it found the memory (pytorch#172439)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, used: Tensor) -> Tensor:
        ctx.save_for_backward(used)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (used,) = ctx.saved_tensors
        return grad_outputs[0].masked_fill(~used[:, None, None], 0), None
