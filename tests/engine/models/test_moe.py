"""The moe family against its formulas, written out here in float64: every expert computes every token, and a mask says whose
answer counts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_daemon.contract.estimate import ActivationCheckpointing
from trainer_daemon.contract.scaling import ModelShape, count_parameters, model_shape
from trainer_daemon.contract.spec import ModelSpec, MoESpec
from trainer_daemon.engine.models import grouped
from trainer_daemon.engine.models.families import new_model
from trainer_daemon.engine.models.grouped import (
    GROUPED_KERNEL,
    from_experts,
    group_by_expert,
    grouped_product,
    keep_loop_from_compiler,
    kernel_product,
    loop_product,
    to_experts,
)
from trainer_daemon.engine.models.moe import MoEGPT, choose, routing_of
from trainer_daemon.engine.models.recompute import run_block

MOE = MoESpec(experts=5, experts_per_token=2, expert_ratio=0.7, latent_width=7, balance_weight=0.3)
SHAPE = model_shape(
    ModelSpec(family="moe", depth=3, aspect_ratio=8, head_dim=6, sequence_len=40), vocab_size=97, moe=MOE
)
WHOLE = model_shape(
    ModelSpec(family="moe", depth=24, aspect_ratio=42, head_dim=32, sequence_len=8192), vocab_size=50_257
)


def tokens(rows: int, length: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(7)
    text = torch.randint(0, SHAPE.vocab_size, (rows, length + 1), generator=draw)
    return text[:, :-1], text[:, 1:].clone()


def initialised(**options: object) -> MoEGPT:
    """With gains that are not 1, and routers that tell experts apart."""
    model = MoEGPT(SHAPE, **options)  # type: ignore[arg-type]  # handed on
    model.init_weights(3)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.2)
            elif "expand" not in name:
                parameter.mul_(10)
    return model


def plain(p: dict[str, Tensor], idx: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T) -> (B, T, V), (): logits and balance loss, from the formulas."""
    B, T = idx.shape
    H, D = SHAPE.n_head, SHAPE.head_dim

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"]

    def turned(x: Tensor) -> Tensor:
        """(B, T, D), by complex numbers."""
        angle = torch.outer(torch.arange(T), 10_000.0 ** -(torch.arange(0, D, 2) / D)).double()  # (T, D/2)
        pairs = torch.view_as_complex(x.reshape(B, T, D // 2, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).reshape(B, T, D)

    def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        g = x @ gate.T
        return (g * torch.sigmoid(g) * (x @ up.T)) @ down.T

    x = p["wte.weight"][idx]
    hidden = torch.arange(T)[None, :] > torch.arange(T)[:, None]
    balance = []
    for layer in range(SHAPE.n_layer):
        a, m = f"blocks.{layer}.attn", f"blocks.{layer}.moe"
        u = norm(x, f"blocks.{layer}.norm_1")
        q = u @ p[f"{a}.query.weight"].T
        k_latent, v_latent = u @ p[f"{a}.key_latent.weight"].T, u @ p[f"{a}.value_latent.weight"].T
        heads = []
        for h in range(H):
            qh = turned(q[..., h * D : (h + 1) * D])
            kh = turned(k_latent @ p[f"{a}.key_expand"][h])
            vh = v_latent @ p[f"{a}.value_expand"][h]
            score = (qh @ kh.mT / math.sqrt(D)).masked_fill(hidden, -math.inf)
            heads.append(score.softmax(-1) @ vh)
        x = x + torch.cat(heads, -1) @ p[f"{a}.c_proj.weight"].T
        u = norm(x, f"blocks.{layer}.norm_2")
        probability = (u @ p[f"{m}.router"].T).softmax(-1)  # (B, T, E)
        best = probability.argsort(-1, descending=True)[..., : MOE.experts_per_token]
        kept = torch.zeros_like(probability).scatter(-1, best, 1.0) * probability
        weight = kept / kept.sum(-1, keepdim=True)
        y = swiglu(u, *(p[f"{m}.shared.{name}.weight"] for name in ("gate", "up", "down")))
        for e in range(MOE.experts):
            y = y + weight[..., e : e + 1] * swiglu(
                u, *(p[f"{m}.{name}"][e] for name in ("gate", "up", "down"))
            )
        x = x + y
        load = torch.stack([(best[..., 0] == e).double().mean() for e in range(MOE.experts)])
        balance.append(MOE.experts * (probability.mean((0, 1)) * load).sum())
    return norm(x, "norm_f") @ p["lm_head.weight"].T, torch.stack(balance).mean()


def test_logits_loss_and_gradients_are_those_of_the_formulas_with_every_expert_computed() -> None:
    model = initialised()
    p = {name: t.detach().double().requires_grad_() for name, t in model.named_parameters()}
    inputs, targets = tokens(rows=3, length=40)
    targets[0, :5] = -1  # which counts for nothing
    expected, balance = plain(p, inputs)
    torch.testing.assert_close(model(inputs).double(), expected, atol=2e-4, rtol=1e-4)
    nats = F.cross_entropy(expected.flatten(0, 1), targets.flatten(), ignore_index=-1)
    loss = model(inputs, targets)
    assert float(loss.detach()) == pytest.approx(float(nats.detach()), rel=1e-5)  # without the balance loss
    loss.backward()
    (nats + MOE.balance_weight * balance).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert p[name].grad is not None
        torch.testing.assert_close(parameter.grad.double(), p[name].grad, atol=2e-5, rtol=2e-3, msg=name)
    use = model.take_expert_use()
    assert float(use[:, MOE.experts].mean()) == pytest.approx(float(balance.detach()), rel=1e-5)
    torch.testing.assert_close(use[:, : MOE.experts].sum(1), torch.ones(3))
    assert not model.take_expert_use().any()


def test_the_model_of_the_preset_has_exactly_its_parameters_and_half_of_them_are_active() -> None:
    model = new_model(WHOLE, device="meta")
    counted = count_parameters(WHOLE)
    assert sum(p.numel() for p in model.parameters()) == counted.total == 1_575_914_496
    assert counted.active == 766_675_968
    assert counted.scaling == counted.active - counted.embedding - counted.scalars
    assert isinstance(model, MoEGPT)
    parameters = dict(model.named_parameters())
    by_muon = sum(parameters[name].numel() for name in model.muon_names())
    assert by_muon == 1_469_792_256  # without the embedding, which the original gave to Muon
    assert not {"wte.weight", "lm_head.weight", "blocks.0.attn.key_expand"} & {*model.muon_names()}


def test_evaluation_and_a_sum_know_no_balance_loss() -> None:
    model = initialised()
    inputs, targets = tokens(rows=2, length=20)

    def gradient(**options: str) -> Tensor:
        model.zero_grad()
        model(inputs, targets, **options).backward()
        router = model.blocks[0].moe.router
        assert router.grad is not None
        return router.grad.clone()

    with_balance, of_the_sum = gradient(), gradient(loss_reduction="sum")
    model.eval()
    without = gradient()
    torch.testing.assert_close(of_the_sum / targets.numel(), without, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(with_balance, without, rtol=0.01)


def test_shares_are_of_choices_that_were_made_and_the_balance_is_of_what_the_router_would_have() -> None:
    probability = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4]])
    routing = routing_of(probability, choose(probability, 2)[1])
    assert routing.first_choice.tolist() == [1, 0, 0]
    assert routing.share.tolist() == [0.5, 0.25, 0.25]
    torch.testing.assert_close(routing.probability, torch.tensor([0.55, 0.2, 0.25]))
    assert float(routing.balance_loss()) == pytest.approx(3 * 0.55)
    entropies = [-sum(p * math.log(p) for p in row) for row in probability.tolist()]
    assert float(routing.entropy) == pytest.approx(sum(entropies) / 2)


