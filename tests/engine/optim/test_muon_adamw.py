"""The optimizer against its formulas, one matrix at a time in float64."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.engine.optim.small import new_model, rates_of, set_gradients, small_plan, take_steps
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.spec import OptimSpec
from trainer_daemon.engine.optim.muon import MuonStack
from trainer_daemon.engine.optim.muon_adamw import build_optimizer

POLAR = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def plain_muon(
    w: Tensor, m: Tensor, s: Tensor, g: Tensor, lr: float, mu: float, wd: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One update of one matrix; s has one entry for each index of the longer side."""
    rows, cols = w.shape
    m = m + (1 - mu) * (g - m)
    x = (1 - mu) * g + mu * m
    x = x * (x.norm() / math.sqrt(rows) / x.norm(dim=1, keepdim=True).clamp(min=1e-6))
    x = x / (1.01 * x.norm() + 1e-6)
    for a, b, c in POLAR:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x * math.sqrt(min(rows, cols)) / x.norm()
    norm, axis = x.norm(), 1 if rows >= cols else 0
    s = s + 0.1 * (x.square().mean(axis, keepdim=True) - s)
    x = x / s.clamp(min=1e-10).sqrt()
    x = x * norm / x.norm()
    lr = lr * math.sqrt(max(1, rows / cols))
    return w - lr * x - lr * wd * w * (x * w >= 0), m, s


