"""Activation checkpointing: the same gradients to the bit, from fewer kept bytes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.engine.models.test_gpt import SHAPES, perturbed_model, tokens
from trainer_daemon.contract.estimate import ActivationCheckpointing
from trainer_daemon.engine.models.gpt import GPT


def loss_and_gradients(shape: str, mode: ActivationCheckpointing, dtype: torch.dtype) -> list[Tensor]:
    model = GPT(SHAPES[shape], compute_dtype=dtype, recompute=mode)
    model.load_state_dict(perturbed_model(SHAPES[shape]).state_dict())
    inputs, targets = tokens(model.shape, rows=2, length=min(150, model.shape.sequence_len))
    loss = model(inputs, targets)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["block", "selective"])
def test_gradients_are_those_of_off_to_the_bit(
    mode: ActivationCheckpointing, shape: str, dtype: torch.dtype
) -> None:
    expected, found = loss_and_gradients(shape, "off", dtype), loss_and_gradients(shape, mode, dtype)
    assert len(found) == len(expected)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Every tensor that an operator returned and somebody still holds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self._seen: list[tuple[StorageWeakRef, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # torch leaves it untyped
                self._seen.append((reference, storage.nbytes()))
        return out

    def held_bytes(self) -> int:
        alive = {reference.cdata: size for reference, size in self._seen if not reference.expired()}  # type: ignore[no-untyped-call]  # the same
        return int(sum(alive.values()))


def test_each_mode_keeps_less_than_the_one_before() -> None:
    def kept(mode: ActivationCheckpointing) -> int:
        """Bytes that stay behind a forward pass for backward."""
        model = perturbed_model(SHAPES["even depth, one head, windows longer than the text"])
        model.recompute = mode
        inputs, targets = tokens(model.shape, rows=2, length=300)
        allocations = Allocations()
        with allocations:
            loss = model(inputs, targets)
        held = allocations.held_bytes()
        assert loss.requires_grad
        return held

    off, selective, block = kept("off"), kept("selective"), kept("block")
    assert block < 0.75 * selective < 0.75 * 0.9 * off


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile's own deprecations
def test_a_compiled_model_recomputes_too() -> None:
    shape = SHAPES["one layer"]
    inputs, targets = tokens(shape, rows=2, length=60)
    gradients = {}
    for mode in ("off", "selective"):
        model = perturbed_model(shape)
        model.recompute = mode
        replica = model if mode == "off" else torch.compile(model, dynamic=False)
        replica(inputs, targets).backward()
        gradients[mode] = {name: p.grad for name, p in model.named_parameters() if name != "backout_lambda"}
    # of one layer alone the final norm removes what backout does: its gradient is rounding
    for name, expected in gradients["off"].items():
        torch.testing.assert_close(gradients["selective"][name], expected, rtol=1e-3, atol=1e-6)
