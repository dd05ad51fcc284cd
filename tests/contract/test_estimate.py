"""What a plan says it takes, against the model and the optimizer that are really built."""

import pytest
import torch
from torch import Tensor

from tests.engine.models.test_recompute import Allocations
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.estimate import (
    JOURNAL_BYTES_PER_STEP,
    ActivationCheckpointing,
    Precision,
    block_bytes,
    checkpoints_at_once,
    disk_needed_bytes,
    estimate_speed,
    evaluation_share,
    optimizer_bytes,
    parse_hardware,
    rank_memory,
    weight_bytes,
)
from trainer_daemon.contract.scaling import TrainingPlan, training_plan
from trainer_daemon.contract.spec import RunSpec, build_spec
from trainer_daemon.engine.models.families import new_model
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.optim.muon_adamw import build_optimizer
from trainer_daemon.engine.precision import COMPUTE_DTYPES
from trainer_daemon.engine.ranks import Ranks


def planned(*overrides: str) -> tuple[RunSpec, TrainingPlan]:
    spec = build_spec(
        {
            "model": {"depth": 3, "aspect_ratio": 32, "head_dim": 16, "sequence_len": 64},
            "train": {"num_iterations": 100, "micro_batch_size": 4, "global_batch_tokens": 1024},
        },
        list(overrides),
    )
    return spec, training_plan(spec, 500, 1)


def built(plan: TrainingPlan, precision: Precision) -> LanguageModel:
    model = new_model(plan.shape, compute_dtype=COMPUTE_DTYPES[precision])
    model.init_weights(0)
    return model


def size(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "shape",
    [
        "model.n_kv_head=none",
        "model.n_kv_head=2",
        "model.depth=1",
        "model.family=classic",
        "model.family=moe",
    ],
)
def test_weights_and_optimizer_state_are_exact(precision: Precision, shape: str) -> None:
    _, plan = planned(shape)
    model = built(plan, precision)
    assert weight_bytes(plan.shape, precision) == size(list(model.state_dict().values()))
    state = build_optimizer(model, plan).state_tensors()
    assert optimizer_bytes(plan.shape, precision) == size(list(state.values()))


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize("model", ["model.n_kv_head=2", "model.family=classic", "model.family=moe"])
def test_the_state_of_the_rank_that_has_most_is_exact(world_size: int, model: str) -> None:
    _, plan = planned(model)
    first = Ranks(0, world_size, torch.device("cpu"))
    states = build_optimizer(built(plan, "bf16"), plan, ranks=first)._state().values()
    assert optimizer_bytes(plan.shape, "bf16", world_size) == size([state.own for state in states])


@pytest.mark.parametrize("checkpointing", ["off", "selective", "block"])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.depth=6"],
        ["model.head_dim=32", "model.sequence_len=128"],
        ["model.family=classic"],
        ["model.family=classic", "model.depth=6", "model.sequence_len=128"],
        ["model.family=moe"],
        ["model.family=moe", "moe.experts_per_token=1", "moe.expert_ratio=4", "moe.latent_width=16"],
    ],
)
def test_activations_are_what_autograd_keeps(
    overrides: list[str], checkpointing: ActivationCheckpointing
) -> None:
    def kept_by(rows: int) -> int:
        _, plan = planned(*overrides)
        model = new_model(plan.shape, recompute=checkpointing)
        model.init_weights(0)
        idx = torch.randint(0, 500, (rows, plan.shape.sequence_len))
        allocations = Allocations()
        with allocations:
            loss = model(idx, idx)
        assert loss.requires_grad
        return allocations.held_bytes()

    _, four = planned(*overrides)
    _, eight = planned(*overrides, "train.micro_batch_size=8", "train.global_batch_tokens=4096")
    # differences, so that what does not depend on the rows, such as weights, drops out
    measured = kept_by(8) - kept_by(4)
    chunk = 3 * 4 * 500 * (min(512, 8 * four.shape.sequence_len) - min(512, 4 * four.shape.sequence_len))
    told = (
        rank_memory(eight, "fp32", on_cpu=True, checkpointing=checkpointing).activations
        - rank_memory(four, "fp32", on_cpu=True, checkpointing=checkpointing).activations
    )
    # the block that backward computes again is not there yet
    plain, kept = (block_bytes(four.shape, mode, 4) for mode in ("off", checkpointing))
    again = (plain - kept) * 4 * four.shape.sequence_len
    assert told - chunk - again == pytest.approx(measured, rel=0.1)


