"""What may change while a run trains, and what of it is remembered."""

import os
from pathlib import Path

import pytest

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import create_run, write_json
from trainer_daemon.contract.settings import CHANGEABLE, changed_spec, present_spec
from trainer_daemon.contract.spec import RunSpec


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
