"""The chunked loss against the plain one, over several chunks and a ragged last one."""

import pytest
import torch
import torch.nn.functional as F

from trainer_daemon.engine.models.loss import Reduction, chunk_rows, softcapped_cross_entropy

CAP = 15.0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_plain_formula_when_the_loss_is_scaled(
    reduction: Reduction, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = 2 * chunk_rows(torch.device("cpu")) + 37
    hidden = torch.randn(rows, 24, generator=draw).to(dtype).requires_grad_()
    weight = (4 * torch.randn(101, 24, generator=draw)).requires_grad_()  # large enough to reach the cap
    targets = torch.randint(0, 101, (rows,), generator=draw)
    targets[5:600] = -1

    h, w = hidden.detach().double().requires_grad_(), weight.detach().to(dtype).double().requires_grad_()
    expected = F.cross_entropy(CAP * torch.tanh(h @ w.T / CAP), targets, ignore_index=-1, reduction=reduction)
    torch.autograd.backward(expected / 3)
    loss = softcapped_cross_entropy(hidden, weight, targets, CAP, reduction)
    torch.autograd.backward(loss / 3)

    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    for ours, plain in ((hidden, h), (weight, w)):
        assert ours.grad is not None
        assert plain.grad is not None
        assert (ours.grad.double() - plain.grad).norm() / plain.grad.norm() < tolerance


def test_a_batch_without_any_target_has_no_loss_and_no_gradient() -> None:
    hidden, weight = torch.randn(8, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    loss = softcapped_cross_entropy(hidden, weight, torch.full((8,), -1), CAP)
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert hidden.grad is not None
    assert hidden.grad.count_nonzero() == 0
    assert weight.grad is not None
    assert weight.grad.count_nonzero() == 0
