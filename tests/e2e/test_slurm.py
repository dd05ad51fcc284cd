"""What SLURM does to a job, done to a run: the documented script, and a run in the foreground of a job step."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM
from tests.cli.test_launch import TINY_FLAGS
from tests.e2e.conftest import Runs
from tests.faults.conftest import IS_FULL
from tests.supervisor.conftest import follow, wait_until, wait_until_over
from trainer_daemon.contract.events import TrainStep
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import RunDir, runs_folder
from trainer_daemon.contract.settings import present_spec
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import Feed
from trainer_daemon.supervisor.sweep import kill_run_processes, run_processes

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 200.0
DOCUMENT = Path(__file__).parents[2] / "docs" / "SLURM.md"
ENDLESS = [*TINY_FLAGS, "--set=train.num_iterations=100000", "--set=runtime.nproc=2"]


def steps_of(attempt: int) -> Callable[[Record], bool]:
    return lambda r: isinstance(r.event, TrainStep) and r.attempt == attempt


def reach(run: RunDir, attempt: int, job: "subprocess.Popen[str]") -> None:
    """Until this launch trains."""
    wait_until(lambda: run.journal.is_dir() or job.poll() is not None, "no run was made", SECONDS)
    assert job.poll() is None, job.communicate()
    with Feed(run) as feed:
        follow(feed, steps_of(attempt), SECONDS)


def check_saved_and_stopped(run: RunDir) -> None:
    status = observe(run)
    assert (status.state, status.error) == ("stopped", None)
    assert status.last_checkpoint is not None
    assert status.last_checkpoint["step"] == status.step > 0
    assert run_processes(run) == []


@pytest.fixture
def fox(runs: Runs) -> "RunDir":
    """The run of these tests, yet to be made; nothing of it is left behind."""
    return RunDir(runs_folder() / "fox")


def test_the_documented_script_saves_at_a_warning_and_goes_on_when_it_is_queued_again(
    fox: RunDir, tmp_path: Path
) -> None:
    script = re.findall(r"```sh\n(#!/bin/bash.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)[0]
    assert "--preset d12" in script
    job = tmp_path / "job.sh"
    job.write_text(script.replace("--preset d12", shlex.join(ENDLESS)))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "llmctl").symlink_to(PROGRAM)
    (tools / "scontrol").write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/asked"\n')
    (tools / "scontrol").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}

    jobs: list[subprocess.Popen[str]] = []

    def begin() -> "subprocess.Popen[str]":
        command = ["bash", str(job)]
        jobs.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
        return jobs[-1]

    try:
        first = begin()
        reach(fox, 1, first)
        first.send_signal(signal.SIGUSR1)  # --signal=B:USR1@600: to the script alone
        said = first.communicate(timeout=SECONDS)[0]
        check_saved_and_stopped(fox)
        assert (tools / "asked").read_text() == "requeue 4711\n", said
        stopped_at = observe(fox).step

        second = begin()
        reach(fox, 2, second)
        second.send_signal(signal.SIGTERM)  # scancel: nothing is queued again
        said = second.communicate(timeout=SECONDS)[0]
        check_saved_and_stopped(fox)
        assert observe(fox).step > stopped_at
        assert (tools / "asked").read_text() == "requeue 4711\n", said
    finally:
        for left in jobs:
            left.kill()
            left.communicate()
        kill_run_processes(fox)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM] if IS_FULL else [signal.SIGUSR1])
def test_a_signal_to_every_process_of_a_job_step_saves_once_and_the_step_ends_with_the_run(
    fox: RunDir, number: signal.Signals
) -> None:
    """SLURM ends what is left of a step when its first process leaves; so that one stays until all is saved."""
    command = [PROGRAM, "run", *ENDLESS, "--name", "fox"]
    step = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        reach(fox, 1, step)
        for process in run_processes(fox):
            process.send_signal(number)
        step.send_signal(number)
        said, error = step.communicate(timeout=SECONDS)
        assert step.returncode == 0, error
        assert "fox stopped at step" in said
        assert f"got {number.name}" in error
        check_saved_and_stopped(fox)
        if number == signal.SIGUSR1:
            check_time_limits(fox)
    finally:
        step.kill()
        step.communicate()
        kill_run_processes(fox)


def check_time_limits(fox: RunDir) -> None:
    """A resume sets a limit, refuses one that is none, and takes it away again."""

    def llmctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
        )

    wrong = llmctl("resume", "fox", "--time-limit", "soon")
    assert wrong.returncode == 2
    assert "--time-limit takes" in wrong.stderr
    assert llmctl("resume", "fox", "--time-limit", "4h").returncode == 0
    assert present_spec(fox).runtime.time_limit_minutes == 240
    too_late = llmctl("resume", "fox", "--time-limit", "5h")
    assert too_late.returncode == 6
    assert "--time-limit are for one that has ended" in too_late.stderr
    assert llmctl("stop", "fox").returncode == 0
    assert llmctl("resume", "fox", "--time-limit", "none").returncode == 0
    assert present_spec(fox).runtime.time_limit_minutes is None
    pid = observe(fox).pid
    assert llmctl("stop", "fox").returncode == 0
    assert pid is not None
    wait_until_over(fox, pid)
