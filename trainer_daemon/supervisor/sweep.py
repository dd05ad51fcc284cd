"""Finds and ends the processes of a run: its own descendants and whoever carries its mark, never a name or a bare pid.

The mark is an environment variable that the agent gets and every process below it inherits. It finds the grandchildren
of a rank that was killed, and the ranks of a supervisor that was.
"""

import os
import signal
import sys
import time
from contextlib import suppress

import psutil

from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import FINAL_STATES, StateChanged
from trainer_daemon.contract.journal import JournalWriter
from trainer_daemon.contract.rundir import RunDir, hold_lock
from trainer_daemon.contract.status import fold_journal, load_snapshot

RUN_MARK = "LLMCTL_RUN_FOLDER"
KILL_SECONDS = 5.0
"""How long SIGKILL may take; what is still there then sleeps in the kernel and cannot be ended."""


def run_processes(run: RunDir, *, spare: frozenset[int] = frozenset()) -> list[psutil.Process]:
    """Living processes that carry the run's mark or descend from this process, this one not included.

    `spare`: children of this process that are not the run's; nor is what descends from them.
    """
    this = psutil.Process()
    children = [p for p in this.children() if p.pid not in spare]
    descendants = {d for p in children for d in (p, *_descendants(p)) if not _is_zombie(d)}
    marked = {p for p in psutil.process_iter() if p.pid != this.pid and _carries_mark(p, str(run.path))}
    return sorted(descendants | marked, key=lambda p: p.pid)


def kill_run_processes(
    run: RunDir, *, also: list[psutil.Process] | None = None, spare: frozenset[int] = frozenset()
) -> list[int]:
    """SIGKILL every process of the run until none is left. Returns the pids that would not die."""
    deadline = time.monotonic() + KILL_SECONDS
    while True:
        living = run_processes(run, spare=spare) + [
            p for p in also or [] if p.is_running() and not _is_zombie(p)
        ]
        if not living or time.monotonic() > deadline:
            return sorted({p.pid for p in living})
        for process in living:
            send_signal(process, signal.SIGKILL)
        time.sleep(0.005)  # a killed process takes a moment to go, and may have forked just before


def kill_unheard_run(run: RunDir, supervisor_pid: int | None) -> None:
    """SIGKILL a run whose supervisor cannot be asked, together with that supervisor, or it would start the ranks again.

    `supervisor_pid` is what the journal says; a process is believed to be the supervisor when it has run.lock open, too.
    Raises RefusedError when it is not, or when a process will not die.
    """
    try:
        supervisor = psutil.Process(supervisor_pid or 0)
        lock = str(run.run_lock.resolve())
        is_supervisor = any(file.path == lock for file in supervisor.open_files())
    except psutil.Error:
        is_supervisor = False
    if not is_supervisor:
        raise RefusedError(
            f"nobody answers for {run.name}, and {supervisor_pid} is not a process of yours that holds "
            f"{run.run_lock}; find who does with: fuser {run.run_lock}"
        )
    left = kill_run_processes(run, also=[supervisor, *supervisor.children(recursive=True)])
    if left:
        raise RefusedError(
            f"the processes {', '.join(map(str, left))} do not die; they hang in the kernel, see dmesg"
        )
    _write_last_word(run)


def _write_last_word(run: RunDir) -> None:
    """In the place of a supervisor that was ended: who reads the run later sees that it was no crash."""
    lock = hold_lock(run.run_lock, keeper_is_ending=True)
    try:
        status = fold_journal(run, load_snapshot(run))
        if status.state not in FINAL_STATES:
            reason = "killed on request; its supervisor did not answer and was ended with it"
            with JournalWriter(run.journal, "daemon", status.attempt) as journal:
                journal.append(StateChanged("stopped", reason, os.getpid(), status.attempt))
                journal.sync()
    finally:
        os.close(lock)


def send_signal(process: psutil.Process, number: int) -> None:
    """Signal this very process, not one that got its pid since; nothing when it is gone."""
    if sys.platform == "linux":
        with suppress(ProcessLookupError):
            fd = os.pidfd_open(process.pid)
            try:
                if process.is_running():
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)
    else:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def reap_orphans(owned: frozenset[int]) -> None:
    """Take leave of ended descendants that the kernel handed to us, but not of those that an owner waits for."""
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in owned:
                return
            os.waitpid(ended.si_pid, 0)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(process.children(recursive=True))
    return []


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def _carries_mark(process: psutil.Process, path: str) -> bool:
    try:
        return process.environ().get(RUN_MARK) == path and not _is_zombie(process)
    except (psutil.Error, OSError):
        return False
