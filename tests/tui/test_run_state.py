"""The fold of a run's records, without a terminal."""

import math
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer_daemon.contract.course import Steps, read_course
from trainer_daemon.contract.events import (
    Alert,
    AttentionChosen,
    CheckpointSaved,
    Command,
    CommandDone,
    Evaluated,
    Event,
    Notice,
    PrepareProgress,
    RankExited,
    Resumed,
    RunPlanned,
    SampleChunk,
    Sampled,
    StateChanged,
    TrainStep,
)
from trainer_daemon.contract.history import read_history
from trainer_daemon.contract.journal import JournalWriter, Record
from trainer_daemon.contract.status import RunStatus
from tui.figures import CHARTS, first_view
from tui.run_state import RunState
from tui.store import X_AXES

_seq = count(1)


def told(*events: Event, wall: float = 1000.0) -> list[Record]:
    return [Record("train", next(_seq), wall + at, 0.0, 1, e.kind(), e) for at, e in enumerate(events)]


def step(number: int, loss: float | None = 2.0) -> TrainStep:
    return TrainStep(number, loss, 0.5, 1.0, 0.25, number * 100, 400.0, None, 0.1)


def evaluated(number: int, bpb: float) -> Evaluated:
    return Evaluated(number, bpb, bpb * 2, 5000, 1.0)


def saved(number: int) -> CheckpointSaved:
    return CheckpointSaved(number, f"step-{number}", 1_000_000, 2.0, 0.5)


def sampled(request_id: str | None, text: str = " a fox.") -> Sampled:
    return Sampled(10, "Once", text, 3, "length", 0.8, 50, 1, 0.2, request_id)


def curve(state: RunState, metric: str, axis: Any = "step") -> list[tuple[float, float]]:
    found = state.history.curve(metric, axis)
    return [] if found is None else list(zip(found.x.tolist(), found.y.tolist(), strict=True))


def test_steps_become_curves_and_the_newest_numbers() -> None:
    state = RunState("fox")
    changed = state.apply(told(step(1, 3.0), step(2, 2.5)))
    assert curve(state, "loss_nats") == [(1, 3.0), (2, 2.5)]
    assert curve(state, "grad_norm", "tokens") == [(100, 0.5), (200, 0.5)]
    assert curve(state, "loss_nats", "seconds") == [(0, 3.0), (1, 2.5)]
    assert (state.status.step, state.status.loss_nats) == (2, 2.5)
    assert changed == {"status", "curves"}


def test_what_is_unknown_is_a_gap_and_never_a_zero() -> None:
    state = RunState("fox")
    state.apply(told(step(1, 3.0), step(2, None)))
    assert math.isnan(curve(state, "loss_nats")[1][1])
    assert all(math.isnan(y) for _, y in curve(state, "mfu"))
    assert state.smooth_loss_nats == 3.0


def test_the_loss_beside_the_charts_is_the_one_that_its_chart_draws() -> None:
    """Of a run of 300 steps: smoothed over 50, it would tell where the loss was long before."""
    planned = RunPlanned(
        total_steps=300,
        total_tokens=300,
        global_batch_tokens=1,
        grad_accum_steps=1,
        vocab_size=300,
        parameters=1,
        scaling_parameters=1,
        flops_per_token=1,
        peak_flops=None,
        peak_flops_source="",
        train_rows=1,
        held_out_rows=1,
        bits_per_byte_floor=None,
    )
    state = RunState("fox")
    state.apply(told(planned, *(step(n, 8.0 - n / 50) for n in range(1, 301))))
    drawn = state.history.curve("loss_nats", "step", first_view(CHARTS[0], 300).smoothing)
    assert drawn is not None
    assert drawn.smooth is not None
    assert state.smooth_loss_nats == pytest.approx(drawn.smooth[-1])
    assert drawn.smooth[-1] < 2.2


def test_records_in_many_batches_fold_to_the_same_as_in_one() -> None:
    records = told(*(step(n, 4.0 - n / 50) for n in range(1, 101)), evaluated(100, 1.2), saved(100))
    whole, pieces = RunState("fox"), RunState("fox")
    whole.apply(records)
    for record in records:
        pieces.apply([record])
    assert curve(whole, "loss_nats") == curve(pieces, "loss_nats")
    assert whole.status == pieces.status
    assert whole.smooth_loss_nats == pytest.approx(pieces.smooth_loss_nats)


def test_a_resume_cuts_the_curve_and_keeps_the_branch_as_a_ghost() -> None:
    state = RunState("fox")
    state.apply(told(*(step(n) for n in range(1, 9)), Resumed(5, "step-5", None), step(6, 1.0), step(7, 1.0)))
    assert curve(state, "loss_nats") == [(1, 2), (2, 2), (3, 2), (4, 2), (5, 2), (6, 1), (7, 1)]
    assert [ghost.x.tolist() for ghost in state.history.ghosts("loss_nats")] == [[6, 7, 8]]
    assert state.restart_steps == [5]


