"""A spec is right or it is refused, with the key and what to change."""

import json
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.spec import (
    RunSpec,
    all_keys,
    build_spec,
    flat_values,
    load_toml,
    meaning_of,
    parse_override,
    spec_differences,
)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("model.dept", "model.depth"),
        ("train.micro_batch", "train.micro_batch_size"),
        ("optim.matrix_learning_rate", None),
        ("optim.martix_lr", "optim.matrix_lr"),
        ("modle.depth", "model"),
        ("sede", "seed"),
        ("checkpoint.keep", "checkpoint.keep_last"),
        ("depth", "model.depth"),  # without its section, or in another one
        ("model.num_iterations", "train.num_iterations"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key: str, nearest: str | None) -> None:
    with pytest.raises(SpecError) as e:
        build_spec({}, [f"{key}=1"])
    unknown = key.split(".", maxsplit=1)[0] if key.startswith("modle") else key
    assert f'unknown key "{unknown}"' in str(e.value)
    assert nearest is None or f'did you mean "{nearest}"' in str(e.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.depth=0", "model.depth"),
        ("model.depth=twelve", "model.depth"),
        ("model.depth=1e9", "model.depth"),
        ("model.depth=12.5", "model.depth"),
        ("model.head_dim=33", "model.head_dim"),
        ("model.window_pattern=''", "model.window_pattern"),
        ("model.window_pattern=SXL", "model.window_pattern"),
        ("schedule.warmdown_ratio=1.5", "schedule.warmdown_ratio"),
        ("optim.matrix_lr=-5", "optim.matrix_lr"),
        ("optim.matrix_lr=nan", "optim.matrix_lr"),
        ("optim.matrix_lr=inf", "optim.matrix_lr"),
        ("train.grad_clip_norm=0", "train.grad_clip_norm"),
        ("runtime.precision=fp4", "runtime.precision"),
        ("runtime.fp8_recipe=blockwise", "runtime.fp8_recipe"),
        ("runtime.compile=true", "runtime.compile"),
        ("runtime.activation_checkpointing=all", "runtime.activation_checkpointing"),
        ("optim.smear_backout_lr=0", "optim.smear_backout_lr"),
        ("optim.embedding_betas=[0.8, 1.0]", "optim.embedding_betas.1"),
        ("optim.x0_lambda_betas=[-0.1, 0.9]", "optim.x0_lambda_betas.0"),
        ("optim.unembedding_betas=[0.8]", "optim.unembedding_betas"),
        ("optim.unembedding_betas=0.8", "optim.unembedding_betas"),
        ("optim.adam_eps=0", "optim.adam_eps"),
        ("optim.muon_momentum=1", "optim.muon_momentum"),
        ("optim.muon_momentum_start=-0.1", "optim.muon_momentum_start"),
        ("optim.muon_momentum_end=nan", "optim.muon_momentum_end"),
        ("optim.muon_momentum_warmup_steps=-1", "optim.muon_momentum_warmup_steps"),
        ("optim.muon_beta2=1.0", "optim.muon_beta2"),
        ("schedule.warmup_steps=-1", "schedule.warmup_steps"),
        ("schedule.final_lr_frac=-0.05", "schedule.final_lr_frac"),
        ("checkpoint.keep_last=1", "checkpoint.keep_last"),
        ("runtime.nproc=0", "runtime.nproc"),
        ("runtime.nproc=some", "runtime.nproc"),
        ("runtime.device=tpu", "runtime.device"),
        ("runtime.attention=flash", "runtime.attention"),
        ('runtime={device="cpu", attention="flex"}', "runtime.attention: flex needs an NVIDIA GPU"),
        ("tokenizer.vocab_size=264", "tokenizer.vocab_size"),
        ("data.source=''", "data.source"),
        ("data.held_out=''", "data.held_out"),
        ("data.source={}", "data.source"),
        ("data.source={ web = -1 }", "data.source"),
        ("model=3", "model"),
        ("model.depth.x=3", '"depth" is a value, not a section'),
        ("sample.prompts=text", "sample.prompts"),
        ("seed=-1", "seed"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_key(override: str, says: str) -> None:
    tables: dict[str, Any] = {"model": {"depth": 4}}
    with pytest.raises(SpecError) as e:
        build_spec(tables, [override])
    assert says in str(e.value)
    assert "pydantic" not in str(e.value)


def test_a_kernel_that_cannot_keep_documents_apart_is_refused_with_the_mask() -> None:
    with pytest.raises(SpecError, match=r"fa3 does not know the documents that data\.document_mask"):
        build_spec({}, ["runtime.attention=fa3", "data.document_mask=true"])


def test_a_value_that_fits_no_branch_of_a_union_is_refused_once() -> None:
    """`eval.every=abc` was told twice, once for each thing that an interval may be."""
    with pytest.raises(SpecError) as e:
        build_spec({}, ["eval.every=abc"])
    assert str(e.value) == "eval.every: input should be a valid integer or 'off' (got 'abc')"


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SpecError) as e:
        build_spec({"model": {"depth": 0, "hea_dim": 4}, "seed": -1})
    assert all(key in str(e.value) for key in ("model.depth", 'unknown key "model.hea_dim"', "seed"))


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("train.num_iterations=20", ["train", "num_iterations"], 20),
        ("a.b = 1.5", ["a", "b"], 1.5),
        ("a=true", ["a"], True),
        ('a="quoted = sign"', ["a"], "quoted = sign"),
        ("data.source=my texts/*.txt", ["data", "source"], "my texts/*.txt"),
        ("a=x=y", ["a"], "x=y"),
        ("sample.prompts=['One', 'Two']", ["sample", "prompts"], ["One", "Two"]),
        ("a=none", ["a"], None),
        ("a=", ["a"], ""),
        ("a=1_000", ["a"], 1000),
    ],
)
def test_an_override_is_toml_or_a_bare_word(text: str, keys: list[str], value: object) -> None:
    assert parse_override(text) == (keys, value)