def no_state(w: Tensor) -> tuple[Tensor, Tensor]:
    """Momentum and second moment of a matrix that was never updated."""
    rows, cols = w.shape
    longer = (rows, 1) if rows >= cols else (1, cols)
    return torch.zeros(rows, cols, dtype=torch.float64), torch.zeros(longer, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rows", "cols"), [(16, 16), (7, 7), (13, 5), (5, 13), (64, 16), (16, 64), (1, 12), (9, 1), (1, 1)]
)
@pytest.mark.parametrize("working_dtype", [torch.float32, torch.bfloat16])
def test_a_stack_of_any_shape_is_updated_as_the_formulas_say(
    rows: int, cols: int, working_dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(rows * 100 + cols)
    matrices = [torch.nn.Parameter(torch.randn(rows, cols, generator=draw)) for _ in range(3)]
    start = [w.detach().clone() for w in matrices]
    expected = [(w.detach().double(), *no_state(w)) for w in matrices]
    stack = MuonStack(matrices, beta2=0.9, working_dtype=working_dtype)
    for step in range(6):
        rate, momentum, decay = 0.02 * (step + 1), 0.85 + 0.02 * step, 0.5 / (step + 1)
        for i, w in enumerate(matrices):
            w.grad = torch.randn(rows, cols, generator=draw)
            expected[i] = plain_muon(*expected[i], w.grad.double(), rate, momentum, decay)
        with torch.no_grad():
            stack.step(rate, momentum, decay)
    tolerance = 1e-4 if working_dtype == torch.float32 else 8e-2
    for before, w, (wanted, _, _) in zip(start, matrices, expected, strict=True):
        assert (w.detach() - wanted).norm() < tolerance * (wanted - before).norm()


def test_every_matrix_of_the_blocks_is_updated_by_muon_at_the_plan_s_rate() -> None:
    plan = small_plan()
    model = new_model(plan)
    optimizer = build_optimizer(model, plan)
    matrices = {name: p for name, p in model.named_parameters() if name.startswith("blocks.")}
    expected = {name: (p.detach().double(), *no_state(p)) for name, p in matrices.items()}
    for step in range(3):
        set_gradients(model, seed=step)
        optimizer.step(learning_rate_scale=0.5, muon_momentum=0.9, weight_decay_scale=0.25)
        for name, parameter in matrices.items():
            assert parameter.grad is not None
            expected[name] = plain_muon(
                *expected[name],
                parameter.grad.double(),
                0.5 * rates_of(plan).matrix,
                0.9,
                0.25 * plan.weight_decay,
            )
            torch.testing.assert_close(parameter.detach().double(), expected[name][0], atol=2e-5, rtol=1e-4)


def test_adamw_updates_every_other_parameter_with_its_own_rule() -> None:
    plan = small_plan()
    model = new_model(plan)
    optimizer = build_optimizer(model, plan)
    rates = rates_of(plan)
    rules = {
        "lm_head.weight": (rates.unembedding, 0.8, 0.96, 0.01),
        "wte.weight": (rates.embedding, 0.8, 0.995, 0.001),
        "value_embeds.0.weight": (rates.value_embedding, 0.8, 0.995, 0.01),
        "value_embeds.2.weight": (rates.value_embedding, 0.8, 0.995, 0.01),
        "value_embeds.4.weight": (rates.value_embedding, 0.8, 0.995, 0.01),
        "resid_lambdas": (rates.resid_lambda, 0.8, 0.95, 0.05),
        "x0_lambdas": (rates.x0_lambda, 0.96, 0.95, 0.0),
        "smear_gate.weight": (0.2, 0.8, 0.95, 0.0),
        "smear_lambda": (0.2, 0.8, 0.95, 0.0),
        "backout_lambda": (0.2, 0.8, 0.95, 0.0),
    }
    parameters = {n: p for n, p in model.named_parameters() if not n.startswith("blocks.")}
    assert parameters.keys() == rules.keys()
    w = {name: p.detach().double() for name, p in parameters.items()}
    mean = {name: torch.zeros_like(x) for name, x in w.items()}
    square = {name: torch.zeros_like(x) for name, x in w.items()}
    for t in range(1, 4):
        set_gradients(model, seed=t)
        optimizer.step(learning_rate_scale=0.5, muon_momentum=0.9, weight_decay_scale=0.0)
        for name, (rate, beta1, beta2, decay) in rules.items():
            gradient, lr = parameters[name].grad, 0.5 * rate
            assert gradient is not None
            g = gradient.double()
            w[name] = w[name] * (1 - lr * decay)
            mean[name] = beta1 * mean[name] + (1 - beta1) * g
            square[name] = beta2 * square[name] + (1 - beta2) * g * g
            w[name] -= lr * mean[name] / (1 - beta1**t) / ((square[name] / (1 - beta2**t)).sqrt() + 1e-10)
            torch.testing.assert_close(parameters[name].detach().double(), w[name], atol=1e-6, rtol=1e-5)


def test_a_matrix_without_gradient_stays_what_it_is() -> None:
    # the zero output projections of a new model make every gradient behind them exactly zero
    plan = small_plan()
    model = new_model(plan)
    optimizer = build_optimizer(model, plan)
    idx = torch.randint(0, 90, (2, 65), generator=torch.Generator().manual_seed(0))
    before = model.blocks[0].attn.c_q.weight.detach().clone()
    model(idx[:, :-1], idx[:, 1:]).backward()
    optimizer.step(learning_rate_scale=1.0, muon_momentum=0.85, weight_decay_scale=0.0)
    assert torch.equal(model.blocks[0].attn.c_q.weight, before)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
def test_a_reloaded_optimizer_goes_on_bit_for_bit(compute_dtype: torch.dtype, tmp_path: Path) -> None:
    plan = small_plan()
    model = new_model(plan, compute_dtype)
    optimizer = build_optimizer(model, plan)
    take_steps(model, optimizer, range(2))
    save_file(optimizer.state_tensors(), tmp_path / "optimizer.safetensors")
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    take_steps(model, optimizer, range(2, 4))

    resumed = new_model(plan, compute_dtype)
    resumed.load_state_dict(weights)
    again = build_optimizer(resumed, plan)
    again.load_state_tensors(load_file(tmp_path / "optimizer.safetensors"), steps_taken=2)
    take_steps(resumed, again, range(2, 4))
    assert again.steps_taken == optimizer.steps_taken == 4
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name
    for name, tensor in optimizer.state_tensors().items():
        assert torch.equal(tensor, again.state_tensors()[name]), name


def test_the_dials_reach_the_update() -> None:
    """A field that nothing reads would be a promise not kept."""

    def after_two_steps(optim: OptimSpec) -> dict[str, Tensor]:
        plan = small_plan()
        model = new_model(plan)
        take_steps(model, build_optimizer(model, plan, optim), range(2))
        return {name: p.detach().clone() for name, p in model.named_parameters()}

    usual = after_two_steps(OptimSpec())
    dials: dict[str, tuple[object, str]] = {
        "embedding_betas": ((0.7, 0.9), "wte.weight"),
        "value_embedding_betas": ((0.7, 0.9), "value_embeds.2.weight"),
        "unembedding_betas": ((0.7, 0.9), "lm_head.weight"),
        "resid_lambda_betas": ((0.7, 0.9), "resid_lambdas"),
        "x0_lambda_betas": ((0.7, 0.9), "x0_lambdas"),
        "smear_backout_betas": ((0.7, 0.9), "smear_gate.weight"),
        "adam_eps": (1e-3, "wte.weight"),
        "muon_beta2": (0.5, "blocks.1.mlp.c_fc.weight"),
    }
    for dial, (value, moved) in dials.items():
        changed = after_two_steps(OptimSpec.model_validate({dial: value}))
        differing = {name for name in usual if not torch.equal(usual[name], changed[name])}
        assert moved in differing, dial
        if dial != "adam_eps":
            assert differing <= {
                n for n in usual if n.split(".")[0] == moved.split(".")[0] or "smear" in moved
            }


def test_the_state_of_another_model_is_refused() -> None:
    plan = small_plan()
    optimizer = build_optimizer(new_model(plan), plan)
    state = dict(optimizer.state_tensors())
    state["adamw.wte.weight.mean"] = state["adamw.wte.weight.mean"][:5]
    with pytest.raises(SpecError, match=r"1 tensors differ .* first is adamw\.wte\.weight\.mean"):
        optimizer.load_state_tensors(state, steps_taken=1)


def test_training_lowers_the_loss() -> None:
    plan = small_plan()
    model = new_model(plan)
    optimizer = build_optimizer(model, plan)
    idx = torch.arange(65).repeat(4, 1)
    losses = []
    for _ in range(20):
        loss = model(idx[:, :-1], idx[:, 1:])
        loss.backward()
        losses.append(loss.item())
        # the dial's rates at a batch of 512 tokens are made for thousands of steps, not for twenty
        optimizer.step(learning_rate_scale=10.0, muon_momentum=0.85, weight_decay_scale=0.0)
        for parameter in model.parameters():
            parameter.grad = None
    assert losses[-1] < 0.5 * losses[0]