def test_steps_taken_again_without_a_word_of_a_resume_cut_the_curve_too() -> None:
    state = RunState("fox")
    state.apply(told(step(1), step(2), step(3), step(2, 1.0)))
    assert curve(state, "loss_nats") == [(1, 2), (2, 1)]


def test_steps_in_bulk_fold_to_the_same_curves_ghosts_and_numbers_as_one_by_one(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, "train", 1) as train:
        for number in (*range(1, 300), *range(250, 400)):  # once without a word of a resume
            loss = None if number == 120 else 3.0 - number / 400
            train.append(replace(step(number, loss), was_skipped=number == 120))
        train.append(evaluated(399, 1.2))
        train.append(saved(399))
        train.append(Resumed(350, "step-350", None))
        for number in range(351, 420):
            train.append(step(number))
    one_by_one, in_bulk = RunState("fox"), RunState("fox")
    one_by_one.apply(read_history(tmp_path))
    items = list(read_course(tmp_path))
    assert any(isinstance(item, Steps) and len(item) > 100 for item in items)
    assert in_bulk.apply(items) == {"status", "curves", "checkpoints", "notes"}

    def seen(state: RunState) -> list[Any]:
        branches = [state.history.ghosts(metric, axis) for metric in ("loss_nats", "mfu") for axis in X_AXES]
        found = [state.history.curve(metric) for metric in state.history.metrics]
        every = [c for c in (*found, *(g for ghosts in branches for g in ghosts)) if c is not None]
        assert len(every) > 10
        return [(c.x.tolist(), np.nan_to_num(c.y, nan=-1.0).tolist()) for c in every]

    assert seen(in_bulk) == seen(one_by_one)
    assert list(in_bulk.skipped_steps) == list(one_by_one.skipped_steps) == [120]
    assert in_bulk.smooth_loss_nats == pytest.approx(one_by_one.smooth_loss_nats)
    assert in_bulk.status.step == one_by_one.status.step == 419
    assert in_bulk.status.skipped_steps == one_by_one.status.skipped_steps
    assert in_bulk.status.step_seconds == pytest.approx(one_by_one.status.step_seconds, rel=1e-3)


def test_a_checkpoint_gets_the_score_of_the_evaluation_that_comes_after_it() -> None:
    state = RunState("fox")
    state.apply(told(saved(10), evaluated(10, 1.5), saved(20), evaluated(20, 1.1), saved(30)))
    assert [(c.step, c.val_bpb) for c in state.checkpoints.values()] == [(10, 1.5), (20, 1.1), (30, None)]
    assert state.best_checkpoint is not None
    assert state.best_checkpoint.step == 20
    assert state.last_checkpoint is not None
    assert state.last_checkpoint.step == 30
    assert state.best_step == 20


def test_a_sample_that_was_asked_for_grows_by_its_chunks_until_it_is_done() -> None:
    state = RunState("fox")
    ask = Command("r1", "sample", {"prompt": "Once"})
    changed = state.apply(told(ask, SampleChunk("r1", " a"), SampleChunk("r1", " fox")))
    (sample,) = state.samples
    assert (sample.prompt, sample.text, sample.is_done) == ("Once", " a fox", False)
    assert "samples" in changed
    state.apply(told(sampled("r1")))
    assert len(state.samples) == 1
    assert (sample.text, sample.step, sample.is_done) == (" a fox.", 10, True)


def test_a_sample_reads_the_same_when_its_request_is_heard_of_last() -> None:
    state = RunState("fox")
    state.apply(told(SampleChunk("r1", " a"), sampled("r1"), Command("r1", "sample", {"prompt": "Once"})))
    (sample,) = state.samples
    assert (sample.prompt, sample.text, sample.is_done) == ("Once", " a fox.", True)


def test_a_sample_that_the_ranks_refused_says_why() -> None:
    state = RunState("fox")
    ask = Command("r1", "sample", {"prompt": "Once"})
    state.apply(told(ask, CommandDone("r1", "sample", ok=False, message="prompt: longer than the context")))
    assert (state.samples[0].is_done, state.samples[0].error) == (True, "prompt: longer than the context")


def test_a_sample_that_the_ranks_did_not_live_to_finish_is_not_waited_for() -> None:
    state = RunState("fox")
    state.ask("mine", "Hello", "step-10")
    state.apply(
        told(Command("r1", "sample", {"prompt": "Once"}), StateChanged("failed", "out of memory", 1, 1))
    )
    mine, theirs = state.samples
    assert theirs.error is not None
    assert not mine.is_done, "a stored checkpoint does not die with the ranks"


