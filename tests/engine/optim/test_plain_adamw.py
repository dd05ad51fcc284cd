"""The classic family's optimizer and schedule against torch's own and against what the original's formulas say."""

import math

import pytest
import torch

from tests.engine.models.test_classic import SHAPE
from trainer_daemon.contract.scaling import TrainingPlan, training_plan
from trainer_daemon.contract.spec import AdamWSpec, RunSpec, ScheduleSpec, build_spec
from trainer_daemon.engine.models.classic import ClassicGPT
from trainer_daemon.engine.optim.muon_adamw import build_optimizer
from trainer_daemon.engine.optim.schedule import learning_rate_scale
from trainer_daemon.engine.ranks import Ranks

PILE = ScheduleSpec(warmup_steps=2000, warmdown_ratio=0.96, warmdown="cosine", final_lr_frac=0.1)


def planned(*overrides: str) -> tuple[RunSpec, TrainingPlan]:
    spec = build_spec(
        {
            "model": {
                "family": "classic",
                "depth": 3,
                "aspect_ratio": 20,
                "head_dim": 10,
                "sequence_len": 139,
            },
            "train": {"num_iterations": 50, "micro_batch_size": 2, "global_batch_tokens": 278},
            "eval": {"tokens": 278},
        },
        list(overrides),
    )
    plan = training_plan(spec, SHAPE.vocab_size, 1)
    assert plan.shape == SHAPE
    return spec, plan


def test_steps_are_those_of_torchs_adamw_with_decay_on_what_has_two_dimensions() -> None:
    spec, plan = planned("adamw.learning_rate=0.01", "adamw.weight_decay=0.5", "adamw.betas=[0.7, 0.9]")
    ours, theirs = ClassicGPT(plan.shape), ClassicGPT(plan.shape)
    ours.init_weights(1)
    theirs.init_weights(1)
    optimizer = build_optimizer(ours, plan, spec.optimizer)
    decayed = [p for p in theirs.parameters() if p.dim() >= 2]
    assert {n for n, p in theirs.named_parameters() if p.dim() >= 2} >= {
        "wte.weight",
        "wpe.weight",
        "lm_head.weight",
    }
    reference = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.5},
            {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(0.7, 0.9),
        eps=1e-8,
    )
    draw = torch.Generator().manual_seed(2)
    for step in range(5):
        scale = 1 / (1 + step)
        for group in reference.param_groups:
            group["lr"] = 0.01 * scale
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = b.grad = torch.randn(a.shape, generator=draw)
        # Muon's momentum and decay have nothing to act on
        optimizer.step(learning_rate_scale=scale, muon_momentum=0.9, weight_decay_scale=0.0)
        reference.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=name)


def test_every_rank_updates_its_rows_and_all_of_what_is_small() -> None:
    _, plan = planned()
    parts = []
    for rank in range(2):
        model = ClassicGPT(plan.shape)
        model.init_weights(1)
        optimizer = build_optimizer(model, plan, AdamWSpec(), Ranks(rank, 2, torch.device("cpu")))
        parts.append({name: state.own.shape for name, state in optimizer._state().items()})
    rows = [part["adamw.wte.weight.mean"][0] for part in parts]
    assert rows == [64, 64]
    assert [part["adamw.blocks.0.attn.c_proj.bias.square"][0] for part in parts] == [60, 60]
    assert {name.split(".")[0] for name in parts[0]} == {"adamw"}


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 3e-4 / 2000),
        (1999, 3e-4),  # the warm-up's end
        (2000, 3e-4),
        (14_000, 3e-5 + 0.5 * (1 + math.cos(math.pi / 4)) * 2.7e-4),
        (26_000, 1.65e-4),  # the middle of the cosine
        (50_000, 3e-5),
    ],
)
def test_the_rate_warms_up_in_a_line_and_falls_along_half_a_cosine(step: int, rate: float) -> None:
    assert 3e-4 * learning_rate_scale(step, 50_000, PILE) == pytest.approx(rate, rel=1e-9)


def test_the_first_family_can_fall_along_a_cosine_too() -> None:
    spec = build_spec(
        {}, ["schedule.warmdown=cosine", "schedule.warmdown_ratio=0.5", "schedule.final_lr_frac=0"]
    )
    scale = [learning_rate_scale(step, 1000, spec.schedule) for step in (500, 750, 1000)]
    assert scale == pytest.approx([1, 0.5, 0])
