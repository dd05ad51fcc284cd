"""Every preset is valid, can be planned, and costs what its comment says."""

import re
import tomllib
from pathlib import Path

import pytest

from cli.plan import as_toml, planned_vocab_size
from presets.loader import Preset, find_preset, list_presets, preset_tables
from tests.tiny import Recorder, run_tiny
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.estimate import ASSUMED_GPU_MFU, checkpoint_bytes, rank_memory
from trainer_daemon.contract.hardware import bf16_peak_flops
from trainer_daemon.contract.scaling import Mixture, OneRate, TwoRates, training_plan
from trainer_daemon.contract.spec import build_spec, spec_differences
from trainer_daemon.engine.optim.schedule import learning_rate_scale

ALL = list_presets()
SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One corpus for the whole module."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(params=ALL, ids=lambda preset: preset.name)
def preset(request: pytest.FixtureRequest) -> Preset:
    made: Preset = request.param
    return made


def test_the_default_comes_first_and_depths_in_their_order() -> None:
    depths = ["d4", "d6", "d8", "d12", "d16", "d20", "d24", "d26", "d28", "d32"]
    assert [p.name for p in ALL] == [
        "stories",
        *depths,
        "moe-1.6b",
        "pile-406m",
        "d26-feb2026",
        "tinystories",
    ]


def test_a_preset_is_valid_and_divides_on_the_machines_it_is_for(preset: Preset) -> None:
    spec = build_spec(preset_tables(preset.name))
    assert spec.preset == preset.name
    for world_size in (1,) if "stories" in preset.name else (1, 2, 4, 8):
        # d4's batch of 2^18 tokens is four portions of 32 rows, so eight ranks take fewer rows
        assert spec.train.micro_batch_size != "auto"
        if world_size * spec.train.micro_batch_size * spec.model.sequence_len <= 2**18:
            training_plan(spec, spec.tokenizer.vocab_size, world_size)


def test_a_depth_is_named_by_itself(preset: Preset) -> None:
    if "stories" not in preset.name and preset.name not in ("moe-1.6b", "pile-406m"):
        spec = build_spec(preset_tables(preset.name))
        assert f"d{spec.model.depth}" == preset.name.removesuffix("-feb2026")
        assert spec.train.micro_batch_size == (
            32 if spec.model.depth <= 18 else 16 if spec.model.depth <= 26 else 8
        )


def test_its_comment_says_what_it_costs(preset: Preset) -> None:
    comment = preset.opening_comment()
    spec = build_spec(preset_tables(preset.name))
    plan = training_plan(spec, planned_vocab_size(spec), 1)
    cost = re.search(r"Costs ([\d.e+]+) FLOPs over ([\d.e+]+) tokens", comment)
    assert cost, comment
    assert float(cost[1]) == pytest.approx(plan.total_flops, rel=0.03)
    assert float(cost[2]) == pytest.approx(plan.total_tokens, rel=0.03)
    hours = re.search(r"([\d.]+) (seconds|minutes|hours) of one H100 at 45% MFU, an assumption", comment)
    if preset.name != "stories":
        assert hours, comment
        peak = bf16_peak_flops("H100") or 0
        told = float(hours[1]) * SECONDS[hours[2]]
        assert told == pytest.approx(plan.total_flops / (ASSUMED_GPU_MFU * peak), rel=0.03)
    assert "val_bpb" in comment


def test_the_default_needs_neither_download_nor_gpu() -> None:
    spec = build_spec(preset_tables("stories"))
    assert spec.data.source == "stories"


def test_what_is_shown_of_a_preset_is_a_spec_that_means_the_same(preset: Preset) -> None:
    spec = build_spec(preset_tables(preset.name))
    shown = as_toml(spec.model_dump(mode="json"))
    assert build_spec(tomllib.loads(shown)).content_hash() == spec.content_hash()


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match='unknown preset "storys"; did you mean "stories"'):
        find_preset("storys")
    with pytest.raises(SpecError, match="there are: stories, d4"):
        preset_tables("../stories")


def test_the_older_recipe_differs_from_the_newer_in_what_was_tuned_since_and_nothing_else() -> None:
    newer, older = (build_spec(preset_tables(name)) for name in ("d26", "d26-feb2026"))
    differences = {key: old for key, (_, old) in spec_differences(newer, older).items()}
    assert differences == {
        "preset": "d26-feb2026",
        "model.short_window_fraction": 0.5,
        "data.source": "fineweb-edu",
        "optim.unembedding_lr": 0.004,
        "optim.weight_decay": 0.2,
        # one pair for tables and head; the lambdas keep theirs
        **{f"optim.{group}_betas": [0.8, 0.95] for group in ("embedding", "value_embedding", "unembedding")},
        "schedule.warmup_steps": 0,
        "schedule.warmdown_ratio": 0.5,
        "schedule.final_lr_frac": 0.0,
        "schedule.weight_decay": "linear",
        "train.target_param_data_ratio": 10.5,
        "eval.tokens": 40 * 524_288,
    }
    plan = training_plan(older, older.tokenizer.vocab_size, 8)
    assert set(plan.shape.windows) == {1024, 2048}


