"""Products in fp8, for training on GPUs that multiply in it twice as fast as in bf16.

Each operand is scaled as it comes, so that its largest magnitude becomes fp8's largest, and `torch._scaled_mm` takes
the scales out of the result. `tensorwise`: one scale a tensor; gradients are e5m2, which has more range and less
precision than the e4m3 of weights and activations. `rowwise`: one scale along each dimension that is not summed over,
more exact and slower; all e4m3, which is what its kernels take. Small models lose by it: the scaling costs more than
the products gain (depth 12 does, depth 24 gains).

After nanochat's and torchao's Float8 linear. M rows (B·T), K summed over, N columns.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_daemon.contract.hardware import Fp8Recipe

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""The kernels take dimensions that this divides."""
SMALLEST_SIDE = 128
"""Narrower products, such as the gates, lose more in precision than they gain in time."""


def fits_fp8(shape: torch.Size) -> bool:
    """Whether a weight of this shape is multiplied in fp8."""
    return all(side % MULTIPLE == 0 and side >= SMALLEST_SIDE for side in shape)


def product(x: Tensor, weight: Tensor, recipe: Fp8Recipe | None) -> Tensor:
    """`(..., in), (out, in) -> (..., out)`: x @ weight.T in x's dtype, or from fp8 operands under a recipe.

    The rows of x in all are a multiple of 16 then, since they are summed over in the weight's gradient.
    """
    if recipe is None:
        return F.linear(x, weight.to(x.dtype))
    y: Tensor = _Fp8Product.apply(x.flatten(0, -2), weight, recipe)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y.view(*x.shape[:-1], weight.size(0))


def quantize(x: Tensor, dtype: torch.dtype, recipe: Fp8Recipe) -> tuple[Tensor, Tensor]:
    """(M, K) -> the same in fp8, and the fp32 scale that gives it back: () tensorwise, (M, 1) rowwise."""
    largest = torch.finfo(dtype).max
    amax = x.abs().amax() if recipe == "tensorwise" else x.abs().amax(dim=1, keepdim=True)
    scale = amax.float().clamp(min=1e-12) / largest
    # rounding may pass the largest value, which e4m3 would turn into NaN
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def multiply(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], out_dtype: torch.dtype, *, fast: bool
) -> Tensor:
    """(M, K), (N, K), each with its scale -> (M, N): a @ b.T. `fast` sums in less than fp32 on Hopper."""
    (a8, a_scale), (b8, b_scale) = a, b
    if a_scale.dim():  # rowwise: (M, 1) and (1, N)
        b_scale = b_scale.T
    return torch._scaled_mm(  # noqa: SLF001  # what torchao calls; torch keeps it
        a8.contiguous(),
        b8.contiguous().T,  # the kernels want the second operand by columns
        scale_a=a_scale,
        scale_b=b_scale.contiguous(),
        out_dtype=out_dtype,
        use_fast_accum=fast,
    )


class _Fp8Product(torch.autograd.Function):
    """y = x·wᵀ, ∂x = ∂y·w, ∂w = ∂yᵀ·x, each from operands in fp8."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, recipe: Fp8Recipe) -> Tensor:
        x8, w8 = quantize(x, E4M3, recipe), quantize(weight, E4M3, recipe)
        ctx.recipe, ctx.dtypes = recipe, (x.dtype, weight.dtype)
        if recipe == "tensorwise":  # one scale holds whichever way the tensor is read
            ctx.save_for_backward(*x8, *w8)
        else:
            ctx.save_for_backward(x, weight)
        return multiply(x8, w8, x.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        g, dtype = grad_outputs[0], ctx.dtypes[0]  # (M, N)
        if ctx.recipe == "tensorwise":
            x8, x_scale, w8, w_scale = ctx.saved_tensors
            g8, g_scale = quantize(g, E5M2, "tensorwise")
            x_grad = multiply((g8, g_scale), (w8.T, w_scale), dtype, fast=False)  # (M, K)
            weight_grad = multiply((g8.T, g_scale), (x8.T, x_scale), dtype, fast=False)  # (N, K)
        else:
            x, weight = ctx.saved_tensors
            x_grad = multiply(
                quantize(g, E4M3, "rowwise"), quantize(weight.T, E4M3, "rowwise"), dtype, fast=False
            )
            weight_grad = multiply(
                quantize(g.T, E4M3, "rowwise"), quantize(x.T, E4M3, "rowwise"), dtype, fast=False
            )
        return x_grad, weight_grad.to(ctx.dtypes[1]), None
