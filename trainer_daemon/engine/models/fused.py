"""Two operations that eager autograd does in too many passes over memory, with their gradients written out.

On a CPU a small model is bound by such passes: at width 128 the plain rotary embedding cost as much as its layer's
largest product. Both are ordinary torch inside, so a compiler still sees through them.
"""

from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, gain: float = 1.0) -> Tensor:
    """`(..., C) -> (..., C)` with mean square gain², computed in fp32; there is no learned weight."""
    return _RMSNorm.apply(x, gain)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`(B, T, heads, D) -> (B, T, heads, D)`: rotary positions, channel i paired with i + D/2.

    The tables are (T, heads, D), see `rotary_tables`; whole heads in them make this one contiguous pass.
    """
    return _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped


def rotary_tables(positions: int, head_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines, and sines with the second half negated, (positions, 1, D): computed in fp32, kept in `dtype`."""
    frequencies = base ** -(torch.arange(0, head_dim, 2) / head_dim)  # (D/2,)
    angles = torch.outer(torch.arange(positions).float(), frequencies)[:, None]  # (positions, 1, D/2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat([cos, cos], -1), torch.cat([sin, -sin], -1)


class _RMSNorm(torch.autograd.Function):
    """y = x/rms(x): ∂x = (g − y·mean(g·y))/rms(x). It keeps y, which the product after it keeps anyway, and not x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        norm = torch.linalg.vector_norm(precise, dim=-1, keepdim=True)  # (..., 1)
        eps = torch.finfo(precise.dtype).eps
        scale = norm.square_().div_(x.size(-1)).add_(eps).rsqrt_().mul_(gain)
        y = (precise * scale).to(x.dtype)
        ctx.save_for_backward(y, scale)
        ctx.gain = gain
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (g,) = grad_outputs
        y, scale = ctx.saved_tensors
        precise = g.to(scale.dtype)
        shared = (precise * y).sum(-1, keepdim=True).div_(-y.size(-1) * ctx.gain**2)  # (..., 1)
        return torch.addcmul(precise, y.to(scale.dtype), shared).mul_(scale).to(g.dtype), None


class _Rotate(torch.autograd.Function):
    """A rotation's transpose is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad_outputs[0], cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    B, T, heads, D = x.shape
    first, second = x.chunk(2, dim=-1)  # (B, T, heads, D/2)
    swapped = torch.cat([second, first], dim=-1).view(B, T, heads * D)
    flat = x.reshape(B, T, heads * D) * cos.view(T, heads * D)  # (B, T, heads·D)
    return flat.addcmul_(swapped, sin.view(T, heads * D)).view(B, T, heads, D)
