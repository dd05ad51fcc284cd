"""What training, evaluation and writing ask of a model, whichever its family; each family is one file that answers it."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer_daemon.contract.estimate import ActivationCheckpointing
from trainer_daemon.contract.hardware import Fp8Recipe
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.engine.models.linear import Linear, train_in_fp8
from trainer_daemon.engine.models.loss import Reduction


class LanguageModel(nn.Module):
    """Uninitialised after construction: call `init_weights`, or load a state dict."""

    shape: ModelShape
    compute_dtype: torch.dtype
    recompute: ActivationCheckpointing
    wte: nn.Embedding
    """(rows of the padded vocabulary, C)"""
    lm_head: Linear
    caps_logits: ClassVar[bool] = False
    """Whether its loss is of logits below a cap, which has a compiled kernel on a CPU."""

    @property
    @abstractmethod
    def longest_text(self) -> int:
        """Positions that it can tell apart."""

    @abstractmethod
    def init_weights(self, seed: int) -> None:
        """Draws every parameter: the same seed on the same kind of device, the same bits."""

    def train_in_fp8(self, recipe: Fp8Recipe) -> list[str]:
        """Have the products of the blocks made in fp8 while the model trains, where their sides allow it.

        Returns the names of these modules. The head is not among them: its loss is taken in chunks of its own. Nor are
        routed experts, which stay in bf16.
        """
        return [f"blocks.{name}" for name in train_in_fp8(self.get_submodule("blocks"), recipe)]

    def take_expert_use(self) -> Tensor | None:
        """What its experts did since this was last asked, as `expert_use` reads it; None for a model without any."""
        return None

    @abstractmethod
    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, loss_reduction: Reduction = "mean"
    ) -> Tensor:
        """`(B, T) -> (B, T, V)` fp32 logits; with targets (B, T) their loss in nats: a scalar, or (B, T) for "none".

        Target -1 counts for nothing. Training goes through here, loss included, so that a wrapper such as DDP sees one
        forward.
        """

    @abstractmethod
    def hidden_states(self, idx: Tensor) -> Tensor:
        """`(B, T) -> (B, T, C)`: all of the model but the head."""

    @abstractmethod
    def unembed(self, x: Tensor) -> Tensor:
        """`(..., C) -> (..., V)` fp32 logits; the table's padding rows are cut off."""
