"""The product with a weight that is kept in fp32 and cast where it is used; in fp8 where the model is told to."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from trainer_daemon.contract.hardware import Fp8Recipe
from trainer_daemon.engine.models.fp8 import fits_fp8, product


class Linear(nn.Linear):
    """`(..., in) -> (..., out)`, uninitialised; its fp32 weight is cast to the input's dtype at each use."""

    fp8: Fp8Recipe | None = None
    """How its operands are scaled to fp8 while the model trains; None: they are not. Evaluation never uses it."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Nothing: a model's `init_weights` initialises all parameters together."""

    def forward(self, x: Tensor) -> Tensor:
        fp8 = self.fp8 if self.training else None
        bias = cast("Tensor | None", self.bias)  # which torch types as always there
        if bias is None:
            return product(x, self.weight, fp8)
        if fp8 is None:
            return F.linear(x, self.weight.to(x.dtype), bias.to(x.dtype))
        return product(x, self.weight, fp8) + bias.to(x.dtype)


def train_in_fp8(blocks: nn.Module, recipe: Fp8Recipe) -> list[str]:
    """Have the products inside made in fp8 while the model trains, where their sides allow it; returns their names."""
    converted = []
    for name, module in blocks.named_modules():
        if isinstance(module, Linear) and fits_fp8(module.weight.shape):
            module.fp8 = recipe
            converted.append(name)
    return converted
