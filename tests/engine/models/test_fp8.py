"""fp8 products against plain ones. torch's CPU kernel makes the same products, slowly, so all but speed is shown here."""

import pytest
import torch
import torch.nn.functional as F

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.hardware import Fp8Recipe, lacks_fp8
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.contract.spec import RuntimeSpec, build_spec
from trainer_daemon.engine.models.fp8 import E4M3, E5M2, product, quantize
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.precision import choose_precision

RECIPES: tuple[Fp8Recipe, ...] = ("tensorwise", "rowwise")
SHAPE = ModelShape(
    n_layer=2,
    n_embd=128,
    n_head=4,
    n_kv_head=2,
    head_dim=32,
    sequence_len=32,
    vocab_size=96,
    windows=(32, 32),
)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def skip_where_not_made_here(recipe: Fp8Recipe) -> None:
    """torch 2.11 scales by row on GPUs alone."""
    try:
        product(torch.ones(16, 16, dtype=torch.bfloat16), torch.ones(16, 16), recipe)
    except RuntimeError as e:
        pytest.skip(f"this torch has no CPU kernel for it: {str(e).splitlines()[0]}")


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("dtype", "step"), [(E4M3, 2**-4), (E5M2, 2**-3)])
def test_quantized_values_are_within_half_a_step_and_the_largest_is_exact(
    recipe: Fp8Recipe, dtype: torch.dtype, step: float
) -> None:
    torch.manual_seed(0)
    x = torch.randn(48, 64) * torch.logspace(-3, 3, 48)[:, None]
    quantized, scale = quantize(x, dtype, recipe)
    assert scale.shape == (() if recipe == "tensorwise" else (48, 1))
    back = quantized.float() * scale
    smallest = scale * torch.finfo(dtype).smallest_normal
    error = (back - x).abs() / torch.maximum(x.abs(), smallest)
    assert float(error.max()) <= step * 1.001
    largest = x.abs().amax() if recipe == "tensorwise" else x.abs().amax(1)
    found = back.abs().amax() if recipe == "tensorwise" else back.abs().amax(1)
    torch.testing.assert_close(found, largest)


