"""The classic family against its formulas, written out here in float64 with loops and full masks and nothing shared."""

import math

import pytest
import torch
from torch import Tensor

from trainer_daemon.contract.estimate import ActivationCheckpointing
from trainer_daemon.contract.scaling import ModelShape, count_parameters, model_shape
from trainer_daemon.contract.spec import ModelSpec
from trainer_daemon.engine.models.classic import ClassicGPT
from trainer_daemon.engine.models.families import new_model

SHAPE = ModelShape(
    n_layer=3,
    n_embd=60,
    n_head=6,
    n_kv_head=6,
    head_dim=10,
    sequence_len=139,
    vocab_size=97,
    windows=(139,) * 3,
    family="classic",
)


def tokens(rows: int, length: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(7)
    text = torch.randint(0, SHAPE.vocab_size, (rows, length + 1), generator=draw)
    return text[:, :-1], text[:, 1:].clone()


def initialised(**options: object) -> ClassicGPT:
    """With norms that are not what they are at first, so that their gains and biases count."""
    model = ClassicGPT(SHAPE, **options)  # type: ignore[arg-type]  # handed on
    model.init_weights(3)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.2)
    return model


def plain_logits(p: dict[str, Tensor], idx: Tensor) -> Tensor:
    """(B, T) -> (B, T, V), from the formulas."""
    T, D = idx.size(1), SHAPE.head_dim

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def product(x: Tensor, name: str) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    x = torch.stack([p["wte.weight"][idx[:, t]] + p["wpe.weight"][t] for t in range(T)], dim=1)
    hidden_keys = torch.arange(T)[None, :] > torch.arange(T)[:, None]
    for layer in range(SHAPE.n_layer):
        block = f"blocks.{layer}"
        u = norm(x, f"{block}.ln_1")
        queries, keys, values = p[f"{block}.attn.qkv.weight"].chunk(3)
        heads = []
        for h in range(SHAPE.n_head):
            own = slice(h * D, (h + 1) * D)
            score = (u @ queries[own].T) @ (u @ keys[own].T).mT / math.sqrt(D)
            heads.append(score.masked_fill(hidden_keys, -math.inf).softmax(-1) @ (u @ values[own].T))
        x = x + product(torch.cat(heads, -1), f"{block}.attn.c_proj")
        inner = product(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + product(torch.where(inner > 0, inner, 0), f"{block}.mlp.c_proj")
    return product(norm(x, "ln_f"), "lm_head")[..., : SHAPE.vocab_size]


def test_logits_loss_and_gradients_are_those_of_the_formulas() -> None:
    model = initialised()
    p = {name: t.detach().double().requires_grad_() for name, t in model.named_parameters()}
    inputs, targets = tokens(rows=3, length=130)
    targets[0, :5] = -1  # which counts for nothing
    expected = plain_logits(p, inputs)
    torch.testing.assert_close(model(inputs).double(), expected, atol=2e-5, rtol=1e-5)
    loss = model(inputs, targets)
    log_p = expected.log_softmax(-1).flatten(0, 1)
    counted = (targets >= 0).flatten()
    nats = -log_p[counted, targets.flatten()[counted]]
    assert float(loss.detach()) == pytest.approx(float(nats.mean().detach()), rel=1e-6)
    loss.backward()
    nats.mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert p[name].grad is not None
        torch.testing.assert_close(parameter.grad.double(), p[name].grad, atol=2e-6, rtol=1e-4, msg=name)
    with torch.no_grad():
        each = model(inputs, targets, loss_reduction="none")
    torch.testing.assert_close(each.flatten()[counted].double(), nats.detach(), atol=2e-5, rtol=1e-5)
    assert not each.flatten()[~counted].any()


def test_the_model_of_the_pile_has_exactly_its_parameters() -> None:
    shape = model_shape(
        ModelSpec(family="classic", depth=24, aspect_ratio=42, head_dim=64, sequence_len=1024),
        vocab_size=50_257,
    )
    assert (shape.n_embd, shape.n_head, shape.padded_vocab_size) == (1024, 16, 50_304)
    model = new_model(shape, device="meta")
    assert sum(p.numel() for p in model.parameters()) == count_parameters(shape).total == 406_359_168


def test_it_begins_as_pytorch_begins_its_layers() -> None:
    model = ClassicGPT(SHAPE)
    model.init_weights(5)
    again = ClassicGPT(SHAPE)
    again.init_weights(5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert float(model.wte.weight.detach().std()) == pytest.approx(1, rel=0.05)
    assert float(model.wpe.weight.detach().std()) == pytest.approx(1, rel=0.05)
    for linear in (model.lm_head, model.blocks[0].attn.qkv, model.blocks[1].mlp.c_proj):
        bound = linear.in_features**-0.5
        assert 0.95 * bound < float(linear.weight.detach().abs().max()) <= bound
        assert float(linear.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    assert 0 < float(model.lm_head.bias.detach().abs().max()) <= SHAPE.n_embd**-0.5
    assert bool((model.ln_f.weight == 1).all())
    assert not model.ln_f.bias.any()


@torch.no_grad()
def test_in_bf16_only_the_products_are() -> None:
    inputs, targets = tokens(rows=2, length=130)
    exact, rounded = initialised(), initialised(compute_dtype=torch.bfloat16)
    assert {p.dtype for p in rounded.parameters()} == {torch.float32}
    assert rounded.hidden_states(inputs).dtype == torch.bfloat16
    assert float(rounded(inputs, targets)) == pytest.approx(float(exact(inputs, targets)), rel=0.01)
    with torch.autocast("cpu", torch.bfloat16):  # what plain modules compute under autocast
        theirs = exact.hidden_states(inputs)
    difference = (rounded.hidden_states(inputs).float() - theirs.float()).norm() / theirs.float().norm()
    assert float(difference) < 0.01


@pytest.mark.parametrize("mode", ["block", "selective"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_computed_again_give_the_same_gradients_to_the_bit(
    mode: ActivationCheckpointing, dtype: torch.dtype
) -> None:
    inputs, targets = tokens(rows=2, length=130)
    kept, again = initialised(compute_dtype=dtype), initialised(compute_dtype=dtype, recompute=mode)
    for model in (kept, again):
        model(inputs, targets).backward()
    for a, b in zip(kept.parameters(), again.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_documents_that_are_kept_apart_do_not_see_each_other() -> None:
    model = initialised(document_start=0)
    inputs, _ = tokens(rows=1, length=40)
    inputs[inputs == 0] = 1
    inputs[0, 20] = 0
    other = inputs.clone()
    other[0, :20] = (inputs[0, :20] + 1) % 96 + 1
    assert torch.equal(model(inputs)[0, 20:], model(other)[0, 20:])
    assert not torch.equal(initialised()(inputs)[0, 20:], initialised()(other)[0, 20:])


def test_a_text_beyond_the_learned_positions_is_our_own_mistake() -> None:
    model = initialised()
    assert model.longest_text == SHAPE.sequence_len
    with pytest.raises(AssertionError, match="140 positions, and 139 have an embedding"):
        model(torch.zeros(1, 140, dtype=torch.int64))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile's own deprecations
def test_compiled_it_is_the_same_function() -> None:
    model = initialised()
    inputs, targets = tokens(rows=2, length=60)
    loss = model(inputs, targets)
    loss.backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    compiled = torch.compile(model, dynamic=False)
    again = compiled(inputs, targets)
    again.backward()
    torch.testing.assert_close(again, loss)
    found = [p.grad for p in model.parameters() if p.grad is not None]
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
