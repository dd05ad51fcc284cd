"""The depth dial against the table that was read off the model it reproduces."""

from dataclasses import dataclass

import pytest

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.estimate import checkpoint_bytes
from trainer_daemon.contract.scaling import LearningRates, TrainingPlan, short_window, training_plan
from trainer_daemon.contract.spec import build_spec


@dataclass(frozen=True)
class Row:
    """One depth at ratio 12, T 2048, SSSL, V 32768, as printed: every figure is rounded to the digits it has."""

    depth: int
    width: int
    heads: int
    parameters: str
    scaling_parameters: str
    tokens: str
    batch_log2: int
    steps: int
    weight_decay: str
    flops_per_token: str
    total_flops: str
    checkpoint_gigabytes: str


TABLE = [
    Row(4, 256, 2, "36.7e6", "11.5e6", "0.138e9", 18, 528, "1.89", "8.02e7", "1.11e16", "0.28"),
    Row(8, 512, 4, "125.8e6", "41.9e6", "0.503e9", 18, 1920, "0.520", "2.96e8", "1.49e17", "0.9"),
    Row(12, 768, 6, "286.3e6", "110.1e6", "1.321e9", 19, 2520, "0.280", "7.60e8", "1.00e18", "2.0"),
    Row(16, 1024, 8, "536.9e6", "234.9e6", "2.819e9", 19, 5376, "0.131", "1.59e9", "4.47e18", "3.8"),
    Row(20, 1280, 10, "896.5e6", "435.2e6", "5.222e9", 20, 4980, "0.100", "2.89e9", "1.51e19", "6.4"),
    Row(24, 1536, 12, "1384e6", "729.8e6", "8.758e9", 20, 8352, "0.060", "4.78e9", "4.18e19", "10.0"),
    Row(26, 1664, 13, "1682e6", "918.4e6", "11.02e9", 20, 10510, "0.048", "5.99e9", "6.60e19", "12.2"),
    Row(28, 1792, 14, "2019e6", "1138e6", "13.65e9", 20, 13020, "0.038", "7.37e9", "1.01e20", "14.6"),
    Row(32, 2048, 16, "2819e6", "1678e6", "20.13e9", 21, 9600, "0.037", "1.08e10", "2.17e20", "20.5"),
]


def plan_of(depth: int, *overrides: str, world_size: int = 1) -> TrainingPlan:
    spec = build_spec({"model": {"depth": depth}, "train": {"micro_batch_size": 8}}, list(overrides))
    return training_plan(spec, 32768, world_size)


def test_a_step_can_be_taken_in_ever_smaller_portions_of_the_same_batch() -> None:
    spec = build_spec(
        {
            "model": {"depth": 2, "aspect_ratio": 16, "head_dim": 16, "sequence_len": 32},
            "train": {"micro_batch_size": "auto", "global_batch_tokens": 24 * 32, "num_iterations": 1},
        }
    )
    plan = training_plan(spec, 300, 2)
    assert (plan.micro_batch_size, plan.grad_accum_steps) == (12, 1)
    halvings = [(p.micro_batch_size, p.grad_accum_steps) for p in plan.halvings()]
    assert halvings == [(12, 1), (6, 2), (3, 4), (1, 12)]
    assert {p.global_batch_tokens for p in plan.halvings()} == {24 * 32}
    few = spec.model_copy(update={"eval": spec.eval.model_copy(update={"tokens": 64})})
    assert training_plan(few, 300, 2).micro_batch_size == 12  # below one share, but not below what may fit
    with pytest.raises(
        SpecError, match=r"768 is not a multiple of 160 \(5 ranks x 32 tokens|nearest: 640 or 800"
    ):
        training_plan(spec, 300, 5)


def agrees(value: float, printed: str) -> bool:
    """Within one unit of the last printed digit: the table's author rounded some figures up."""
    mantissa, _, exponent = printed.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(value - float(printed)) <= unit


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"d{row.depth}")
def test_a_depth_implies_the_tables_numbers(row: Row) -> None:
    plan = plan_of(row.depth)
    assert (plan.shape.n_embd, plan.shape.n_head) == (row.width, row.heads)
    assert plan.global_batch_tokens == 2**row.batch_log2
    assert plan.total_steps == row.steps
    assert agrees(plan.parameters.total, row.parameters)
    assert agrees(plan.parameters.scaling, row.scaling_parameters)
    assert agrees(12 * plan.parameters.scaling, row.tokens)
    assert agrees(plan.weight_decay, row.weight_decay)
    assert agrees(plan.flops_per_token, row.flops_per_token)
    assert agrees(plan.total_flops, row.total_flops)
    assert agrees(checkpoint_bytes(plan.shape, "bf16") / 1e9, row.checkpoint_gigabytes)


def test_total_tokens_are_whole_steps_within_one_batch_of_the_target() -> None:
    plan = plan_of(12)
    target = 12 * plan.parameters.scaling
    assert target - plan.global_batch_tokens < plan.total_tokens <= target


@pytest.mark.parametrize(("depth", "batch_log2"), [(2, 17), (6, 18), (10, 19), (18, 20), (30, 20)])
def test_the_batch_is_a_power_of_two_that_grows_with_the_model(depth: int, batch_log2: int) -> None:
    assert plan_of(depth).global_batch_tokens == 2**batch_log2


