"""What two real ranks do about numbers that go wrong on one of them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.faulty_rank import FAULTY_STEP
from tests.parallel import in_parallel

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


def train_with(fault: str, folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """What each of two ranks has to tell."""
    in_parallel(
        [sys.executable, "-m", "tests.faults.faulty_rank", str(folder), fault, *overrides], world_size=2
    )
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def of(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [e for e in told["events"] if e["kind"] == kind]


def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_by_both_then_rolled_back_then_fails(
    tmp_path: Path,
) -> None:
    """Fault 52."""
    ranks = train_with("nan", tmp_path, "train.num_iterations=30", "checkpoint.every=5")
    for told in ranks:
        assert told["finite"], "no parameter became not finite on any rank"
        skipped = [e["step"] for e in of(told, "train_step") if e["was_skipped"]]
        assert skipped == [9, 10, 11] * 3, (
            "both skip the same steps; steps 6 to 8 are taken again after each rollback"
        )
        assert [e["step"] for e in of(told, "resumed")] == [5, 5]
        (last,) = of(told, "finished")
        assert (last["reason"], last["cause"], last["step"]) == ("failed", "nan", 11)
    first = of(ranks[0], "alert")[0]
    assert (first["name"], first["step"]) == ("not_finite", FAULTY_STEP + 1)
    assert "not finite on rank 1" in first["seen"]
    record = json.loads((tmp_path / "checkpoints" / first["record"]).read_text())
    assert record["loss_nats_by_rank"][1] is None
    assert record["loss_nats_by_rank"][0] > 0


def test_a_rank_that_is_a_third_slower_is_named_within_150_steps(tmp_path: Path) -> None:
    """Fault 55."""
    ranks = train_with("slow", tmp_path, "train.num_iterations=151", "eval.every=200", "sample.every=200")
    slow = [e for e in of(ranks[0], "alert") if e["name"] == "slow_rank"]
    assert [e["step"] for e in slow] == [150]
    assert slow[0]["seen"].startswith("rank 1 is ")
    assert "most of it in computing" in slow[0]["seen"]


def test_one_flipped_bit_in_one_replica_ends_the_run_at_the_next_check(tmp_path: Path) -> None:
    """Fault 56."""
    ranks = train_with("flip", tmp_path, "train.num_iterations=30", "health.check_replicas_every=5")
    for told in ranks:
        (last,) = of(told, "finished")
        assert (last["reason"], last["cause"], last["step"]) == ("failed", "sdc", 10)
        assert "last found equal at step 5" in last["message"]
        assert [e["step"] for e in of(told, "checkpoint_saved")] == [5], "what differs is not saved"
    assert [e["name"] for e in of(ranks[0], "alert")] == ["replicas_differ"]


def test_replicas_are_compared_when_someone_asks_and_one_changed_parameter_ends_the_run(
    tmp_path: Path,
) -> None:
    """Asked before one parameter of rank 1 changes, and after: both ranks agree on the step and on the result."""
    ranks = train_with("flip-then-asked", tmp_path, "train.num_iterations=30", "checkpoint.every=5")
    for told in ranks:
        same, apart = of(told, "replicas_compared")
        assert (same["step"], same["world_size"], same["difference"]) == (6, 2, None)
        assert len(same["checksum"]) == 16
        assert (apart["step"], apart["checksum"]) == (8, None)
        assert "ranks 0, 1 differ in 1 of" in apart["difference"]
        assert "the first is resid_lambdas" in apart["difference"]
        (last,) = of(told, "finished")
        assert (last["reason"], last["cause"], last["step"]) == ("failed", "sdc", 8)
        assert "last found equal at step 6" in last["message"]
        assert [e["step"] for e in of(told, "checkpoint_saved")] == [5], "what differs is not saved"
    first, second = of(ranks[0], "command_done")
    assert (first["ok"], second["ok"]) == (True, False)
    assert "all 2 ranks hold the same parameters" in first["message"]
    assert (
        of(ranks[0], "replicas_compared")[0]["checksum"] == of(ranks[1], "replicas_compared")[0]["checksum"]
    )


def test_an_evaluation_that_fails_on_one_rank_is_told_by_all_and_the_run_goes_on(tmp_path: Path) -> None:
    """Whatever is raised: only torch's own errors used to be caught, and the other rank then waited for this one."""
    ranks = train_with("evaluation", tmp_path, "train.num_iterations=10", "eval.every=100")
    for told in ranks:
        (last,) = of(told, "finished")
        assert (last["reason"], last["step"]) == ("completed", 10)
        failures = [e["text"] for e in of(told, "notice") if e["text"].startswith("evaluation at step 8")]
        assert len(failures) == 1
        assert "failed on rank 1" in failures[0]
    (done,) = of(ranks[0], "command_done")
    assert (done["ok"], done["name"]) == (False, "evaluate")
