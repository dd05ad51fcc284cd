"""The real elastic agent: each of these pays torch's import."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.supervisor.conftest import kill_and_wait, kind_is, rank_pids, wait_until, watch
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import Finished
from trainer_daemon.contract.journal import read_all
from trainer_daemon.contract.rank_error import RankError, rank_error_file
from trainer_daemon.contract.rundir import RunDir, create_run
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.processes.agent import explain_failures, message_of, rank_environment
from trainer_daemon.processes.rank import record_error
from trainer_daemon.supervisor.agent import LaunchedAgent
from trainer_daemon.supervisor.attempts import (
    AGENT_FILE,
    RESULT_FILE,
    AttemptResult,
    ProcessIdentity,
    read_struct,
    write_struct,
)
from trainer_daemon.supervisor.sweep import kill_run_processes, run_processes

ELASTIC_PROGRAM = Path(__file__).with_name("elastic_program.py")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDir]:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = build_spec({"train": {"num_iterations": 10_000}, "runtime": {"nproc": 2, "device": "cpu"}})
    made, lock = create_run("a", spec)
    yield made
    kill_run_processes(made)
    os.close(lock)


def launch(run: RunDir) -> LaunchedAgent:
    command = [sys.executable, str(ELASTIC_PROGRAM), str(run.path), "--attempt", "1"]
    return LaunchedAgent(command, run, attempt=1, control_after=0)


def result_of(run: RunDir, agent: LaunchedAgent) -> AttemptResult:
    agent._process.wait(60)
    result = read_struct(run.attempt(1) / RESULT_FILE, AttemptResult)
    assert result is not None, run.agent_log.read_text()
    return result


@pytest.mark.slow
def test_a_killed_rank_is_told_from_the_one_that_fell_with_it(run: RunDir) -> None:
    agent = launch(run)
    watch(run, kind_is("train_step"))
    assert read_struct(run.attempt(1) / AGENT_FILE, ProcessIdentity) == ProcessIdentity.of(agent.pid or 0)
    listening = [
        c.laddr.ip for p in run_processes(run) for c in p.net_connections() if c.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}, "nothing listens to the network"
    victim = next(p for p in run_processes(run) if p.pid in rank_pids(run) and p.environ()["RANK"] == "1")
    kill_and_wait(victim.pid)
    killed = next(r for r in result_of(run, agent).ranks if r.rank == 1)
    assert (killed.exit_code, killed.signal, killed.is_root_cause) == (None, "SIGKILL", True)
    assert "was killed by SIGKILL" in killed.message


@pytest.mark.slow
def test_a_killed_rank_is_told_from_a_deaf_one_that_had_to_be_killed_after_it(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank whose model was being compiled did not heed SIGTERM, and was named as the one that fell first."""
    monkeypatch.setenv("FAULT", "deaf")
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")
    agent = launch(run)
    watch(run, kind_is("train_step"))
    wait_until(lambda: "rank 1 of" in run.agent_log.read_text(), "rank 1 does not come up")
    victim = next(p for p in run_processes(run) if p.pid in rank_pids(run) and p.environ()["RANK"] == "1")
    kill_and_wait(victim.pid)
    results = result_of(run, agent).ranks
    assert [(r.rank, r.signal, r.is_root_cause) for r in results] == [
        (0, "SIGKILL", False),
        (1, "SIGKILL", True),
    ]
    assert "forcefully exiting" not in run.agent_log.read_text(), "torch's half a minute, and not the second"


@pytest.mark.slow
def test_sigterm_reaches_the_ranks_which_save_and_leave_and_a_hang_up_reaches_nobody(run: RunDir) -> None:
    agent = launch(run)
    watch(run, kind_is("train_step"))
    wait_until(lambda: "rank 1 of" in run.agent_log.read_text(), "rank 1 does not come up")
    assert agent.pid is not None
    os.kill(agent.pid, signal.SIGHUP)
    agent.terminate()
    assert result_of(run, agent) == AttemptResult()
    assert agent.is_over()
    finished = [r.event for r in read_all(run.journal) if isinstance(r.event, Finished)]
    assert [f.reason for f in finished] == ["stopped"]


@pytest.mark.slow
def test_ranks_die_with_their_agent(run: RunDir) -> None:
    agent = launch(run)
    watch(run, kind_is("train_step"))
    ranks = [psutil.Process(pid) for pid in rank_pids(run)]
    assert len(ranks) == 2
    assert agent.pid is not None
    os.kill(agent.pid, signal.SIGKILL)
    agent._process.wait(30)
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def test_an_agent_that_cannot_start_torch_says_so(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.path / "broken").mkdir()
    (run.path / "broken" / "torch.py").write_text("raise ImportError('libtorch is not there')")
    monkeypatch.setenv("PYTHONPATH", str(run.path / "broken"))
    agent = launch(run)
    assert "libtorch is not there" in str(result_of(run, agent).error)


