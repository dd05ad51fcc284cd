"""What a user is promised, on whole runs: it survives, it obeys, and it is the same run afterwards."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Runs
from tests.supervisor.conftest import follow, kill_and_wait, state_is, watch
from tests.workers import end_workers
from trainer_daemon.contract.events import (
    CheckpointSaved,
    CommandDone,
    RankExited,
    SampleChunk,
    Sampled,
    StateChanged,
    TrainStep,
)
from trainer_daemon.contract.generation import Generation
from trainer_daemon.contract.journal import Record, read_all
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import observe
from trainer_daemon.engine.checkpoint.store import sha256_of
from trainer_daemon.link.client import Feed, send_command
from trainer_daemon.link.inference import open_worker

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(300)]

LONG = ("train.num_iterations=400", "checkpoint.every=40", "eval.every=200", "sample.every=200")
"""Some seconds of training, so that there is time to do something to it."""


def final_hashes(run: RunDir) -> dict[str, str]:
    """SHA-256 of all that the last checkpoint's training state is made of."""
    last = max(run.checkpoints.glob("step-*"))
    return {n: sha256_of(last / n) for n in ("model.safetensors", "optimizer.safetensors", "training.json")}


def ranks_of(run: RunDir) -> dict[int, psutil.Process]:
    """The rank processes, by rank."""
    command = ["-m", "trainer_daemon", str(run.path)]
    found = [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[-3:] == command]
    return {int(p.environ()["RANK"]): p for p in found}


def step_reached(step: int) -> Callable[[Record], bool]:
    return lambda r: isinstance(r.event, TrainStep) and r.event.step >= step


def done(name: str) -> Callable[[Record], bool]:
    return lambda r: isinstance(r.event, CommandDone) and r.event.name == name


def sequence_is_whole(run: RunDir) -> bool:
    """Every stream of the journal counts from 1 without a gap."""
    expected: Counter[str] = Counter()
    for record in read_all(run.journal):
        expected[record.stream] += 1
        if record.seq != expected[record.stream]:
            return False
    return True


def test_a_killed_rank_costs_some_steps_and_changes_nothing(runs: Runs) -> None:
    undisturbed, disturbed = (
        runs.train("undisturbed", *LONG),
        runs.train("disturbed", *LONG, "runtime.nproc=1"),
    )
    with Feed(disturbed) as feed:
        follow(feed, step_reached(90), 120)
        os.kill(ranks_of(disturbed)[0].pid, signal.SIGKILL)
        records = follow(feed, state_is("completed", "failed"), 120)
    watch(undisturbed, state_is("completed"), 120)
    (exited,) = [r.event for r in records if isinstance(r.event, RankExited)]
    assert (exited.rank, exited.signal) == (0, "SIGKILL")
    status = observe(disturbed)
    assert (status.state, status.restarts, status.step) == ("completed", 1, 400)
    assert final_hashes(disturbed) == final_hashes(undisturbed)
    assert sequence_is_whole(disturbed)


def test_two_ranks_survive_the_death_of_one_and_end_as_if_nothing_had_happened(runs: Runs) -> None:
    pair = ("runtime.nproc=2", "train.num_iterations=120", "checkpoint.every=20")
    undisturbed = runs.train("undisturbed", *pair)
    watch(undisturbed, state_is("completed"), 120)
    disturbed = runs.train("disturbed", *pair)
    with Feed(disturbed) as feed:
        follow(feed, step_reached(50), 120)
        os.kill(ranks_of(disturbed)[1].pid, signal.SIGKILL)
        records = follow(feed, state_is("completed", "failed"), 120)
    roots = [r.event.rank for r in records if isinstance(r.event, RankExited) and r.event.is_root_cause]
    assert roots == [1]
    assert final_hashes(disturbed) == final_hashes(undisturbed)


def test_training_outlives_its_supervisor_and_a_new_one_takes_over(runs: Runs) -> None:
    run = runs.train("orphaned", *LONG)
    with Feed(run) as feed:
        seen = follow(feed, step_reached(30), 120)
        kill_and_wait(runs.pid)
        status = observe(run)
        assert status.state not in {"crashed", "completed"}
        assert status.error is not None
        assert status.error["kind"] == "supervisor_lost"
        seen += follow(feed, step_reached(100), 120)  # nobody supervises, steps go on
        runs.resume(run)
        seen += follow(feed, state_is("completed"), 120)
    steps = [r.event.step for r in seen if isinstance(r.event, TrainStep)]
    assert steps == list(range(1, 401))
    assert observe(run).attempt == 1
    assert sequence_is_whole(run)