@pytest.mark.parametrize("text", ["", "seed", "=3", "a..b=3", ".a=3", "model.=3"])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="a value is set as KEY=VALUE"):
        parse_override(text)


def test_a_date_is_toml_and_no_value_of_ours() -> None:
    """A TOML date is no JSON, and once ended in a traceback."""
    with pytest.raises(SpecError, match="seed"):
        build_spec({"seed": date(2026, 1, 1)})


def test_the_last_override_wins_and_the_tables_stay_as_they_were() -> None:
    tables = {"model": {"depth": 4}}
    assert build_spec(tables, ["model.depth=6", "model.depth=8"]).model.depth == 8
    assert tables == {"model": {"depth": 4}}


def test_the_hash_is_of_the_meaning_and_not_of_the_writing() -> None:
    spec = build_spec({"model": {"depth": 4}, "seed": 7})
    again = build_spec({"seed": 7, "model": {"depth": 4, "head_dim": 128}})
    assert spec.canonical_json() == again.canonical_json()
    assert spec.content_hash() == again.content_hash()
    assert build_spec({"model": {"depth": 5}, "seed": 7}).content_hash() != spec.content_hash()


def test_the_hash_survives_the_way_through_a_file() -> None:
    spec = build_spec({"sample": {"prompts": ["数学", "a\nb"]}, "optim": {"matrix_lr": 0.1}})
    reread = RunSpec.model_validate_json(spec.model_dump_json(indent=2))
    assert reread == spec
    assert reread.content_hash() == spec.content_hash()
    assert build_spec(json.loads(spec.canonical_json())) == spec


def test_several_ranks_on_an_apple_gpu_are_refused_with_what_to_type() -> None:
    assert build_spec({"runtime": {"device": "mps", "nproc": 1}}).runtime.nproc == 1
    with pytest.raises(SpecError, match=r"runtime\.nproc: an Apple GPU .* --set runtime\.nproc=1"):
        build_spec({"runtime": {"device": "mps", "nproc": 2}})


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunSpec().seed = 3  # type: ignore[misc]  # the type checker knows it too


def test_every_field_says_what_it_means() -> None:
    for key in all_keys():
        assert len(meaning_of(key)) > 5, key


@pytest.mark.parametrize("content", [b"model = [", b"\xff\xfe", b"[model\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spec.toml").write_bytes(content)
    with pytest.raises(SpecError, match=r"spec\.toml"):
        load_toml(tmp_path / "spec.toml")


def test_a_spec_from_before_there_were_families_is_the_same_spec_with_the_same_hash() -> None:
    old = RunSpec().model_dump(mode="json")
    del old["model"]["family"], old["schedule"]["warmdown"], old["schedule"]["restart_every"]
    spec = build_spec(old)
    assert spec.model.family == "nanochat"
    assert spec == RunSpec()
    as_it_was = json.dumps(old, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert spec.content_hash() == sha256(as_it_was.encode()).hexdigest()[:16]
    for change in ("model.family=classic", "schedule.warmdown=cosine", "schedule.restart_every=2000"):
        assert build_spec({}, [change]).content_hash() != spec.content_hash()


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["model.family=classic", "optim.matrix_lr=0.1"], "optim.matrix_lr: not of model.family classic"),
        (["model.family=classic", "model.n_kv_head=2"], "model.n_kv_head: not of model.family classic"),
        (["model.family=classic", 'model.window_pattern="SL"'], "model.window_pattern: not of model"),
        (["model.family=classic", "schedule.weight_decay=linear"], "schedule.weight_decay: not of model"),
        (["adamw.learning_rate=0.1"], "adamw.learning_rate: not of model.family nanochat but of classic"),
        (["model.family=clasic"], "model.family: "),
        (["model.family=classic", "adamw.learning_rte=1"], 'unknown key "adamw.learning_rte".*learning_rate'),
    ],
)
def test_what_belongs_to_another_family_is_refused_by_name(overrides: list[str], refused: str) -> None:
    with pytest.raises(SpecError, match=refused):
        build_spec({}, overrides)


def test_a_spec_has_the_keys_of_its_family_and_no_others() -> None:
    nanochat, classic = RunSpec(), build_spec({}, ["model.family=classic"])
    assert "adamw.learning_rate" not in flat_values(nanochat)
    assert flat_values(classic)["adamw.learning_rate"] == 3e-4
    assert not [key for key in flat_values(classic) if key.startswith("optim.")]
    moe = flat_values(build_spec({}, ["model.family=moe"]))
    assert {"moe.experts", "muon.momentum", "adamw.eps"} <= {*moe}
    assert not [key for key in flat_values(classic) if key.startswith(("moe.", "muon."))]
    assert set(all_keys()) == {*flat_values(nanochat), *flat_values(classic), *moe}
    differences = spec_differences(nanochat, classic)
    assert differences["model.family"] == ["nanochat", "classic"]
    assert differences["optim.matrix_lr"] == [0.02, None]
