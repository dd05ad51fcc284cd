"""Every preset is valid, can be planned, and costs what its comment says."""

import re
import tomllib

import pytest

from cli.plan import as_toml
from presets.loader import Preset, find_preset, list_presets, preset_tables
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.estimate import ASSUMED_GPU_MFU
from trainer_daemon.contract.hardware import bf16_peak_flops
from trainer_daemon.contract.scaling import training_plan
from trainer_daemon.contract.spec import build_spec

ALL = list_presets()
SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600}


@pytest.fixture(params=ALL, ids=lambda preset: preset.name)
def preset(request: pytest.FixtureRequest) -> Preset:
    made: Preset = request.param
    return made


def test_the_default_comes_first_and_depths_in_their_order() -> None:
    depths = ["d4", "d6", "d8", "d12", "d16", "d20", "d24", "d26", "d28", "d32"]
    assert [p.name for p in ALL] == ["stories", *depths]


def test_a_preset_is_valid_and_divides_on_the_machines_it_is_for(preset: Preset) -> None:
    spec = build_spec(preset_tables(preset.name))
    assert spec.preset == preset.name
    for world_size in (1,) if preset.name == "stories" else (1, 2, 4, 8):
        # d4's batch of 2^18 tokens is four portions of 32 rows, so eight ranks take fewer rows
        if world_size * spec.train.micro_batch_size * spec.model.sequence_len <= 2**18:
            training_plan(spec, spec.tokenizer.vocab_size, world_size)


def test_a_depth_is_named_by_itself(preset: Preset) -> None:
    if preset.name != "stories":
        spec = build_spec(preset_tables(preset.name))
        assert f"d{spec.model.depth}" == preset.name
        assert spec.train.micro_batch_size == (
            32 if spec.model.depth <= 18 else 16 if spec.model.depth <= 26 else 8
        )


def test_its_comment_says_what_it_costs(preset: Preset) -> None:
    comment = preset.opening_comment()
    spec = build_spec(preset_tables(preset.name))
    plan = training_plan(spec, spec.tokenizer.vocab_size, 1)
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
