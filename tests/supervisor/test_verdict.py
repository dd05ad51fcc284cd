from pathlib import Path
from typing import Any

import pytest

from trainer_daemon.contract.events import Finished
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.spec import RuntimeSpec
from trainer_daemon.supervisor.attempts import AttemptResult, RankResult
from trainer_daemon.supervisor.verdict import Verdict, judge


def verdict(max_restarts: int = 3, **facts: Any) -> Verdict:
    return judge(
        RunDir(Path("/runs/a")),
        RuntimeSpec(max_restarts=max_restarts, restart_delay_seconds=5),
        **{
            "finished": None,
            "result": None,
            "agent_ending": "was killed by SIGKILL",
            "failures_in_a_row": 1,
            "stop_reason": None,
            "unkillable": [],
            **facts,
        },
    )


def fallen(exit_code: int | None = 1, message: str = "ValueError: bad") -> AttemptResult:
    return AttemptResult(
        [
            RankResult(0, 1, None, "Connection closed by peer", is_root_cause=False),
            RankResult(1, exit_code, None, message, is_root_cause=True),
        ]
    )


@pytest.mark.parametrize("reason", ["completed", "stopped", "failed"])
def test_the_ranks_own_last_word_decides(reason: Any) -> None:
    finished = Finished(reason, 5, "as they say")
    assert verdict(finished=finished, result=fallen(), stop_reason="stopped") == Verdict(
        reason, "as they say"
    )


def test_the_first_three_falls_in_a_row_are_restarted_after_5_15_and_45_seconds() -> None:
    delays = [verdict(result=fallen(), failures_in_a_row=n) for n in (1, 2, 3)]
    assert [(v.state, v.delay_seconds) for v in delays] == [(None, 5), (None, 15), (None, 45)]
    assert "restart 1 of 3 in 5 s" in delays[0].reason
    assert "rank 1: ValueError: bad" in delays[0].reason


def test_no_restart_is_waited_for_longer_than_a_quarter_of_an_hour() -> None:
    assert verdict(max_restarts=100, result=fallen(), failures_in_a_row=6).delay_seconds == 900
    assert verdict(max_restarts=100, result=fallen(), failures_in_a_row=100).delay_seconds == 900


def test_the_fourth_fall_is_a_failure_that_names_cause_and_log() -> None:
    given_up = verdict(result=fallen(), failures_in_a_row=4)
    assert given_up.state == "failed"
    for part in ("rank 1: ValueError: bad", "3 restarts", "/runs/a/logs/rank-1.log", "llmctl resume a"):
        assert part in given_up.reason


@pytest.mark.parametrize("exit_code", [2, 3, 4])
def test_a_wrong_spec_missing_data_or_damaged_checkpoints_are_not_tried_again(exit_code: int) -> None:
    assert verdict(result=fallen(exit_code, "no such file")).state == "failed"


def test_without_a_word_from_the_agent_its_own_end_is_the_cause() -> None:
    assert "the launcher of the ranks was killed by SIGKILL" in verdict().reason
    assert "torch is missing" in verdict(result=AttemptResult(error="torch is missing")).reason
    assert "agent.log" in verdict(max_restarts=0).reason


def test_a_run_that_was_to_stop_is_stopped_however_its_ranks_ended() -> None:
    stopped = verdict(result=fallen(), stop_reason="stopped on request")
    assert stopped == Verdict("stopped", "stopped on request; the ranks did not get to save")


def test_processes_that_do_not_die_are_named_and_never_called_stopped() -> None:
    hung = verdict(unkillable=[7, 9], finished=Finished("stopped", 5, "stopped"), stop_reason="stopped")
    assert hung.state == "failed"
    assert "7, 9" in hung.reason
