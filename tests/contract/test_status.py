import os
from pathlib import Path
from typing import get_args

import pytest

from trainer_daemon.contract.alerts import CAUSE_AND_FIX, alert
from trainer_daemon.contract.events import (
    AlertName,
    AttemptStarted,
    CoreScored,
    Event,
    Finished,
    PhaseChanged,
    RankExited,
    Resumed,
    StateChanged,
    from_fields,
)
from trainer_daemon.contract.journal import JournalWriter, Record, Stream
from trainer_daemon.contract.rundir import RunDir, create_run, hold_lock, write_json
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.contract.status import RunStatus, fold_journal, load_snapshot, observe


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run whose supervisor is gone."""
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    made, lock = create_run("a", RunSpec())
    os.close(lock)
    return made


def write(run: RunDir, stream: Stream, *events: Event) -> None:
    with JournalWriter(run.journal, stream, 1) as writer:
        for event in events:
            writer.append(event)


def step(number: int) -> Event:
    event = from_fields(
        "train_step",
        {
            "step": number, "loss_nats": 3.0, "grad_norm": 1.0, "learning_rate_scale": 0.5, "step_seconds": 2.0, "tokens": number,
            "tokens_per_second": 1.0, "mfu": None, "epoch": 0.1,
        },
    )  # fmt: skip
    assert event is not None
    return event


def started(attempt: int = 1) -> StateChanged:
    return StateChanged("starting", "started", 1, attempt)


def test_a_run_whose_locks_are_free_is_crashed_unless_it_ended(run: RunDir) -> None:
    write(run, "daemon", started())
    write(run, "train", PhaseChanged("running", 0), step(5))
    status = observe(run)
    assert (status.state, status.step) == ("crashed", 5)
    assert status.error is not None
    assert "llmctl resume a" in status.error["message"]
    assert status.eta_seconds is None

    write(run, "daemon", StateChanged("completed", "done", 1, 1))
    assert observe(run).state == "completed"
    assert observe(run).error is None


def test_a_run_with_a_supervisor_is_what_its_journal_says(run: RunDir) -> None:
    write(run, "daemon", started())
    lock = hold_lock(run.run_lock)
    assert observe(run).state == "starting"
    write(run, "train", PhaseChanged("running", 0), step(1), PhaseChanged("evaluating", 1))
    assert observe(run).state == "evaluating"
    os.close(lock)


def test_ranks_without_a_supervisor_train_on_and_the_loss_of_it_is_said(run: RunDir) -> None:
    write(run, "daemon", started())
    write(run, "train", PhaseChanged("running", 0))
    lock = hold_lock(run.ranks_lock, shared=True)
    status = observe(run)
    assert status.state == "running"
    assert status.error is not None
    assert status.error["kind"] == "supervisor_lost"
    os.close(lock)
    assert observe(run).state == "crashed"


def test_a_run_with_both_locks_held_shows_no_error(run: RunDir) -> None:
    write(run, "daemon", started())
    write(run, "train", PhaseChanged("running", 0))
    locks = [hold_lock(run.run_lock), hold_lock(run.ranks_lock, shared=True)]
    assert observe(run).state == "running"
    assert observe(run).error is None
    for lock in locks:
        os.close(lock)


def test_a_snapshot_plus_what_came_after_equals_the_whole_journal(run: RunDir) -> None:
    write(run, "daemon", started())
    write(run, "train", PhaseChanged("running", 0), step(1), step(2))
    half = fold_journal(run, load_snapshot(run))
    write_json(run.state_file, half.to_json())
    write(run, "train", step(3), step(4))
    from_snapshot = fold_journal(run, load_snapshot(run))
    run.state_file.unlink()
    assert fold_journal(run, load_snapshot(run)).to_json() == from_snapshot.to_json()
    assert from_snapshot.step == 4


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"name": "a", "cursors": {}, "unknown": 1}'])
def test_a_snapshot_that_cannot_be_read_costs_only_time(run: RunDir, damage: bytes) -> None:
    write(run, "daemon", started())
    write(run, "train", step(3))
    run.state_file.write_bytes(damage)
    assert observe(run).step == 3


def test_a_stop_that_was_asked_for_stays_visible_while_the_ranks_save(run: RunDir) -> None:
    write(run, "daemon", started(), StateChanged("stopping", "stopped on request", 1, 1))
    write(run, "train", PhaseChanged("saving", 3))
    lock = hold_lock(run.run_lock)
    assert observe(run).state == "stopping"
    os.close(lock)


def test_a_failure_names_its_cause_and_a_restart_clears_it(run: RunDir) -> None:
    write(run, "daemon", started(), RankExited(1, 1, None, "ValueError: bad", is_root_cause=True))
    lock = hold_lock(run.run_lock)
    status = observe(run)
    assert status.error == {"kind": "rank_exit", "message": "rank 1: ValueError: bad"}
    write(run, "daemon", started(attempt=2))
    assert observe(run).error is None
    write(run, "train", Finished("failed", 3, "the loss is not finite"))
    write(run, "daemon", StateChanged("failed", "the loss is not finite", 1, 2))
    assert observe(run).error == {"kind": "failed", "message": "the loss is not finite"}
    os.close(lock)


def test_only_the_supervisors_own_launches_after_a_failure_are_restarts() -> None:
    status = RunStatus("a")
    for event in (
        started(),
        StateChanged("stopped", "stopped on request", 1, 1),
        StateChanged("starting", "resumed", 2, 2),
        StateChanged("starting", "restart 1 of 3 in 5 s", 2, 2),
        StateChanged("starting", "restart 1 of 3 in 5 s", 2, 3),
    ):
        status.apply(Record("daemon", 1, 0.0, 0.0, 1, event.kind(), event))
    assert (status.attempt, status.restarts) == (3, 1)


def test_the_time_that_a_run_lay_stopped_is_not_training_time() -> None:
    """It once told a run of a minute that was resumed the next day as one of a day."""
    begin = AttemptStarted(1, 1, "cpu", "cpu", "fp32", 1, "2.11")
    day = 86_400.0
    status = RunStatus("a")
    told: list[tuple[float, Stream, Event]] = [
        (0.0, "daemon", started()),
        (5.0, "train", begin),
        (35.0, "train", step(1)),
        (36.0, "daemon", StateChanged("stopped", "stopped on request", 1, 1)),
        (day, "daemon", started(attempt=2)),
        (day + 5, "train", begin),
        (day + 15, "train", step(2)),
        (day + 16, "daemon", StateChanged("completed", "done", 1, 2)),
    ]
    for wall, stream, event in told:
        status.apply(Record(stream, 1, wall, wall, 1, event.kind(), event))
    assert status.training_seconds == 40


def test_the_last_word_of_a_long_run_is_folded_last(run: RunDir) -> None:
    """Streams were once merged batch by batch, and the end came before the steps of a later batch."""
    write(run, "daemon", started())
    plan = from_fields(
        "run_planned",
        {
            "total_steps": 9000, "total_tokens": 1, "global_batch_tokens": 1, "grad_accum_steps": 1, "vocab_size": 1,
            "parameters": 1, "scaling_parameters": 1, "flops_per_token": 1, "peak_flops": None, "peak_flops_source": "",
            "train_rows": 1, "held_out_rows": 1, "bits_per_byte_floor": None,
        },
    )  # fmt: skip
    assert plan is not None
    write(run, "train", plan, *map(step, range(1, 6001)))
    write(run, "daemon", StateChanged("stopped", "stopped on request", 1, 1))
    status = observe(run)
    assert (status.state, status.step, status.eta_seconds) == ("stopped", 6000, None)


def test_an_alert_is_shown_until_the_ranks_start_again(run: RunDir) -> None:
    write(run, "daemon", started())
    write(run, "train", alert("loss_spike", 7, "the loss jumped to 99 nats from a usual 3"))
    lock = hold_lock(run.run_lock)
    shown = observe(run).alert
    assert shown is not None
    assert (shown["name"], shown["step"]) == ("loss_spike", 7)
    for part in ("jumped to 99", "Likely cause", "What to do"):
        assert part in shown["message"]
    write(run, "daemon", started(attempt=2))
    assert observe(run).alert is None
    os.close(lock)


def test_every_alert_has_a_cause_and_a_fix() -> None:
    assert set(CAUSE_AND_FIX) == set(get_args(AlertName))
    assert all(cause and fix for cause, fix in CAUSE_AND_FIX.values())


def test_the_newest_answer_to_core_is_kept_and_goes_with_the_branch_that_gave_it(run: RunDir) -> None:
    write(run, "daemon", started())
    write(run, "train", step(5), CoreScored(5, None, 0.1, 3, ["copa"], 2.0))
    assert observe(run).core == {"step": 5, "core": None, "mean_centred": 0.1, "tasks": 3}
    write(run, "train", CoreScored(5, 0.25, 0.25, 22, [], 2.0))
    assert observe(run).core == {"step": 5, "core": 0.25, "mean_centred": 0.25, "tasks": 22}
    write(run, "train", Resumed(5, "step-00000005", None))
    assert observe(run).core is not None
    write(run, "train", Resumed(4, "step-00000004", None))
    assert observe(run).core is None