def test_memory_is_the_larger_of_activations_and_update_beside_what_stays() -> None:
    _, plan = planned()
    memory = rank_memory(plan, "fp32", on_cpu=True)
    assert memory.total == 2 * memory.weights + memory.optimizer + max(memory.activations, memory.update)


def test_disk_also_holds_the_checkpoints_that_are_kept_for_good() -> None:
    spec, plan = planned("checkpoint.every=10", "checkpoint.keep_every=25")
    assert plan.total_steps == 100
    assert checkpoints_at_once(spec, plan.total_steps) == 5 + 2  # of the steps 50 and 100


@pytest.mark.parametrize(
    ("every", "at_once"), [("none", 1), ("100", 1), ("50", 2), ("30", 4), ("10", 5), ("1", 5)]
)
def test_disk_holds_the_newest_the_best_and_the_one_being_written(every: str, at_once: int) -> None:
    spec, plan = planned(f"checkpoint.every={every}")
    assert checkpoints_at_once(spec, plan.total_steps) == at_once
    each = weight_bytes(plan.shape, "fp32") + optimizer_bytes(plan.shape, "fp32")
    assert disk_needed_bytes(spec, plan, "fp32") == at_once * each + JOURNAL_BYTES_PER_STEP * 100


@pytest.mark.parametrize(
    ("text", "name", "count", "peak"),
    [
        ("8xH100", "H100", 8, 989e12),
        ("H100", "H100", 1, 989e12),
        ("2 x RTX 4090", "RTX 4090", 2, 165.2e12),
        ("rtx4090", "rtx4090", 1, 165.2e12),
        ("4xRTX-6000-Ada", "RTX-6000-Ada", 4, 364.2e12),
        ("4xUnheardOf 24GB", "UnheardOf 24GB", 4, None),
        ("xeon 64 GiB", "xeon 64 GiB", 1, None),
    ],
)
def test_hardware_is_a_count_and_a_name(text: str, name: str, count: int, peak: float | None) -> None:
    hardware = parse_hardware(text)
    assert (hardware.name, hardware.count, hardware.peak_flops) == (name, count, peak)


@pytest.mark.parametrize("text", ["", "8x", "0xH100", "  "])
def test_hardware_without_a_count_or_a_name_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="COUNTxDEVICE"):
        parse_hardware(text)


def test_a_device_of_which_nothing_is_known_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match='no device is known as "H1000"; did you mean "H100"'):
        parse_hardware("8xH1000")


def test_time_and_cost_follow_from_the_peak_and_are_unknown_without_one() -> None:
    _, plan = planned()
    eight = parse_hardware("8xH100")
    speed = estimate_speed(plan, eight, 3.0)
    assert speed.seconds == pytest.approx(plan.total_flops / (0.45 * 989e12))
    assert speed.tokens_per_second == pytest.approx(plan.total_tokens / (speed.seconds or 0))
    assert speed.cost == pytest.approx((speed.seconds or 0) / 3600 * 8 * 3.0)  # one rank, eight rented
    assert estimate_speed(plan, eight, None).cost is None
    assert estimate_speed(plan, parse_hardware("UnheardOf 24GB"), 3.0).seconds is None
    again = estimate_speed(plan, eight, 3.0, "block")  # the forward pass, a third of the FLOPs, twice
    assert again.seconds == pytest.approx(4 / 3 * (speed.seconds or 0))
    assert again.mfu == pytest.approx(0.45 * 3 / 4)


def test_evaluations_cost_a_third_a_token() -> None:
    spec, plan = planned("eval.every=50", "eval.tokens=1024")
    assert evaluation_share(spec, plan) == pytest.approx(3 * 1024 / (3 * 100 * 1024))
