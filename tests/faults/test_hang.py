"""A rank that hangs: told with everybody's stacks, killed, started again."""

import json
import os
import signal

import pytest

from tests.e2e.conftest import Runs
from tests.e2e.test_whole_run import ranks_of, step_reached
from tests.supervisor.conftest import follow, kind_is, state_is, wait_until
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import Feed

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]

SECONDS = 150.0
"""No wait here is longer; a machine that is busy may take most of it."""


def test_a_stopped_rank_is_told_with_the_stacks_of_all_and_the_run_starts_again(runs: Runs) -> None:
    """Fault 8. Rank 0 waits in a collective for rank 1, which was stopped and so can do nothing about itself."""
    run = runs.train(
        "hang", "runtime.nproc=2", "train.num_iterations=400", "checkpoint.every=20", "health.hang_seconds=5"
    )
    with Feed(run) as feed:
        follow(feed, step_reached(25), SECONDS)
        ranks = ranks_of(run)
        os.kill(ranks[1].pid, signal.SIGSTOP)
        follow(feed, kind_is("stalled"), SECONDS)
        error = observe(run).error
        assert error is not None
        assert error["kind"] == "stalled"
        wait_until(lambda: run.rank_stacks(1, 0).stat().st_size > 0, "rank 0 did not say where it is")
        assert "engine/loop.py" in run.rank_stacks(1, 0).read_text()
        told = json.loads((run.attempt(1) / "collectives.json").read_text())
        assert told["finding"] in error["message"]
        assert "attempts/0001/collectives.json" in error["message"]
        assert set(told["ranks"]) == {"0", "1"}, "also of the rank that cannot answer"
        waiting = told["ranks"]["0"][-1]
        assert waiting["exchange"] is not None
        assert waiting["ended"] is None, "rank 0 waits for what rank 1 does not come to"
        assert told["ranks"]["1"][-1]["exchange"] <= waiting["exchange"]
        calls = json.loads(run.rank_trace(1, 0).read_text())["cpu"]["entries"]
        assert "gloo:all_reduce" in {call["profiling_name"] for call in calls}, "torch's own record"
        restart = follow(feed, state_is("starting"), SECONDS)[-1]
        assert "restart 1 of 3" in str(restart.event)
        assert "said nothing for" in str(restart.event)
        assert "exchange" in str(restart.event), "who waited for whom, in the reason of the restart"
        # it could only be written once the rank was let go on, just before it was killed
        assert 'File "' in run.rank_stacks(1, 1).read_text()
        resumed = follow(feed, kind_is("resumed", attempt=2), SECONDS)[-1]
        assert getattr(resumed.event, "step", 0) >= 20
        follow(feed, step_reached(30), SECONDS)
    assert not {p.pid for p in ranks.values()} & {p.pid for p in ranks_of(run).values()}