def test_scheduled_samples_stand_alone() -> None:
    state = RunState("fox")
    state.apply(told(sampled(None), sampled(None, " an owl.")))
    assert [s.text for s in state.samples] == [" a fox.", " an owl."]


def test_text_of_the_model_and_of_errors_cannot_steer_the_terminal() -> None:
    state = RunState("fox")
    state.apply(
        told(
            sampled(None, " a\x1b[2Jfox"),
            Notice("warning", "bad\x1b]0;title\x07 row"),
            Command("r1", "sample", {"prompt": "x\x1bcy"}),
            SampleChunk("r1", "\u202eabc"),
        )
    )
    assert [s.prompt + s.text for s in state.samples] == ["Once afox", "xyabc"]
    assert state.notes[-1].text == "bad row"


def test_the_attention_kernel_is_told_with_its_reason() -> None:
    state = RunState("fox")
    state.apply(told(AttentionChosen("flex", "no fa3: flash_attn_interface is not installed")))
    assert state.notes[-1].text == "attention: flex (no fa3: flash_attn_interface is not installed)"


def test_a_refused_command_is_kept_for_showing() -> None:
    state = RunState("fox")
    state.apply(told(CommandDone("r1", "pause", ok=False, message="already paused")))
    assert state.refusals == ["pause refused: already paused"]


def test_what_is_prepared_is_known_by_stage_with_its_newest_word() -> None:
    state = RunState("fox")
    state.apply(told(PrepareProgress("tokenizer", 1, 4, "MB"), PrepareProgress("tokenizer", 4, 4, "MB")))
    assert [(s.what, s.done) for s in state.stages.values()] == [("tokenizer", 4)]
    assert state.is_preparing
    state.apply(told(step(1)))
    assert not state.is_preparing


def verdict(kind: str, state: Any, seq: int) -> RunStatus:
    error = {"kind": kind, "message": "its processes are gone"}
    return RunStatus("fox", state=state, error=error, cursors={"train": seq})


def test_the_locks_verdict_makes_a_silent_run_crashed() -> None:
    state = RunState("fox")
    state.apply(told(StateChanged("running", "", 1, 1), step(1)))
    observed = verdict("crashed", "crashed", state.status.cursors["train"])
    assert "status" in state.judge(observed)
    assert state.status.state == "crashed"
    assert state.notes[-1].text == "crashed: its processes are gone"
    assert state.judge(observed) == set(), "nothing changes the second time"


def test_a_verdict_that_is_older_than_the_newest_record_is_passed_over() -> None:
    state = RunState("fox")
    state.apply(told(StateChanged("running", "", 1, 1), step(1)))
    observed = verdict("crashed", "crashed", state.status.cursors["train"])
    state.apply(told(StateChanged("starting", "resumed", 1, 2)))
    assert state.judge(observed) == set()
    assert state.status.state == "starting"


def test_a_lost_supervisor_is_told_of_a_run_that_writes_on_faster_than_one_looks() -> None:
    """The verdict is taken once, and was always older than the newest step: it was never told."""
    state = RunState("fox")
    state.apply(told(StateChanged("running", "", 1, 1), step(1)))
    observed = verdict("supervisor_lost", "running", state.status.cursors["train"])
    state.apply(told(step(2)))
    assert state.judge(observed) == {"status"}
    assert (state.status.state, state.status.error) == ("running", observed.error)
    assert state.judge(observed) == set(), "nothing changes the second time"


def test_a_supervisor_that_comes_back_takes_its_loss_off_the_screen() -> None:
    state = RunState("fox")
    state.apply(told(StateChanged("running", "", 1, 1), step(1)))
    state.judge(verdict("supervisor_lost", "running", state.status.cursors["train"]))
    assert state.status.error is not None
    assert state.judge(None) == {"status"}
    assert state.status.error is None


def test_the_log_tells_which_rank_died_of_what() -> None:
    state = RunState("fox")
    state.apply(told(RankExited(3, None, "SIGKILL", "killed by the kernel", is_root_cause=True)))
    assert (state.notes[-1].level, state.notes[-1].text) == (
        "error",
        "rank 3 died (SIGKILL): killed by the kernel",
    )


def test_what_is_told_and_asked_for_days_on_end_does_not_pile_up() -> None:
    state = RunState("fox")
    for number in range(1, 5001):
        alert = Alert("gradient_spike", number, "seen", "cause", "fix")
        skipped = replace(step(number), was_skipped=True)
        state.apply(told(skipped, alert, sampled(f"request {number}"), Notice("info", "so it goes")))
    kept = (state.alarms, state.skipped_steps, state.samples, state.notes, state._asked)
    assert [len(each) for each in kept] == [2000, 2000, 200, 2000, 200]
    assert (state.alarms[-1].step, state.samples[-1].request_id) == (5000, "request 5000")
