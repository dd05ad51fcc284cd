"""A value changed while the run trains: on all ranks from one step on, remembered, and told."""

import json
from pathlib import Path

import pytest

from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.contract.events import (
    CheckpointSaved,
    Command,
    CommandDone,
    Evaluated,
    SettingChanged,
    TrainStep,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def change(key: str, value: float | str) -> Command:
    return Command(key, "set", {"key": key, "value": value})


def test_intervals_and_the_learning_rate_change_at_a_step_boundary(home: Path, tmp_path: Path) -> None:
    asked = [
        change("schedule.learning_rate_factor", 0.5),
        change("eval.every", 4),
        change("checkpoint.every", 3),
    ]
    seen, plain = Recorder({6: asked}), Recorder()
    run_tiny(tiny_spec(), home, seen, tmp_path / "changed")
    run_tiny(tiny_spec(), home, plain, tmp_path / "plain")

    scales = {e.step: e.learning_rate_scale for e in seen.of(TrainStep)}
    plain_scales = {e.step: e.learning_rate_scale for e in plain.of(TrainStep)}
    assert scales == {step: plain_scales[step] * (0.5 if step > 6 else 1) for step in plain_scales}
    assert {s: seen.losses[s] == plain.losses[s] for s in (1, 6, 7, 8, 12)} == {
        1: True,
        6: True,
        7: True,  # the loss of step 7 is that of the weights before its update
        8: False,
        12: False,
    }
    assert [e.step for e in seen.of(Evaluated)] == [0, 6, 8, 12]
    assert [e.step for e in seen.of(CheckpointSaved)] == [5, 9, 12]
    assert [(e.step, e.key, e.value, e.before) for e in seen.of(SettingChanged)] == [
        (6, "schedule.learning_rate_factor", 0.5, 1.0),
        (6, "eval.every", 4, 6),
        (6, "checkpoint.every", 3, 5),
    ]
    assert all(e.ok for e in seen.of(CommandDone))
    remembered = json.loads((tmp_path / "changed" / "settings.json").read_text())
    assert remembered == {"schedule.learning_rate_factor": 0.5, "eval.every": 4, "checkpoint.every": 3}


def test_an_interval_can_be_turned_off_and_another_one_set_by_the_clock(home: Path, tmp_path: Path) -> None:
    seen = Recorder({6: [change("checkpoint.every", "off"), change("eval.every_minutes", 1e-9)]})
    run_tiny(tiny_spec(), home, seen, tmp_path)
    assert [e.step for e in seen.of(CheckpointSaved)] == [5, 12]
    assert [e.step for e in seen.of(Evaluated)] == [0, 6, 7, 8, 9, 10, 11, 12]


def test_a_change_that_cannot_be_remembered_is_not_made(home: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.json").mkdir()
    seen = Recorder({2: [change("eval.every", 1)]})
    finished, _ = run_tiny(tiny_spec(), home, seen, tmp_path)
    assert finished.reason == "completed"
    assert [(e.ok, "was not changed" in e.message) for e in seen.of(CommandDone)] == [(False, True)]
    assert [e.step for e in seen.of(Evaluated)] == [0, 6, 12]
