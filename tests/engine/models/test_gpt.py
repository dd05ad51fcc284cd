"""The model against its formulas, written out here in float64 with loops and full masks and nothing shared."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from trainer_daemon.contract.scaling import ModelShape, count_parameters, model_shape
from trainer_daemon.contract.spec import ModelSpec
from trainer_daemon.engine.models.gpt import GPT

SHAPES = {
    "odd depth, grouped heads, vocabulary of 97": ModelShape(
        n_layer=3,
        n_embd=64,
        n_head=4,
        n_kv_head=2,
        head_dim=16,
        sequence_len=160,
        vocab_size=97,
        windows=(5, 40, 160),
    ),
    "even depth, one head, windows longer than the text": ModelShape(
        n_layer=4,
        n_embd=32,
        n_head=1,
        n_kv_head=1,
        head_dim=32,
        sequence_len=300,
        vocab_size=128,
        windows=(200, 135, 300, 300),
    ),
    "five layers, three heads to a key, nothing a round number": ModelShape(
        n_layer=5,
        n_embd=60,
        n_head=6,
        n_kv_head=2,
        head_dim=10,
        sequence_len=139,
        vocab_size=65,
        windows=(1, 64, 138, 13, 139),
    ),
    "one layer": ModelShape(
        n_layer=1,
        n_embd=32,
        n_head=2,
        n_kv_head=1,
        head_dim=16,
        sequence_len=64,
        vocab_size=70,
        windows=(64,),
    ),
}


def perturbed_model(shape: ModelShape, seed: int = 0) -> GPT:
    """At initialisation every block is the identity and smear is off, so that little would be tested."""
    model = GPT(shape)
    model.init_weights(seed)
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    return model


def tokens(shape: ModelShape, rows: int, length: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(7)
    text = torch.randint(0, shape.vocab_size, (rows, length + 1), generator=draw)
    return text[:, :-1], text[:, 1:].clone()


def plain_logits(p: dict[str, Tensor], shape: ModelShape, idx: Tensor) -> Tensor:
    """(B, T) -> (B, T, V), from the formulas."""

    def rms(x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps) ** -0.5

    B, T = idx.shape
    n, H, K, D = shape.n_layer, shape.n_head, shape.n_kv_head, shape.head_dim
    e = rms(p["wte.weight"][idx])
    rows = [e[:, 0]]
    for t in range(1, T):
        gate = torch.sigmoid(e[:, t, :24] @ p["smear_gate.weight"].T)
        rows.append(e[:, t] + p["smear_lambda"] * gate * e[:, t - 1])
    x = x0 = torch.stack(rows, 1)
    angle = torch.arange(T, dtype=torch.float64)[:, None] * 100_000 ** (
        -2 * torch.arange(D // 2, dtype=torch.float64) / D
    )

    def rotated(z: Tensor) -> Tensor:  # (B, T, heads, D): by the angle -m·θ
        pairs = torch.complex(z[..., : D // 2], z[..., D // 2 :]) * torch.exp(-1j * angle)[:, None]
        return torch.cat([pairs.real, pairs.imag], -1)

    kept = x
    for layer in range(n):
        x = p["resid_lambdas"][layer] * x + p["x0_lambdas"][layer] * x0
        u, name = rms(x), f"blocks.{layer}.attn."
        q = (u @ p[name + "c_q.weight"].T).view(B, T, H, D)
        k = (u @ p[name + "c_k.weight"].T).view(B, T, K, D)
        v = (u @ p[name + "c_v.weight"].T).view(B, T, K, D)
        if layer % 2 == (n - 1) % 2:
            g = 3 * torch.sigmoid(u[..., :12] @ p[name + "ve_gate.weight"].T)
            v = v + g[..., None] * p[f"value_embeds.{layer}.weight"][idx].view(B, T, K, D)
        q, k = 1.2 * rms(rotated(q)), 1.2 * rms(rotated(k))
        heads = []
        for h in range(H):
            score = q[:, :, h] @ k[:, :, h // (H // K)].mT / math.sqrt(D)
            i, j = torch.arange(T)[:, None], torch.arange(T)[None, :]
            score = score.masked_fill((j > i) | (j < i - shape.windows[layer]), -math.inf)
            heads.append(score.softmax(-1) @ v[:, :, h // (H // K)])
        x = x + torch.cat(heads, -1) @ p[name + "c_proj.weight"].T
        mlp = f"blocks.{layer}.mlp."
        x = x + torch.relu(rms(x) @ p[mlp + "c_fc.weight"].T).square() @ p[mlp + "c_proj.weight"].T
        if layer == n // 2:
            kept = x
    x = rms(x - p["backout_lambda"] * kept)
    return 15 * torch.tanh(x @ p["lm_head.weight"][: shape.vocab_size].T / 15)


def by_the_formulas(model: GPT, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits, mean loss and gradients of the model's parameters as they are, in float64."""
    weights = {name: w.detach().double().requires_grad_() for name, w in model.named_parameters()}
    logits = plain_logits(weights, model.shape, idx)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    torch.autograd.backward(loss)
    return logits, loss, {name: w.grad for name, w in weights.items() if w.grad is not None}


