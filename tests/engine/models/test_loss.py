"""The chunked loss against the plain one, over several chunks and a ragged last one, with and without the kernel."""

import ctypes

import pytest
import torch
import torch.nn.functional as F

from trainer_daemon.engine.models import loss
from trainer_daemon.engine.models.loss import Reduction, chunk_rows, softcapped_cross_entropy
from trainer_daemon.engine.native import find_compiler, load_library

CAP = 15.0


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if find_compiler() is None:
        pytest.skip("no C++ compiler here")
    return load_library(loss.KERNEL_SOURCE, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(params=["plain", "fused"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How chunks are computed in this test."""
    fused = request.param == "fused"
    monkeypatch.setattr(loss, "_kernel", request.getfixturevalue("kernel") if fused else None)
    return str(request.param)


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.usefixtures("way")
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
    got = softcapped_cross_entropy(hidden, weight, targets, CAP, reduction)
    torch.autograd.backward(got / 3)

    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert got.item() == pytest.approx(expected.item(), rel=tolerance)
    for ours, plain in ((hidden, h), (weight, w)):
        assert ours.grad is not None
        assert plain.grad is not None
        assert relative_difference(ours.grad, plain.grad) < tolerance


@pytest.mark.usefixtures("way")
def test_a_batch_without_any_target_has_no_loss_and_no_gradient() -> None:
    hidden, weight = torch.randn(8, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    nothing = softcapped_cross_entropy(hidden, weight, torch.full((8,), -1), CAP)
    torch.autograd.backward(nothing)
    assert nothing.item() == 0
    assert hidden.grad is not None
    assert hidden.grad.count_nonzero() == 0
    assert weight.grad is not None
    assert weight.grad.count_nonzero() == 0


@pytest.mark.usefixtures("way")
def test_losses_without_gradients_are_the_same_row_by_row() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(700, 24, generator=draw), torch.randn(101, 24, generator=draw)
    targets = torch.randint(-1, 101, (700,), generator=draw)
    expected = F.cross_entropy(
        CAP * torch.tanh((hidden @ weight.T).double() / CAP), targets, ignore_index=-1, reduction="none"
    )
    got = softcapped_cross_entropy(hidden, weight, targets, CAP, "none")
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.001, 3.0, 1000.0])
def test_the_kernel_is_its_plain_twin(
    kernel: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, scale: float
) -> None:
    """From logits that are nearly nothing to logits far over the cap, at a width that fills no whole vector."""
    monkeypatch.setattr(loss, "_kernel", kernel)
    draw = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(33, 1003, generator=draw)).to(dtype)
    targets = torch.randint(-1, 1003, (33,), generator=draw)
    plain, fused = logits.clone(), logits.clone()
    plain_losses = loss.plain_chunk_loss_(plain, targets, CAP)
    fused_losses = loss.fused_chunk_loss_(fused, targets, CAP)
    torch.testing.assert_close(fused_losses, plain_losses, rtol=1e-6, atol=1e-5)
    # 1 − σ cancels in the twin where the cap is flat, hence the absolute term
    rtol = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(fused, plain, rtol=rtol, atol=5e-7)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_is_not_hidden_unless_the_cap_bounds_it(bad: float) -> None:
    hidden = torch.ones(2, 4)
    hidden[1] = bad
    losses = softcapped_cross_entropy(hidden, torch.ones(6, 4), torch.zeros(2, dtype=torch.long), CAP, "none")
    assert losses[0].isfinite()
    assert losses[1].isfinite() == (bad == float("inf"))


def test_the_kernel_refuses_a_target_outside_the_vocabulary(
    kernel: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_kernel", kernel)
    with pytest.raises(IndexError, match="target 6 is out of bounds for a vocabulary of 6"):
        softcapped_cross_entropy(torch.ones(2, 4), torch.ones(6, 4), torch.tensor([0, 6]), CAP, "none")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.filterwarnings("default")  # torch.compile's own deprecations
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_on_a_gpu_it_is_the_plain_formula_in_less_memory_than_the_logits_take(compiled: bool) -> None:
    """65,536 rows of 32,768 in bf16: the logits alone would be 8.6 GB in fp32."""
    N, C, V = 65_536, 256, 32_768
    draw = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(N, C, generator=draw, device="cuda").bfloat16().requires_grad_()
    weight = torch.randn(V, C, generator=draw, device="cuda").requires_grad_()
    targets = torch.randint(-1, V, (N,), generator=draw, device="cuda")
    compute = torch.compile(softcapped_cross_entropy) if compiled else softcapped_cross_entropy
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    got = compute(hidden, weight, targets, CAP, "sum")
    torch.autograd.backward(got)
    assert torch.cuda.max_memory_allocated() - before < 4 * N * V

    some = slice(0, 512)  # rows do not touch each other, so these are compared alone
    h = hidden.detach()[some].float().requires_grad_()
    rounded = weight.detach().bfloat16().float()
    plain = F.cross_entropy(
        CAP * torch.tanh(h @ rounded.T / CAP), targets[some], ignore_index=-1, reduction="sum"
    )
    torch.autograd.backward(plain)
    assert hidden.grad is not None
    assert h.grad is not None
    assert relative_difference(hidden.grad[some], h.grad) < 0.02
    ours = softcapped_cross_entropy(hidden.detach()[some], weight.detach(), targets[some], CAP, "sum")
    assert ours.item() == pytest.approx(plain.item(), rel=1e-3)
