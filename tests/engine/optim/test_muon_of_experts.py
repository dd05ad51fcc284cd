"""The two optimizers of the moe family, and waves of the learning rate."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_moe import tiny_moe_spec
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.scaling import TwoRates, training_plan
from trainer_daemon.contract.spec import MuonAndAdamW, ScheduleSpec, build_spec
from trainer_daemon.engine.models.moe import MoEGPT
from trainer_daemon.engine.optim.muon import MuonStack
from trainer_daemon.engine.optim.muon_adamw import build_optimizer
from trainer_daemon.engine.optim.schedule import learning_rate_scale, muon_momentum
from trainer_daemon.engine.ranks import Ranks


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_experts_in_one_parameter_are_updated_as_if_each_had_its_own() -> None:
    experts, alone = drawn(3, 16, 8, seed=1), drawn(16, 8, seed=2)
    together = [nn.Parameter(experts.clone()), nn.Parameter(alone.clone())]
    apart = [nn.Parameter(m.clone()) for m in (*experts, alone)]
    stacks = [MuonStack(ps, beta2=None, working_dtype=torch.float32) for ps in (together, apart)]
    for seed in range(3):
        gradients = drawn(4, 16, 8, seed=10 + seed)
        together[0].grad, together[1].grad = gradients[:3].clone(), gradients[3].clone()
        for parameter, gradient in zip(apart, gradients, strict=True):
            parameter.grad = gradient.clone()
        for stack in stacks:
            with torch.no_grad():
                stack.step(0.1, 0.9, 0.01)
    assert torch.equal(torch.cat([together[0], together[1][None]]), torch.stack(list(apart)))


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_experts_wherever_the_cut_falls(world_size: int) -> None:
    """Each updates its matrices, also of a parameter that lies on both sides of a cut; together they do what one does."""
    experts, gradient = drawn(4, 6, 6, seed=1), drawn(4, 6, 6, seed=2)

    def updated(rank: int, ranks: int) -> Tensor:
        parameter = nn.Parameter(experts.clone())
        stack = MuonStack(
            [parameter],
            beta2=None,
            working_dtype=torch.float32,
            ranks=Ranks(rank, ranks, torch.device("cpu")),
        )
        parameter.grad = gradient.clone()
        with torch.no_grad():
            stack.step(0.1, 0.9, 0.0)
        return parameter.detach() - experts

    parts = [updated(rank, world_size) for rank in range(world_size)]
    torch.testing.assert_close(sum(parts), updated(0, 1), atol=1e-6, rtol=1e-5)
    assert all(sum(bool(part[e].any()) for part in parts) == 1 for e in range(4))


@pytest.mark.parametrize(("rows", "cols"), [(12, 12), (24, 6), (6, 24)])
def test_plain_muon_moves_a_matrix_along_the_nearest_orthogonal_one(rows: int, cols: int) -> None:
    """As torch.optim.Muon: every direction by the rate, a tall matrix by the root of its ratio more; no row is evened out."""
    weight = nn.Parameter(torch.zeros(rows, cols))
    stack = MuonStack([weight], beta2=None, working_dtype=torch.float32)
    weight.grad = drawn(rows, cols, seed=3)
    weight.grad[0] *= 10
    u, _, vh = torch.linalg.svd(weight.grad, full_matrices=False)
    with torch.no_grad():
        stack.step(0.1, 0.95, 0.0)
    expected = -0.1 * math.sqrt(max(1, rows / cols)) * u @ vh
    assert float((weight.detach() - expected).norm() / expected.norm()) < 0.1
    assert set(stack.state()) == {f"muon.{rows}x{cols}.momentum"}


def test_the_embedding_the_head_and_the_expanders_are_adamw_s_and_the_rest_of_the_matrices_muon_s() -> None:
    spec = tiny_moe_spec()
    plan = training_plan(spec, 300, 1)
    assert plan.learning_rates == TwoRates(muon=0.02, adamw=0.01)
    model = MoEGPT(plan.shape)
    model.init_weights(1)
    assert isinstance(spec.optimizer, MuonAndAdamW)
    names = build_optimizer(model, plan, spec.optimizer).state_tensors()
    by_adamw = {name.removeprefix("adamw.").removesuffix(".mean") for name in names if name.endswith(".mean")}
    expanders = {f"blocks.{i}.attn.{what}_expand" for i in (0, 1) for what in ("key", "value")}
    norms = {f"blocks.{i}.norm_{j}.weight" for i in (0, 1) for j in (1, 2)} | {"norm_f.weight"}
    assert by_adamw == {"wte.weight", "lm_head.weight", *expanders, *norms}
    assert by_adamw | {*model.muon_names()} == {name for name, _ in model.named_parameters()}
    assert names["muon.3x32.momentum"].shape == (2, 3, 32)
    assert names["muon.32x32.momentum"].shape == (
        2 * (2 + 3 * 4),
        32,
        32,
    )  # experts are as wide as the model here


def test_decay_and_epsilon_of_the_spec_reach_the_parameters_of_their_optimizer_alone() -> None:
    def moved(*overrides: str) -> tuple[dict[str, float], set[str]]:
        """(norm of each parameter after one step along the same gradients, which of them are Muon's)."""
        spec = tiny_moe_spec(*overrides)
        plan = training_plan(spec, 300, 1)
        model = MoEGPT(plan.shape)
        model.init_weights(1)
        optimizer = build_optimizer(model, plan, spec.optimizer)
        for seed, parameter in enumerate(model.parameters()):
            parameter.grad = drawn(*parameter.shape, seed=seed)
        optimizer.step(learning_rate_scale=1.0, muon_momentum=0.95, weight_decay_scale=1.0)
        return {n: float(p.detach().norm()) for n, p in model.named_parameters()}, {*model.muon_names()}

    usual, by_muon = moved()
    decayed, _ = moved("muon.weight_decay=5")
    assert {name for name in usual if decayed[name] != usual[name]} == by_muon
    assert all(decayed[name] < usual[name] for name in by_muon)
    held, _ = moved("adamw.eps=1.0")
    assert {name for name in usual if held[name] != usual[name]} == usual.keys() - by_muon


def test_the_rate_falls_along_half_a_cosine_and_begins_anew_as_torch_s_scheduler_has_it() -> None:
    schedule = ScheduleSpec(warmup_steps=0, restart_every=2000, final_lr_frac=0.5)
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, T_0=2000, eta_min=0.75e-3)
    rates = []
    for _ in range(4500):
        rates.append(theirs.param_groups[0]["lr"])
        theirs.step()
        scheduler.step()
    ours = [1.5e-3 * learning_rate_scale(step, 4500, schedule) for step in range(4500)]
    assert ours == pytest.approx(rates, rel=1e-9)
    assert ours[0] == ours[2000] == 1.5e-3
    assert ours[1000] == pytest.approx(1.125e-3)


