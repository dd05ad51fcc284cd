"""What may change while a run trains, and what of it is remembered."""

import os
from pathlib import Path

import pytest

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import create_run, write_json
from trainer_daemon.contract.settings import (
    CHANGEABLE,
    CHANGEABLE_ON_RESUME,
    change_settings,
    changed_spec,
    check_against_checkpoint,
    present_spec,
    settings_on_resume,
)
from trainer_daemon.contract.spec import RunSpec, RuntimeSpec, build_spec, flat_values


def test_every_changeable_key_is_one_of_the_spec() -> None:
    tables = RunSpec().model_dump()
    assert [key for key in CHANGEABLE if key.split(".")[1] not in tables[key.split(".")[0]]] == []


def test_a_change_leaves_the_rest_of_the_spec_alone() -> None:
    changed = changed_spec(RunSpec(seed=3), "eval.every", 7)
    assert changed.eval.every == 7
    assert changed == RunSpec(seed=3, eval=RunSpec().eval.model_copy(update={"every": 7}))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("eval.ever", 7, 'did you mean "eval.every"'),
        ("model.depth", 7, "does not change while a run trains"),
        ("eval.every", 0, "eval.every"),
        ("eval.every", "often", "eval.every"),
        ("schedule.learning_rate_factor", float("nan"), "learning_rate_factor"),
        ("checkpoint.keep_last", 1, "keep_last"),
    ],
)
def test_what_cannot_change_or_cannot_be_is_refused(key: str, value: object, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        changed_spec(RunSpec(), key, value)


def test_what_was_changed_holds_for_whoever_reads_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    run, lock = create_run("a", RunSpec(seed=5))
    os.close(lock)
    assert present_spec(run) == RunSpec(seed=5)
    write_json(run.settings_file, {"eval.every": 7, "checkpoint.every": None})
    assert (present_spec(run).eval.every, present_spec(run).seed) == (7, 5)
    assert run.read_spec() == RunSpec(seed=5), "the spec itself is frozen"
    for damaged in (b"{", b"[]", b'{"model.depth": 3}'):
        run.settings_file.write_bytes(damaged)
        with pytest.raises(SpecError):
            present_spec(run)


def test_every_key_that_may_change_on_resume_is_one_of_the_spec() -> None:
    assert set(flat_values(RunSpec())) >= CHANGEABLE_ON_RESUME


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optim.matrix_lr=0.01", "optim.matrix_lr is 0.01, step-00000005 has 0.02"),
        ("model.depth=3", "model.depth is 3, step-00000005 has 20"),
        ("train.num_iterations=50", "train.num_iterations is 50, step-00000005 has None"),
        ("runtime.precision=fp32", "runtime.precision is 'fp32', step-00000005 has 'auto'"),
        ("eval.tokens=1000000", "eval.tokens is 1000000, step-00000005 has 41943040"),
        ("schedule.warmup_steps=1", "schedule.warmup_steps is 1, step-00000005 has 40"),
        ("seed=1", "seed is 1, step-00000005 has 42"),
    ],
)
def test_a_spec_that_differs_from_the_checkpoints_is_refused_with_both_values(
    tmp_path: Path, override: str, told: str
) -> None:
    checkpoint = tmp_path / "step-00000005"
    checkpoint.mkdir()
    check_against_checkpoint(RunSpec(), checkpoint)  # nothing to compare with
    (checkpoint / "spec.json").write_text(RunSpec().model_dump_json())
    may_change = [
        "eval.every=7",
        "tag=try-2",
        "runtime.nproc=3",
        "train.micro_batch_size=4",
        "sample.prompts=[]",
    ]
    check_against_checkpoint(build_spec({}, may_change), checkpoint)
    with pytest.raises(SpecError) as refused:
        check_against_checkpoint(build_spec({}, [*may_change, override]), checkpoint)
    assert told in str(refused.value)
    assert "eval.every is" not in str(refused.value)


def test_what_a_resume_changes_is_kept_beside_the_frozen_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    run, lock = create_run("a", RunSpec(tag="first"))
    changes = settings_on_resume(
        run, ["runtime.nproc=2", "tag=second", "eval.every=250", "eval.every_minutes=5"]
    )
    assert changes == {"runtime.nproc": 2, "tag": "second", "eval.every_minutes": 5.0}
    assert change_settings(run, changes) == {
        "runtime.nproc": "auto",
        "tag": "first",
        "eval.every_minutes": "off",
    }
    assert present_spec(run) == RunSpec(
        tag="second",
        runtime=RuntimeSpec(nproc=2),
        eval=RunSpec().eval.model_copy(update={"every_minutes": 5.0}),
    )
    assert run.read_spec() == RunSpec(tag="first")
    for change in (["optim.matrix_lr=1.0"], ["eval.every=0"], ["eval.ever=1"]):
        with pytest.raises(SpecError):
            settings_on_resume(run, change)
    with pytest.raises(SpecError, match=r"seed is 3, a has 42"):
        change_settings(run, {"seed": 3})
    assert settings_on_resume(run, []) == change_settings(run, {}) == {}
    os.close(lock)
