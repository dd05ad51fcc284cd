"""Activation checkpointing: what a block's backward needs is computed again instead of kept.

`block` keeps a block's inputs alone: the least memory, for another forward pass of a third of the step. `selective`
also keeps what the matrix products and attention gave, which is most of the work and the smaller part of the memory,
and computes norms, rotations and activations again. Either gives the gradients of `off` to the bit: the same kernels
run on the same values.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from trainer_daemon.contract.estimate import ActivationCheckpointing

PRODUCTS_AND_ATTENTION = frozenset(
    {
        "aten::mm",
        "aten::addmm",
        "aten::_scaled_mm",
        "aten::_grouped_mm",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "flex_attention",
    }
)
"""Names of the operators whose outputs `selective` keeps. Not bmm: on a CPU it makes the attention weights, T x T."""


def run_block(mode: ActivationCheckpointing, block: nn.Module, *inputs: Any) -> Any:
    """`block(*inputs)`, with its activations kept as the mode says."""
    if mode == "off" or not torch.is_grad_enabled():
        return block(*inputs)
    contexts = _selective_contexts if mode == "selective" else noop_context_fn
    # nothing in a block draws random numbers
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _keep_products(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    name = operator.name().partition(".")[0]  # without the overload
    keep = (
        name in PRODUCTS_AND_ATTENTION or "flash_attn" in name
    )  # FlashAttention's packages name theirs differently
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


_selective_contexts = partial(create_selective_checkpoint_contexts, _keep_products)
