"""A pid is not a process: after a reboot, or once it was given again, it is somebody else's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest

from tests.supervisor.conftest import (
    Daemons,
    agent_pid,
    kill_and_wait,
    kind_is,
    rank_pids,
    wait_until_over,
    watch,
)
from tests.supervisor.reused_pids import NOT_HERE
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import send_command
from trainer_daemon.supervisor.attempts import AGENT_FILE, ProcessIdentity, write_struct

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@dataclass
class Stranger:
    """A process that has nothing to do with the run."""

    process: "subprocess.Popen[bytes]"

    @property
    def identity(self) -> ProcessIdentity:
        identity = ProcessIdentity.of(self.process.pid)
        assert identity is not None, "somebody ended the stranger"
        return identity


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield Stranger(process)
        process.kill()


def crashed_run_whose_agent_is(daemons: Daemons, agent: ProcessIdentity) -> RunDir:
    """All of its processes are dead, and what it wrote down of its agent now names `agent`."""
    run = daemons.start(nproc=2)
    watch(run, kind_is("train_step"))
    send_command(run, "save")
    watch(run, kind_is("checkpoint_saved"))
    for pid in (daemons.pid, agent_pid(run), *rank_pids(run)):
        kill_and_wait(pid)
    write_struct(run.attempt(1) / AGENT_FILE, agent)
    return run


@pytest.mark.parametrize(
    "changed", [{"boot_id": "another-boot"}, {"started": 1.0}], ids=["rebooted", "pid given again"]
)
def test_a_stranger_with_the_agents_pid_is_neither_taken_for_it_nor_harmed(
    daemons: Daemons, stranger: Stranger, changed: dict[str, object]
) -> None:
    """11 and 12: the run is crashed, never running; a resume launches anew and a stop signals nobody else."""
    run = crashed_run_whose_agent_is(daemons, msgspec.structs.replace(stranger.identity, **changed))
    assert observe(run).state == "crashed"
    pid = daemons.resume(run)
    watch(run, kind_is("resumed", attempt=2))
    status = observe(run)
    assert (status.state, status.attempt) == ("running", 2), "launched anew, not taken over"
    assert stranger.identity.pid not in rank_pids(run)
    send_command(run, "stop")
    wait_until_over(run, pid)
    assert observe(run).state == "stopped"
    assert stranger.process.poll() is None
    os.kill(stranger.identity.pid, 0)


def test_pids_that_were_given_to_others_are_not_taken_for_the_runs_in_a_pid_namespace(
    daemons: Daemons,
) -> None:
    """12: of a run that was killed, supervisor, agent and ranks. `daemons` gives the home of this test."""
    program = [sys.executable, "-m", "tests.supervisor.reused_pids"]
    alone = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which(alone[0]) is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no pid namespace")
    done = subprocess.run([*alone, *program], capture_output=True, text=True, timeout=250, check=False)
    if done.returncode == NOT_HERE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 strangers were left alone" in done.stdout