def test_waves_begin_after_the_warm_up_and_momentum_knows_none() -> None:
    schedule = ScheduleSpec(warmup_steps=10, restart_every=4, final_lr_frac=0.0)
    scales = [learning_rate_scale(step, 18, schedule) for step in (9, 10, 12, 14)]
    assert scales == pytest.approx([1, 1, 0.5, 1])
    spec = tiny_moe_spec("muon.momentum=0.9")
    assert {muon_momentum(step, 12, spec.schedule, spec.optimizer) for step in range(12)} == {0.9}


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (
            ["model.family=moe", "optim.matrix_lr=0.1"],
            "optim.matrix_lr: not of model.family moe but of nanochat",
        ),
        (
            ["model.family=moe", "model.n_kv_head=2"],
            "model.n_kv_head: not of model.family moe but of nanochat",
        ),
        (["moe.experts=4"], "moe.experts: not of model.family nanochat but of moe"),
        (
            ["model.family=classic", "muon.momentum=0.9"],
            "muon.momentum: not of model.family classic but of moe",
        ),
        (["adamw.learning_rate=0.1"], "not of model.family nanochat but of classic and moe"),
        (["moe.experts=4", "model.n_kv_head=2", "model.family=classic"], "not of model.family classic; take"),
        (
            ["model.family=moe", "moe.experts_per_token=7"],
            "experts_per_token: 7 of 6 experts cannot be chosen",
        ),
        (["model.family=moe", "moe.expert=4"], 'unknown key "moe.expert".*moe.experts'),
        (["schedule.restart_every=0"], "schedule.restart_every: "),
        (
            ["schedule.restart_every=9", "schedule.warmdown=cosine"],
            "schedule.warmdown: there is no one warm-down",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(overrides: list[str], refused: str) -> None:
    with pytest.raises(SpecError, match=refused):
        build_spec({}, overrides)


def test_a_spec_with_waves_is_read_back_from_what_it_wrote() -> None:
    spec = tiny_moe_spec()
    again = build_spec(spec.model_dump(mode="json"))
    assert again == spec
    assert (
        again.content_hash()
        == spec.content_hash()
        != tiny_moe_spec("schedule.restart_every=9").content_hash()
    )
