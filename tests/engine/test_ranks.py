"""Several real ranks over gloo: they train the same function as one, and turn together."""

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.parallel import in_parallel
from tests.tiny import tiny_spec
from trainer_daemon.contract.events import AttemptStarted, CheckpointSaved, Command, Finished, TrainStep
from trainer_daemon.contract.hardware import usable_cores
from trainer_daemon.contract.journal import JournalWriter, read_all
from trainer_daemon.contract.rundir import RunDir, create_run
from trainer_daemon.contract.spec import RuntimeSpec
from trainer_daemon.engine.ranks import threads_per_rank


def test_threads_are_as_the_spec_says_else_the_user_else_a_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_rank(RuntimeSpec(threads_per_rank=2), cpu, 1) == 2
    assert threads_per_rank(RuntimeSpec(), cpu, 1) == 3
    for unusable in ("", "0", "two"):
        monkeypatch.setenv("OMP_NUM_THREADS", unusable)
        assert threads_per_rank(RuntimeSpec(), cpu, 1) == usable_cores()
    assert threads_per_rank(RuntimeSpec(), cpu, 10**6) == 1


def run_ranks(run: RunDir, world_size: int) -> None:
    """Start the ranks by hand: a run folder is all they need."""
    in_parallel([sys.executable, "-m", "trainer_daemon", str(run.path)], world_size)


def new_run(name: str, *overrides: str) -> RunDir:
    run, lock = create_run(name, tiny_spec(*overrides))
    os.close(lock)
    return run


GENTLE = (
    "train.num_iterations=6",
    "train.global_batch_tokens=384",  # 12 rows: a share of whole rows for 1, 2, 3 and 4 ranks
    "optim.embedding_lr=0.3",
    "optim.matrix_lr=0.02",
    "optim.scalar_lr=0.005",
)
"""Rates so small that six steps are too few for rounding to grow."""


def losses(run: RunDir) -> list[float]:
    return [
        r.event.loss_nats
        for r in read_all(run.journal)
        if isinstance(r.event, TrainStep) and r.event.loss_nats
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_several_ranks_follow_one_rank_with_the_same_global_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    """A trainer that forgets to synchronise trains unrelated replicas and still prints a falling loss.

    Parameters are compared by their relative distance: at the start the gradient of backout_lambda is rounding alone,
    which Adam turns into whole steps, so a few scalars may part while the function stays the same.
    """
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    one = new_run("one", "train.micro_batch_size=12", *GENTLE)
    # that activations are computed again in backward must not show either
    again = "runtime.activation_checkpointing=selective"
    many = new_run("many", f"train.micro_batch_size={12 // world_size}", again, *GENTLE)
    run_ranks(one, 1)
    run_ranks(many, world_size)

    (started,) = [r.event for r in read_all(many.journal) if isinstance(r.event, AttemptStarted)]
    assert started.world_size == world_size
    assert losses(many) == pytest.approx(losses(one), rel=1e-4)
    assert len(losses(many)) == 6
    last = "step-00000006/model.safetensors"
    expected, found = load_file(one.checkpoints / last), load_file(many.checkpoints / last)
    for name in [n for n in expected if n.endswith("weight") and "gate" not in n]:
        assert torch.dist(expected[name], found[name]) < 1e-3 * expected[name].norm(), name


@pytest.mark.slow
def test_replicas_stay_equal_to_the_bit(tmp_path: Path) -> None:
    in_parallel([sys.executable, "-m", "tests.engine.trained_replica", str(tmp_path)], world_size=2)
    first, second = (
        load_file(tmp_path / "replica-0.safetensors"),
        load_file(tmp_path / "replica-1.safetensors"),
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_goes_from_two_ranks_to_one_to_three_as_if_there_had_been_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each rank held of the optimizer's state is put together and cut anew."""
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    one = new_run("one", "train.micro_batch_size=12", *GENTLE)
    passed_on = new_run("passed-on", "train.micro_batch_size=2", *GENTLE)
    run_ranks(one, 1)
    with JournalWriter(passed_on.journal, "control", 1) as control:
        for stops_before, world_size in enumerate((2, 1)):
            control.append(Command(f"r{stops_before}", "stop", {}))
            monkeypatch.setenv("LLMCTL_CONTROL_AFTER", str(stops_before))
            run_ranks(passed_on, world_size)
    monkeypatch.setenv("LLMCTL_CONTROL_AFTER", "2")
    run_ranks(passed_on, 3)
    ends = [r.event.reason for r in read_all(passed_on.journal) if isinstance(r.event, Finished)]
    assert ends == ["stopped", "stopped", "completed"]
    assert losses(passed_on) == pytest.approx(losses(one), rel=1e-4)
    assert len(losses(passed_on)) == 6


def test_a_stopped_run_goes_on_when_its_ranks_are_started_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    run = new_run("again", "train.num_iterations=3")
    with JournalWriter(run.journal, "control", 1) as control:
        control.append(Command("r1", "stop", {}))
    monkeypatch.setenv("LLMCTL_CONTROL_AFTER", "0")
    run_ranks(run, 1)
    monkeypatch.delenv("LLMCTL_CONTROL_AFTER")
    run_ranks(run, 1)
    finished = [r.event for r in read_all(run.journal) if isinstance(r.event, Finished)]
    assert [f.reason for f in finished] == ["stopped", "completed"]


def test_two_ranks_save_one_checkpoint_and_one_journal_without_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    run = new_run("pair", "train.num_iterations=3", "train.micro_batch_size=4")
    run_ranks(run, 2)
    records = list(read_all(run.journal))
    assert [r.seq for r in records if r.stream == "train"] == list(range(1, len(records) + 1))
    assert [r.event.step for r in records if isinstance(r.event, CheckpointSaved)] == [3]
    assert isinstance(records[-1].event, Finished)
    assert {p.name for p in (run.checkpoints / "step-00000003").glob("rank-*")} == {
        "rank-0.safetensors",
        "rank-1.safetensors",
    }