@pytest.mark.parametrize("length", [2, 11, None], ids=["two tokens", "shorter than most windows", "full"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_loss_and_gradients_are_those_of_the_formulas(shape: ModelShape, length: int | None) -> None:
    model = perturbed_model(shape)
    idx, targets = tokens(shape, rows=2, length=length or shape.sequence_len)
    targets[0, 3:9] = -1
    logits, expected_loss, gradients = by_the_formulas(model, idx, targets)

    torch.testing.assert_close(model(idx).double(), logits, atol=2e-4, rtol=1e-4)
    loss = model(idx, targets)
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        gradient, wanted = parameter.grad, gradients[name]
        assert gradient is not None
        error = (gradient.double() - wanted).norm()
        assert error < 1e-4 * wanted.norm() + 1e-7, f"{name}: {error:.1e} of {wanted.norm():.1e}"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_kept_apart_the_documents_of_a_row_are_read_as_each_is_alone(shape: ModelShape) -> None:
    """Losses and gradients, by the formulas, of each document in a row of its own, from its first token on."""
    model = perturbed_model(shape)
    model.document_start = 9
    T = shape.sequence_len
    idx, targets = tokens(shape, rows=1, length=T)
    idx[idx == 9] = 10
    firsts = [0, 3, 4, T // 2, T]  # the first document's own beginning is in an earlier row
    idx[0, firsts[1:-1]] = 9
    weights = {name: w.detach().double().requires_grad_() for name, w in model.named_parameters()}
    alone = [
        torch.nn.functional.cross_entropy(
            plain_logits(weights, shape, idx[:, first:end])[0], targets[0, first:end], reduction="sum"
        )
        for first, end in pairwise(firsts)
    ]
    expected_loss = torch.stack(alone).sum() / T
    torch.autograd.backward(expected_loss)

    loss = model(idx, targets)
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        wanted = weights[name].grad
        assert parameter.grad is not None
        assert wanted is not None
        error = (parameter.grad.double() - wanted).norm()
        assert error < 1e-4 * wanted.norm() + 1e-7, f"{name}: {error:.1e} of {wanted.norm():.1e}"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_in_bf16_gradients_are_those_of_the_formulas_as_far_as_bf16_goes(shape: ModelShape) -> None:
    model = GPT(shape, compute_dtype=torch.bfloat16)
    model.load_state_dict(perturbed_model(shape).state_dict())
    idx, targets = tokens(shape, rows=2, length=shape.sequence_len)
    _, expected_loss, gradients = by_the_formulas(model, idx, targets)
    loss = model(idx, targets)
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=2e-3)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        error = (parameter.grad.double() - gradients[name]).norm()
        assert error < 0.08 * gradients[name].norm() + 3e-3, (
            f"{name}: {error:.1e} of {gradients[name].norm():.1e}"
        )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_three_reductions_agree_and_ignored_targets_count_for_nothing(shape: ModelShape) -> None:
    model = perturbed_model(shape)
    idx, targets = tokens(shape, rows=2, length=20)
    targets[1, 5:] = -1
    each = model(idx, targets, loss_reduction="none")
    assert each.shape == targets.shape
    assert each[1, 5:].count_nonzero() == 0
    with torch.no_grad():
        torch.testing.assert_close(model(idx, targets, loss_reduction="none"), each.detach())
        torch.testing.assert_close(model(idx, targets, loss_reduction="sum"), each.detach().sum())
        torch.testing.assert_close(model(idx, targets), each.detach().sum() / 25)
    torch.testing.assert_close(model(idx, targets, loss_reduction="sum"), each.sum())


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_built_model_has_the_parameters_that_the_plan_counts(depth: int) -> None:
    shape = model_shape(ModelSpec(depth=depth, aspect_ratio=32, head_dim=16, n_kv_head=1), vocab_size=300)
    model, counts = GPT(shape), count_parameters(shape)
    size = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(size.values()) == counts.total
    assert sum(n for name, n in size.items() if name.startswith("blocks.")) == counts.matrices
    assert sum(n for name, n in size.items() if name.startswith("value_embeds.")) == counts.value_embedding
    assert size["wte.weight"] == counts.embedding
    assert size["lm_head.weight"] == counts.unembedding


def test_a_new_model_depends_on_its_seed_alone() -> None:
    shape = SHAPES["one layer"]
    one, same, other = GPT(shape), GPT(shape), GPT(shape)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one.init_weights(5)
    same.init_weights(5)
    other.init_weights(6)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.wte.weight, other.wte.weight)


def test_a_new_model_has_the_spreads_it_should() -> None:
    shape = replace(SHAPES["even depth, one head, windows longer than the text"], vocab_size=4096)
    model = GPT(shape)
    model.init_weights(0)
    bound = math.sqrt(3 / shape.n_embd)
    attn, mlp = model.blocks[1].attn, model.blocks[1].mlp
    assert model.wte.weight.std().item() == pytest.approx(0.8, rel=0.02)
    assert model.lm_head.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert attn.c_v.weight.abs().max().item() == pytest.approx(bound, rel=0.02)
    assert mlp.c_fc.weight.abs().max().item() == pytest.approx(0.4 * bound, rel=0.02)
    assert model.value_embeds["1"].weight.abs().max().item() == pytest.approx(bound, rel=0.02)
    assert attn.c_proj.weight.count_nonzero() == mlp.c_proj.weight.count_nonzero() == 0
    assert attn.ve_gate is not None
    assert 0 <= attn.ve_gate.weight.min() <= attn.ve_gate.weight.max() <= 0.02
    torch.testing.assert_close(
        model.resid_lambdas.data, torch.tensor([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05])
    )
    torch.testing.assert_close(model.x0_lambdas.data, torch.tensor([0.2, 0.15, 0.1, 0.05]))
    assert model.smear_lambda.item() == 0
    assert model.backout_lambda.item() == pytest.approx(0.2)


def test_in_bf16_tables_are_bf16_matrices_fp32_and_the_loss_is_near_that_of_fp32() -> None:
    shape = SHAPES["odd depth, grouped heads, vocabulary of 97"]
    exact, coarse = GPT(shape), GPT(shape, compute_dtype=torch.bfloat16)
    coarse.load_state_dict(exact.state_dict())
    exact.init_weights(0)
    coarse.load_state_dict(exact.state_dict())
    idx, targets = tokens(shape, rows=2, length=150)
    loss = coarse(idx, targets)
    loss.backward()
    assert coarse.wte.weight.dtype == coarse.value_embeds["0"].weight.dtype == torch.bfloat16
    assert coarse.lm_head.weight.dtype == coarse.blocks[0].mlp.c_fc.weight.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in coarse.parameters())
    assert coarse.hidden_states(idx).dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact(idx, targets).item(), rel=1e-3)