def routings() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "any": torch.stack([torch.randperm(5, generator=draw)[:2] for _ in range(23)]),
        "one expert has no token": torch.stack([torch.randperm(4, generator=draw)[:2] for _ in range(23)]),
        "only the first and the last": torch.tensor([[4, 0]] * 23),
        "one choice": torch.randint(0, 5, (23, 1), generator=draw),
        "one token": torch.tensor([[3, 1]]),
    }


@pytest.mark.parametrize("routing", routings())
def test_what_is_sent_to_experts_is_what_each_would_have_computed_of_all(routing: str) -> None:
    chosen = routings()[routing]
    N, k = chosen.shape
    draw = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((N, 6), (5, 8, 6)))
    x.requires_grad_()
    weight.requires_grad_()
    groups = group_by_expert(chosen, 5)
    assert groups.ends.tolist() == [int((chosen <= e).sum()) for e in range(5)]
    found = from_experts(grouped_product(to_experts(x, groups), weight, groups), groups)
    every = torch.einsum("nc,eoc->neo", x, weight)
    expected = every[torch.arange(N)[:, None], chosen]
    assert found.shape == (N, k, 8)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, generator=draw, dtype=torch.float64)
    ours = torch.autograd.grad(found, (x, weight), upstream)
    theirs = torch.autograd.grad(expected, (x, weight), upstream)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(GROUPED_KERNEL is None, reason="this torch has no kernel for groups")
