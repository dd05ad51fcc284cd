"""`plan` says everything before anything starts, and null where it cannot know."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from cli.plan import as_toml, source_name
from tests.cli.conftest import Llmctl
from trainer_daemon.contract.spec import build_spec

PROMISED = [
    "parameters",
    "scaling_parameters",
    "model",
    "global_batch_tokens",
    "micro_batch_size",
    "grad_accum_steps",
    "world_size",
    "total_steps",
    "total_tokens",
    "flops_per_token",
    "total_flops",
    "weight_decay_scaled",
    "learning_rates",
    "memory_per_rank_bytes",
    "checkpoint_bytes",
    "disk_needed_bytes",
    "data",
    "hardware",
    "estimated",
    "notes",
]
PROMISED_INSIDE = {
    "parameters": "total matrices embedding value_embedding unembedding scalars",
    "model": "n_layer n_embd n_head n_kv_head head_dim sequence_len vocab_size windows",
    "data": "tokens_available epochs",
    "hardware": "name peak_flops",
    "estimated": "tokens_per_second mfu seconds cost",
}


def test_plan_json_has_every_promised_field(llmctl: Llmctl) -> None:
    plan = llmctl("plan", "--preset", "d26", "--on", "8xH100", "--price", "3", "--json").json()
    assert set(PROMISED) <= set(plan)
    for name, inside in PROMISED_INSIDE.items():
        assert set(inside.split()) <= set(plan[name]), name
    assert sum(v for k, v in plan["parameters"].items() if k != "total") == plan["parameters"]["total"]


def test_of_a_mixture_it_says_how_much_a_token_meets(llmctl: Llmctl) -> None:
    on = ("--preset", "moe-1.6b", "--on", "8xH100")
    plan = llmctl("plan", *on, "--json").json()
    assert (plan["parameters"]["total"], plan["active_parameters"]) == (1_575_914_496, 766_675_968)
    assert sum(v for k, v in plan["parameters"].items() if k != "total") == plan["parameters"]["total"]
    shown = llmctl("plan", *on).out
    assert "1.58B, of which a token meets 767M" in shown
    assert "2 of 6 experts 2744 wide, and one for all" in shown
    assert "Muon 0.0015" in shown


def test_d26_on_eight_h100s_is_what_its_table_says(llmctl: Llmctl) -> None:
    plan = llmctl("plan", "--preset", "d26", "--on", "8xH100", "--price", "3", "--json").json()
    assert plan["model"]["n_embd"] == 1664
    assert plan["model"]["windows"] == [*([512, 512, 512, 2048] * 7)[:25], 2048]
    assert (plan["global_batch_tokens"], plan["total_steps"]) == (2**20, 10510)
    assert plan["grad_accum_steps"] * plan["micro_batch_size"] * 2048 * plan["world_size"] == 2**20
    assert plan["total_flops"] == pytest.approx(6.60e19, rel=0.001)
    assert plan["checkpoint_bytes"] == pytest.approx(12.15e9, rel=0.001)
    assert plan["hardware"] == {
        "name": "H100",
        "count": 8,
        "peak_flops": 989e12,
        "peak_flops_fp8": 1979e12,
        "memory_bytes": 80 << 30,
    }
    estimated = plan["estimated"]
    assert estimated["seconds"] == pytest.approx(plan["total_tokens"] / estimated["tokens_per_second"])
    assert estimated["cost"] == pytest.approx(8 * 3 * estimated["seconds"] / 3600)


def test_what_cannot_be_known_is_null_with_a_note(llmctl: Llmctl) -> None:
    plan = llmctl(
        "plan", "--on", "2xH1O0 80GB", "--price", "3", "--set", "train.micro_batch_size=8", "--json"
    ).json()
    assert plan["estimated"] == {"tokens_per_second": None, "mfu": None, "seconds": None, "cost": None}
    assert plan["hardware"] == {
        "name": "H1O0 80GB",
        "count": 2,
        "peak_flops": None,
        "peak_flops_fp8": None,
        "memory_bytes": 80 << 30,
    }
    assert (plan["data"]["tokens_available"], plan["data"]["epochs"]) == (None, None)
    told = "\n".join(plan["notes"])
    assert 'no peak FLOP/s is known for "H1O0 80GB"; did you mean "H100"' in told
    assert "tokenized" in told
    without_price = llmctl("plan", "--on", "H100", "--json").json()
    assert without_price["estimated"]["cost"] is None
    assert any("--price" in note for note in without_price["notes"])


def test_a_plan_for_people_fits_a_terminal(llmctl: Llmctl) -> None:
    shown = llmctl("plan", "--preset", "d26", "--on", "8xH100", "--price", "3")
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    for figure in (
        "26 layers x 1664 wide",
        "10,510 steps",
        "6.6e+19 FLOPs",
        "12.1GB",
        "8 x H100",
        "MFU 45.0%",
    ):
        assert figure in shown.out
    assert "assumption" in shown.err


def test_ranks_that_are_asked_for_outweigh_the_hardware(llmctl: Llmctl) -> None:
    plan = llmctl("plan", "--preset", "d12", "--on", "8xH100", "--nproc", "4", "--json").json()
    assert plan["world_size"] == 4
    more = llmctl("plan", "--preset", "d12", "--on", "2xH100", "--nproc", "4", "--json").json()
    assert any("there are 2" in note for note in more["notes"])


def test_dry_run_plans_and_starts_nothing(llmctl: Llmctl, home: Path) -> None:
    dry = llmctl("run", "--dry-run", "--json", "--set", "train.num_iterations=7")
    assert dry.code == 0
    assert dry.json()["total_steps"] == 7
    assert not (home / "runs").exists()


def test_a_spec_file_is_planned_like_a_preset(llmctl: Llmctl, tmp_path: Path) -> None:
    shown = llmctl("presets", "d12")
    (tmp_path / "mine.toml").write_text(shown.out)
    from_file = llmctl("plan", "--spec", str(tmp_path / "mine.toml"), "--on", "H100", "--json").json()
    from_preset = llmctl("plan", "--preset", "d12", "--on", "H100", "--json").json()
    assert from_file == from_preset


def test_presets_are_listed_with_what_they_are_for(llmctl: Llmctl) -> None:
    listed = llmctl("presets", "--json").json()
    assert {"name", "summary", "path"} == set(listed[0])
    assert listed[0]["name"] == "stories"
    for preset in listed:
        assert preset["summary"] in llmctl("presets").out
    assert llmctl("presets", "d12", "--json").json()["model"]["depth"] == 12


def test_a_plan_chooses_the_most_rows_that_the_named_memory_holds(llmctl: Llmctl) -> None:
    def planned(on: str, *overrides: str) -> dict[str, Any]:
        settings = [part for o in ("train.micro_batch_size=auto", *overrides) for part in ("--set", o)]
        return dict(llmctl("plan", "--preset", "d26", "--on", on, *settings, "--json").json())

    plans = {on: planned(on) for on in ("8xA100 40GB", "8xH100", "8xH200")}
    assert [p["micro_batch_size"] for p in plans.values()] == [8, 16, 32]
    for on, plan in plans.items():
        assert plan["grad_accum_steps"] * plan["micro_batch_size"] == 64, on
        assert plan["memory_per_rank_bytes"] < 0.9 * plan["hardware"]["memory_bytes"]
        assert any("tried out" in note for note in plan["notes"])

    lean = planned("8xH100", "runtime.activation_checkpointing=block")
    assert (lean["micro_batch_size"], lean["grad_accum_steps"]) == (64, 1)  # a rank's whole share

    unknown = planned("8xA100")  # comes with 40 and with 80
    assert (unknown["micro_batch_size"], unknown["memory_per_rank_bytes"]) == (None, None)
    assert any("8xA100 80GB" in note for note in unknown["notes"])


def test_a_plan_that_does_not_fit_says_so_and_what_to_try(llmctl: Llmctl) -> None:
    plan = llmctl("plan", "--preset", "d32", "--on", "8xRTX 4090", "--json").json()
    (note,) = [n for n in plan["notes"] if "more than the" in n]
    assert "activation_checkpointing=block or train.micro_batch_size=auto" in note


def test_a_mixture_is_planned_and_written_as_toml_that_means_the_same() -> None:
    spec = build_spec({}, ['data.source={ "my web/" = 0.75, stories = 0.25 }'])
    again = build_spec(tomllib.loads(as_toml(spec.model_dump(mode="json"))))
    assert again.data.source == {"my web/": 0.75, "stories": 0.25}
    assert again.content_hash() == spec.content_hash()
    assert source_name(spec.data.source) == "0.75 my web/ + 0.25 stories"


def test_a_plan_in_fp8_says_where_the_run_would_be_refused(llmctl: Llmctl) -> None:
    def notes(on: str) -> str:
        plan = llmctl(
            "plan", "--preset", "d26", "--on", on, "--set", "runtime.precision=fp8", "--json"
        ).json()
        assert plan["precision"] == "fp8"
        return "\n".join(plan["notes"])

    assert "A100 80GB does not multiply in fp8" in notes("8xA100 80GB")
    assert "refused" not in notes("8xH100")