@pytest.mark.parametrize(
    ("context", "fraction", "window"),
    [
        (2048, 0.25, 512),
        (1024, 0.25, 256),
        (512, 0.25, 128),
        (640, 0.25, 256),
        (100, 0.25, 100),
        (2048, 0.5, 1024),
        (2048, 1.0, 2048),
        (2048, 0.01, 128),
    ],
)
def test_the_short_window_is_a_part_in_steps_of_128_and_never_longer_than_the_context(
    context: int, fraction: float, window: int
) -> None:
    assert short_window(context, fraction) == window


def test_the_pattern_is_tiled_and_the_last_layer_sees_everything() -> None:
    assert plan_of(6).shape.windows == (512, 512, 512, 2048, 512, 2048)
    assert plan_of(5, "model.window_pattern=S").shape.windows == (512, 512, 512, 512, 2048)


def test_every_second_layer_has_a_value_embedding_and_the_last_always() -> None:
    for depth in (1, 4, 5):
        shape = plan_of(depth).shape
        layers = [layer for layer in range(depth) if shape.has_value_embedding(layer)]
        assert layers == list(range((depth - 1) % 2, depth, 2))


def rates_of(depth: int, *overrides: str) -> LearningRates:
    rates = plan_of(depth, *overrides).learning_rates
    assert isinstance(rates, LearningRates)
    return rates


def test_at_the_anchor_every_rate_is_the_one_that_was_tuned() -> None:
    rates = rates_of(12)
    assert (rates.matrix, rates.embedding, rates.unembedding, rates.x0_lambda) == (0.02, 0.3, 0.008, 0.5)
    assert rates.value_embedding == rates.embedding / 2
    assert rates.resid_lambda == rates.x0_lambda / 100


def test_rates_follow_the_root_of_the_batch_and_tables_the_width_too() -> None:
    anchor, larger = (
        rates_of(12),
        rates_of(12, f"train.global_batch_tokens={2**21}"),
    )
    assert larger.matrix == pytest.approx(2 * anchor.matrix)
    assert larger.smear_backout == anchor.smear_backout == 0.2
    wide = rates_of(26)
    assert wide.unembedding == pytest.approx(0.008 * 2**0.5 * (768 / 1664) ** 0.5)


def test_the_first_horizon_given_wins() -> None:
    assert plan_of(4, "train.num_iterations=7", "train.target_flops=1e18").total_steps == 7
    by_flops = plan_of(4, "train.target_flops=1e15")
    assert by_flops.horizon == "target_flops"
    assert by_flops.total_flops == pytest.approx(1e15, rel=0.02)


@pytest.mark.parametrize(
    ("overrides", "world_size", "says"),
    [
        (
            ["train.global_batch_tokens=500000"],
            2,
            "500000 is not a multiple of 32768 (2 ranks x 8 rows x 2048 tokens)",
        ),
        (["train.global_batch_tokens=500000"], 2, "nearest: 491520 or 524288"),
        (["train.global_batch_tokens=100"], 1, "(1 rank x 2048 tokens); nearest: 2048"),
        ([], 3, "(3 ranks x 8 rows x 2048 tokens)"),
        (["model.n_kv_head=3"], 1, "3 does not divide 2 heads; possible: 1, 2"),
        (
            ["model.depth=1", "model.aspect_ratio=16", "model.head_dim=16"],
            1,
            "a width of 16, and the least is 24; 24 is enough",
        ),
        (["train.target_flops=1"], 1, "is less than one step"),
        (["train.target_param_data_ratio=0.001"], 1, "train.target_param_data_ratio: is less than one step"),
    ],
)
def test_what_cannot_be_split_is_refused_with_what_can(
    overrides: list[str], world_size: int, says: str
) -> None:
    with pytest.raises(SpecError) as e:
        plan_of(4, *overrides, world_size=world_size)
    assert says in str(e.value)


def test_ranks_and_accumulation_make_up_the_batch() -> None:
    for world_size in (1, 2, 8):
        plan = plan_of(12, world_size=world_size)
        assert plan.grad_accum_steps * world_size * 8 * 2048 == plan.global_batch_tokens


def test_padding_the_vocabulary_costs_table_rows() -> None:
    spec = build_spec({"model": {"depth": 4}, "train": {"num_iterations": 1, "global_batch_tokens": 65536}})
    plan = training_plan(spec, 300, 1)
    assert plan.shape.padded_vocab_size == 320
    assert plan.parameters.unembedding == 320 * plan.shape.n_embd


def test_a_rank_whose_share_is_smaller_than_the_micro_batch_takes_it_at_once() -> None:
    spec = build_spec({"model": {"depth": 4, "sequence_len": 256}, "train": {"global_batch_tokens": 8192}})
    plans = [training_plan(spec, 2048, world_size) for world_size in (1, 2, 4)]
    assert [(p.micro_batch_size, p.grad_accum_steps) for p in plans] == [(32, 1), (16, 1), (8, 1)]
    with pytest.raises(
        SpecError, match=r"not a multiple of 768 \(3 ranks x 256 tokens\); nearest: 7680 or 8448$"
    ):
        training_plan(spec, 2048, 3)
