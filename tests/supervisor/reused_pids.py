"""Fault 12, inside a pid namespace of its own: `unshare -Urpf --mount-proc python -m tests.supervisor.reused_pids`.

All processes of a run are killed, and each of their pids is given to a process that has nothing to do with it.
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from cli.main import main as llmctl
from tests.supervisor.conftest import (
    Daemons,
    agent_pid,
    kill_and_wait,
    kind_is,
    rank_pids,
    wait_until_over,
    watch,
)
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import send_command

NOT_HERE = 77
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
TRIES = 20


def reap() -> None:
    """We are the first process here, and orphans are ours: a pid is free once its last owner was taken leave of."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def stranger_with(pid: int) -> "subprocess.Popen[bytes]":
    """A process with this very pid."""
    for _ in range(TRIES):
        reap()
        LAST_PID.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    raise AssertionError(f"the pid {pid} is not to be had")


def main() -> int:
    try:
        LAST_PID.write_text(LAST_PID.read_text())
    except OSError as e:
        print(f"pids cannot be chosen here: {e}")
        return NOT_HERE
    daemons = Daemons()
    run = daemons.start("a", nproc=2)
    watch(run, kind_is("train_step"))
    send_command(run, "save")
    watch(run, kind_is("checkpoint_saved"))
    pids = [daemons.pid, agent_pid(run), *rank_pids(run)]
    for pid in pids:
        kill_and_wait(pid)
    strangers = [stranger_with(pid) for pid in pids]

    assert observe(run).state == "crashed"
    assert llmctl(["stop", "a"]) == 6
    assert llmctl(["kill", "a", "-y"]) == 6
    assert observe(run).state == "crashed"
    assert_all_live(strangers)

    pid = daemons.resume(RunDir(run.path))
    watch(run, kind_is("resumed", attempt=2))
    assert observe(run).state == "running"
    send_command(run, "stop")
    wait_until_over(run, pid)
    assert observe(run).state == "stopped"
    assert_all_live(strangers)
    for stranger in strangers:
        stranger.kill()
    print(f"{len(strangers)} strangers were left alone")
    return 0


def assert_all_live(strangers: "list[subprocess.Popen[bytes]]") -> None:
    assert [s.pid for s in strangers if s.poll() is not None] == []


if __name__ == "__main__":
    sys.exit(main())