@pytest.mark.parametrize("routing", routings())
def test_the_kernel_for_all_groups_computes_what_the_loop_computes(routing: str) -> None:
    chosen = routings()[routing]
    draw = torch.Generator().manual_seed(2)
    groups = group_by_expert(chosen, 5)
    x = torch.randn((chosen.numel(), 16), generator=draw).bfloat16().requires_grad_()
    weight = torch.randn((5, 8, 16), generator=draw).bfloat16().requires_grad_()
    upstream = torch.randn((chosen.numel(), 8), generator=draw).bfloat16()
    results = []
    for product in (loop_product, kernel_product):
        found = product(x, weight, groups.ends)
        results.append((found, *torch.autograd.grad(found, (x, weight), upstream)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.02)


def test_an_expert_without_tokens_has_a_gradient_of_zeros_whatever_the_kernel_left_there() -> None:
    weight = torch.randn(3, 8, 8, requires_grad=True)
    used = torch.tensor([True, False, True])
    grouped._OfUsed.apply(weight, used).backward(torch.full((3, 8, 8), math.nan))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert weight.grad is not None
    assert not weight.grad[1].any()
    assert weight.grad[0].isnan().all()


def test_ties_and_certainty_still_choose_different_experts() -> None:
    probability = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    weight, chosen = choose(probability, 2)
    assert all(len({*row}) == 2 for row in chosen.tolist())
    assert weight.sum(1).tolist() == [1, 1]


@torch.no_grad()
def test_in_bf16_only_the_products_are() -> None:
    inputs, targets = tokens(rows=2, length=40)
    exact, rounded = initialised(), initialised(compute_dtype=torch.bfloat16)
    assert {p.dtype for p in rounded.parameters()} == {torch.float32}
    assert rounded.hidden_states(inputs).dtype == torch.bfloat16
    assert float(rounded(inputs, targets)) == pytest.approx(float(exact(inputs, targets)), rel=0.02)


@pytest.mark.parametrize("mode", ["block", "selective"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_computed_again_give_the_same_gradients_and_count_no_token_twice(
    mode: ActivationCheckpointing, dtype: torch.dtype
) -> None:
    inputs, targets = tokens(rows=2, length=40)
    kept, again = initialised(compute_dtype=dtype), initialised(compute_dtype=dtype, recompute=mode)
    for model in (kept, again):
        model(inputs, targets).backward()
    for a, b in zip(kept.parameters(), again.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)
    assert torch.equal(kept.take_expert_use(), again.take_expert_use())


def test_documents_that_are_kept_apart_do_not_see_each_other() -> None:
    model = initialised(document_start=0)
    inputs, _ = tokens(rows=1, length=40)
    inputs[inputs == 0] = 1
    inputs[0, 20] = 0
    other = inputs.clone()
    other[0, :20] = (inputs[0, :20] + 1) % 96 + 1
    # other groups: products of other sizes round otherwise
    torch.testing.assert_close(model(inputs)[0, 20:], model(other)[0, 20:], atol=1e-4, rtol=1e-4)
    assert (initialised()(inputs)[0, 20:] - initialised()(other)[0, 20:]).abs().max() > 0.01


def test_it_begins_as_the_original_begins() -> None:
    model, again = MoEGPT(SHAPE), MoEGPT(SHAPE)
    model.init_weights(5)
    again.init_weights(5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    for weight in (model.wte.weight, model.lm_head.weight, model.blocks[1].moe.gate):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    expander = model.blocks[0].attn.key_expand.detach()  # (H, R, D)
    bound = math.sqrt(6 / (7 * 6 + SHAPE.n_head * 6))
    assert 0.9 * bound < float(expander.abs().max()) <= bound
    assert bool((model.norm_f.weight == 1).all())


def test_a_block_keeps_its_routing_beside_its_output() -> None:
    model = initialised()
    x = torch.randn(1, 9, SHAPE.n_embd)
    out, routing = run_block("off", model.blocks[0], x, (model.cos[:9], model.sin[:9]), None)
    assert out.shape == x.shape
    assert float(routing.share.sum()) == pytest.approx(1)
    assert float(routing.entropy) <= math.log(MOE.experts) + 1e-5
    assert float(routing.balance_loss().detach()) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile's own deprecations
def test_compiled_it_is_the_same_function_whatever_the_routing() -> None:
    """The loop over groups is passed by; with other tokens nothing is compiled again."""
    keep_loop_from_compiler()
    model = initialised()
    compiled = torch.compile(model, dynamic=False)
    for shift in (0, 11):
        inputs, targets = tokens(rows=2, length=40)
        inputs = (inputs + shift) % SHAPE.vocab_size
        loss = model(inputs, targets)
        loss.backward()
        expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        again = compiled(inputs, targets)
        again.backward()
        torch.testing.assert_close(again, loss, atol=1e-4, rtol=1e-4)
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
        model.zero_grad()


def test_shapes_follow_the_section_and_are_multiples_of_eight() -> None:
    assert isinstance(WHOLE, ModelShape)
    assert WHOLE.mixture is not None
    assert (WHOLE.n_embd, WHOLE.n_head, WHOLE.padded_vocab_size) == (1024, 32, 50_257)
    assert (WHOLE.mixture.expert_width, WHOLE.mixture.latent_width) == (2744, 64)