class Failure:
    """What torch's ProcessFailure is read for."""

    def __init__(self, pid: int, exitcode: int) -> None:
        self.pid = pid
        self.exitcode = exitcode

    def signal_name(self) -> str:
        return signal.Signals(-self.exitcode).name


@pytest.mark.parametrize(
    ("errors", "exit_codes", "root"),
    [
        # the peer that only noticed wrote its error first
        ({0: (1, "Connection closed by peer"), 1: (2, "bad shard")}, {0: 1, 1: 1}, 1),
        ({0: (5, "bad shard"), 1: (4, "bad token")}, {0: 1, 1: 1}, 1),
        ({0: (1, "Connection closed by peer")}, {0: 1, 1: -9}, 1),
        ({1: (9, "bad shard")}, {0: -15, 1: 1}, 1),
        ({0: (1, "Connection reset by peer")}, {0: 1, 1: -11, 2: -15}, 1),
        ({}, {0: -9, 1: -9, 2: -9}, 2),
    ],
)
def test_the_rank_that_fell_first_is_found_among_those_that_fell_with_it(
    run: RunDir, errors: dict[int, tuple[int, str]], exit_codes: dict[int, int], root: int
) -> None:
    for rank, (time_ns, message) in errors.items():
        error = RankError(rank, time_ns, "RuntimeError", message, 1)
        write_struct(rank_error_file(run.attempt(1), rank), error)
    failures = {rank: Failure(100 + rank, code) for rank, code in exit_codes.items()}
    first = 102  # of those that were killed in one way
    results = explain_failures(run, 1, failures, first)  # type: ignore[arg-type]  # four of its attributes are enough
    assert [r.rank for r in results if r.is_root_cause] == [root]


def test_the_agent_reads_what_a_rank_wrote_about_its_error(run: RunDir) -> None:
    try:
        raise SpecError("no such file")
    except SpecError as e:
        record_error(run.attempt(1), 3, e)
    error = read_struct(rank_error_file(run.attempt(1), 3), RankError)
    assert error is not None
    assert (error.rank, error.type, error.message, error.exit_code) == (3, "SpecError", "no such file", 2)
    assert "test_agent.py" in error.traceback


def test_our_own_errors_are_quoted_as_they_are_and_others_with_their_type() -> None:
    assert message_of(RankError(0, 1, "SpecError", "no such file", 2), 2) == "no such file"
    assert message_of(RankError(0, 1, "ValueError", "bad", 1), 1) == "ValueError: bad"
    assert message_of(None, -9).startswith("was killed by SIGKILL (often: out of memory")


def test_threads_are_shared_out_among_the_ranks_of_a_cpu_run(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = run.read_spec().runtime
    assert "OMP_NUM_THREADS" not in rank_environment(runtime, 2), "what the user has set stands"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert int(rank_environment(runtime, 10**6)["OMP_NUM_THREADS"]) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked = runtime.model_copy(update={"threads_per_rank": 3})
    assert rank_environment(asked, 2)["OMP_NUM_THREADS"] == "3"


def test_a_deterministic_run_gets_its_libraries_settings_before_they_start(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA reads them once; what the user has set would make it another run."""
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    runtime = run.read_spec().runtime
    assert "NCCL_ALGO" not in rank_environment(runtime, 2)
    environment = rank_environment(runtime.model_copy(update={"deterministic": True}), 2)
    assert (environment["NCCL_ALGO"], environment["CUBLAS_WORKSPACE_CONFIG"]) == ("Ring", ":4096:8")


def test_ranks_always_hear_of_their_own_agent(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is started from within a rank's environment inherits the pid of another agent."""
    monkeypatch.setenv("LLMCTL_AGENT_PID", "1")
    assert rank_environment(run.read_spec().runtime, 2)["LLMCTL_AGENT_PID"] == str(os.getpid())


def test_a_pid_that_someone_else_has_now_is_not_taken_for_the_agent() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = ProcessIdentity.of(process.pid)
        assert identity is not None
        assert identity.is_alive()
        assert not ProcessIdentity(identity.pid, identity.started - 1, identity.boot_id).is_alive()
        assert not ProcessIdentity(identity.pid, identity.started, "another boot").is_alive()
        process.kill()
    assert not identity.is_alive()