def test_the_model_of_the_pile_is_the_original_s() -> None:
    spec = build_spec(preset_tables("pile-406m"))
    two = training_plan(spec, planned_vocab_size(spec), 2)
    assert two.parameters.total == 406_359_168
    assert (two.shape.n_layer, two.shape.n_embd, two.shape.n_head, two.shape.head_dim) == (24, 1024, 16, 64)
    assert (two.micro_batch_size, two.grad_accum_steps, two.total_steps) == (8, 12, 50_000)
    assert (two.learning_rates, two.weight_decay) == (OneRate(3e-4), 0.1)
    rates = [
        3e-4 * learning_rate_scale(step, two.total_steps, spec.schedule) for step in (1999, 26_000, 50_000)
    ]
    assert rates == pytest.approx([3e-4, 1.65e-4, 3e-5])
    memory = rank_memory(two, "bf16", on_cpu=False)
    assert memory.weights == memory.gradients == 4 * 406_359_168
    assert memory.optimizer == pytest.approx(4 * 406_359_168, rel=0.001)  # two moments, of half of it


def test_the_mixture_is_the_original_s_but_for_the_embedding_that_muon_had() -> None:
    spec = build_spec(preset_tables("moe-1.6b"))
    eight = training_plan(spec, planned_vocab_size(spec), 8)
    assert (eight.parameters.total, eight.parameters.active) == (1_575_914_496, 766_675_968)
    assert (eight.shape.n_layer, eight.shape.n_embd, eight.shape.n_head, eight.shape.head_dim) == (
        24,
        1024,
        32,
        32,
    )
    assert eight.shape.mixture == Mixture(6, 2, 2744, 64, 0.01)
    assert (eight.micro_batch_size, eight.grad_accum_steps, eight.global_batch_tokens) == (2, 1, 131_072)
    assert (eight.learning_rates, eight.weight_decay) == (TwoRates(1.5e-3, 3e-4), 0)
    assert (spec.adamw.weight_decay, spec.adamw.betas, spec.train.grad_clip_norm) == (
        0.01,
        (0.9, 0.999),
        None,
    )
    scales = [
        learning_rate_scale(step, eight.total_steps, spec.schedule) for step in (0, 1000, 1999, 2000, 59_999)
    ]
    assert scales == pytest.approx([1, 0.75, 0.5, 1, 0.5], abs=1e-5)
    assert spec.eval.core_tasks == ("hellaswag_zeroshot",)
    # FLOPs of what a token meets: two routed experts and the shared one of seven
    seven_experts = 24 * 7 * 3 * 1024 * 2744
    attention = 24 * 12 * 1024 * 8192
    dense = 6 * (eight.parameters.matrices + eight.parameters.unembedding) + attention
    assert dense - eight.flops_per_token == 6 * seven_experts * 4 // 7
    alone = rank_memory(eight.in_portions_of(1), "bf16", on_cpu=False)
    assert alone.weights == alone.gradients == 4 * 1_575_914_496
    assert checkpoint_bytes(eight.shape, "bf16") == 4 * (1_575_914_496 + 1_469_792_256 + 2 * 106_122_240)


@pytest.mark.parametrize(
    "name",
    ["stories", "d4", "moe-1.6b", "pile-406m", pytest.param("d6", marks=pytest.mark.slow), "d26-feb2026"],
)
def test_a_preset_trains_some_steps_on_a_text_and_a_batch_that_a_test_can_pay_for(
    name: str, home: Path, tmp_path: Path
) -> None:
    """Depth, shapes, windows, rates and schedules are the preset's own; the largest are trained two layers deep."""
    small = [
        *("data.source=stories", "data.stories=300", "tokenizer.vocab_size=300", "model.sequence_len=32"),
        *("train.num_iterations=2", "train.global_batch_tokens=128", "train.micro_batch_size=2"),
        *(
            "eval.every=off",
            "eval.tokens=256",
            "sample.every=off",
            "runtime.device=cpu",
            "runtime.precision=fp32",
        ),
        *(("model.depth=2", "model.aspect_ratio=64") if name.startswith("d26") else ()),
        *(("model.depth=2", "tokenizer.name=trained") if name in ("moe-1.6b", "pile-406m") else ()),
        *(("model.aspect_ratio=64", "eval.core_every=off") if name == "moe-1.6b" else ()),
    ]
    seen = Recorder()
    finished, _ = run_tiny(build_spec(preset_tables(name), small), home, seen, tmp_path)
    assert finished.reason == "completed"
    first, second = (seen.losses[step] for step in (1, 2))
    assert first is not None
    assert second is not None
    assert second < first + 0.5