def test_when_everything_dies_at_once_the_run_reads_as_crashed_and_resumes_to_the_same_end(
    runs: Runs,
) -> None:
    undisturbed = runs.train("undisturbed", *LONG)
    watch(undisturbed, state_is("completed"), 120)
    run = runs.train("killed", *LONG)
    with Feed(run) as feed:
        follow(feed, step_reached(60), 120)
        everything = [psutil.Process(runs.pid), *psutil.Process(runs.pid).children(recursive=True)]
        for process in everything:
            process.kill()
        assert psutil.wait_procs(everything, timeout=10)[1] == []
        assert observe(run).state == "crashed"
        runs.resume(run)
        follow(feed, state_is("completed", attempt=2), 120)
    assert final_hashes(run) == final_hashes(undisturbed)


def test_whoever_talks_to_a_runs_checkpoint_while_it_trains_changes_nothing_in_it(
    runs: Runs, tmp_path: Path
) -> None:
    all_kept = (*LONG, "checkpoint.keep_last=20")
    undisturbed = runs.train("undisturbed", *all_kept)
    watch(undisturbed, state_is("completed"), 120)
    run = runs.train("overheard", *all_kept)
    try:
        with Feed(run) as feed, open_worker() as worker:
            follow(feed, lambda r: isinstance(r.event, CheckpointSaved), 120)
            checkpoint = run.checkpoints / "step-00000040"
            before, texts = sorted(path.name for path in checkpoint.iterdir()), 0
            while not run_has_ended(run):
                request = Generation(prompt="Once", max_tokens=24, seed=texts)
                assert list(worker.generate(checkpoint, request))[-1].tokens > 0
                texts += 1
            assert texts > 1, "the run was over before anybody talked to it"
            assert sorted(path.name for path in checkpoint.iterdir()) == before
            follow(feed, state_is("completed"), 120)
    finally:
        end_workers(tmp_path / "home")
    assert final_hashes(run) == final_hashes(undisturbed)
    assert sequence_is_whole(run)


def run_has_ended(run: RunDir) -> bool:
    return observe(run).state in {"completed", "failed", "crashed"}


def test_a_stopped_run_resumes_bit_for_bit_and_a_paused_one_idles(runs: Runs) -> None:
    undisturbed = runs.train("undisturbed", *LONG)
    watch(undisturbed, state_is("completed"), 120)
    run = runs.train("stopped", *LONG)
    with Feed(run) as feed:
        follow(feed, step_reached(50), 120)
        send_command(run, "pause")
        follow(feed, done("pause"))
        before = observe(run)
        assert before.state == "paused"
        request = send_command(
            run, "sample", {"prompt": "One", "max_tokens": 8, "temperature": 1.0, "top_k": None, "seed": 4}
        )
        records = follow(feed, done("sample"))
        (sampled,) = [r.event for r in records if isinstance(r.event, Sampled)]
        chunks = [
            r.event.text
            for r in records
            if isinstance(r.event, SampleChunk) and r.event.request_id == request
        ]
        assert sampled.text == "".join(chunks)
        assert observe(run).step == before.step
        send_command(run, "resume")
        follow(feed, step_reached(before.step + 5))
        send_command(run, "stop")
        records = follow(feed, state_is("stopped"))
        assert observe(run).last_checkpoint == {
            "step": observe(run).step,
            "path": f"step-{observe(run).step:08d}",
        }
        runs.resume(run)
        follow(feed, state_is("completed"), 120)
    assert final_hashes(run) == final_hashes(undisturbed)


def test_a_signal_to_the_ranks_saves_and_stops(runs: Runs) -> None:
    """What a cluster's scheduler does before it takes the machine away."""
    run = runs.train("preempted", *LONG)
    with Feed(run) as feed:
        follow(feed, step_reached(20), 120)
        os.kill(runs.pid, signal.SIGTERM)
        follow(feed, state_is("stopped"))
    status = observe(run)
    assert status.last_checkpoint is not None
    assert status.last_checkpoint["step"] == status.step


def test_a_run_that_cannot_work_fails_with_the_ranks_own_words_and_is_not_tried_again(
    runs: Runs, tmp_path: Path
) -> None:
    run = runs.train("wrong", f"data.source={tmp_path}/nothing.txt")
    records = watch(run, state_is("failed", "completed"), 120)
    assert [r.event.state for r in records if isinstance(r.event, StateChanged)][-1] == "failed"
    assert "nothing.txt" in str(observe(run).error)
    assert observe(run).attempt == 1