def test_an_empty_gradient_stays_zero_and_a_broken_one_stays_broken() -> None:
    zeros, scale = quantize(torch.zeros(16, 16), E4M3, "tensorwise")
    assert torch.equal(zeros.float() * scale, torch.zeros(16, 16))
    broken, scale = quantize(torch.full((16, 16), float("nan")), E5M2, "tensorwise")
    assert bool((broken.float() * scale).isnan().all())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_product_and_both_its_gradients_are_the_plain_ones_within_fp8s_rounding(recipe: Fp8Recipe) -> None:
    skip_where_not_made_here(recipe)
    torch.manual_seed(0)
    x = torch.randn(2, 32, 128, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(256, 128, requires_grad=True)
    upstream = torch.randn(2, 32, 256, dtype=torch.bfloat16)
    y = product(x, weight, recipe)
    assert (y.dtype, y.shape) == (torch.bfloat16, (2, 32, 256))
    y.backward(upstream)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    found = [y.detach().float(), x.grad, weight.grad]
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32  # the master weight's

    exact_x = x.detach().double().requires_grad_()
    exact_weight = weight.detach().double().requires_grad_()
    exact = F.linear(exact_x, exact_weight)
    exact.backward(upstream.double())  # type: ignore[no-untyped-call]  # the same
    # rounding to 3 or 2 bits errs by 2.6 or 5.2 per cent on average, both operands together by √2 or so of it
    for one, other in zip(found, [exact.detach(), exact_x.grad, exact_weight.grad], strict=True):
        assert one is not None
        assert other is not None
        assert 0.01 < relative(one.double(), other) < (0.07 if recipe == "tensorwise" else 0.05)


def test_rowwise_keeps_what_one_large_row_would_drown() -> None:
    skip_where_not_made_here("rowwise")
    torch.manual_seed(0)
    x, weight = torch.randn(32, 128), torch.randn(128, 128)
    x[0] *= 1e6
    errors = {recipe: relative(product(x, weight, recipe)[1:], F.linear(x[1:], weight)) for recipe in RECIPES}
    assert errors["rowwise"] < 0.05
    assert errors["tensorwise"] > 0.5


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_blocks_wide_products_are_converted_for_training_and_only_for_it(recipe: Fp8Recipe) -> None:
    skip_where_not_made_here(recipe)
    model = GPT(SHAPE, compute_dtype=torch.bfloat16)
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    idx = torch.randint(0, 96, (2, 32))
    plain = model(idx, idx).detach()
    converted = model.train_in_fp8(recipe)
    # key and value are 64 wide: they go along in the one product with the query, the gates do not
    wide = ("attn.c_q", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert converted == [f"blocks.{layer}.{name}" for layer in range(2) for name in wide]

    model.eval()
    assert torch.equal(model(idx, idx), plain)
    model.train()
    loss = model(idx, idx)
    assert not torch.equal(loss, plain)
    assert loss.item() == pytest.approx(plain.item(), rel=0.02)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_in_fp8_learns_what_the_plain_one_learns(recipe: Fp8Recipe) -> None:
    skip_where_not_made_here(recipe)
    idx = torch.randint(0, 96, (2, 33), generator=torch.Generator().manual_seed(1))
    last = []
    for in_fp8 in (False, True):
        model = GPT(SHAPE, compute_dtype=torch.bfloat16)
        model.init_weights(0)
        if in_fp8:
            model.train_in_fp8(recipe)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(30):
            optimizer.zero_grad()
            loss = model(idx[:, :-1], idx[:, 1:])
            loss.backward()
            optimizer.step()
        last.append(loss.item())
    plain, converted = last
    assert plain < 2.5  # of 4.56 at the start
    assert converted == pytest.approx(plain, abs=0.25)


@pytest.mark.parametrize(
    ("capability", "recipe", "says"),
    [
        ((8, 0), "tensorwise", "8.9, this GPU has 8.0; use --set runtime.precision=bf16"),
        ((8, 9), "tensorwise", None),
        ((8, 9), "rowwise", "--set runtime.fp8_recipe=tensorwise"),
        ((9, 0), "rowwise", None),
        ((10, 3), "rowwise", None),
        ((12, 0), "rowwise", "--set runtime.fp8_recipe=tensorwise"),
        ((12, 0), "tensorwise", None),
    ],
)
def test_a_gpu_that_cannot_is_told_from_one_that_can(
    capability: tuple[int, int], recipe: Fp8Recipe, says: str | None
) -> None:
    lacking = lacks_fp8(capability, recipe)
    assert says in lacking if says and lacking else lacking is says


def test_fp8_is_refused_by_name_on_a_cpu_and_for_rows_that_it_cannot_sum_over() -> None:
    with pytest.raises(SpecError, match=r"runtime.precision: .* not cpu; use --set runtime.precision=auto"):
        build_spec({"runtime": {"precision": "fp8", "device": "cpu"}})
    with pytest.raises(SpecError, match=r"model.sequence_len: 1000 .* nearest: 992"):
        build_spec({"runtime": {"precision": "fp8"}, "model": {"sequence_len": 1000}})
    with pytest.raises(SpecError, match=r"runtime.precision: .* this rank has cpu"):
        choose_precision(RuntimeSpec(precision="fp8"), torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_gpu_makes_the_products_that_the_cpu_makes(recipe: Fp8Recipe) -> None:
    if lacking := lacks_fp8(torch.cuda.get_device_capability(), recipe):
        pytest.skip(lacking)
    torch.manual_seed(0)
    x, weight = torch.randn(512, 256, dtype=torch.bfloat16), torch.randn(384, 256)
    upstream = torch.randn(512, 384, dtype=torch.bfloat16)
    results = []
    for device in ("cpu", "cuda"):
        a = x.to(device, copy=True).requires_grad_()
        b = weight.to(device, copy=True).requires_grad_()
        y = product(a, b, recipe)
        y.backward(upstream.to(device))  # type: ignore[no-untyped-call]  # the same
        assert a.grad is not None
        assert b.grad is not None
        results.append([t.detach().cpu().double() for t in (y, a.grad, b.grad)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        assert (
            relative(on_gpu, on_cpu) < 0.01
        )  # bf16's own rounding, and a value now and then on fp8's other side
