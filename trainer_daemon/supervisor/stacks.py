"""Has every rank write down where it is, for whoever looks at a hang after the processes are gone.

A rank registers faulthandler for SIGUSR2 as it starts, and has a thread wait for another signal to write torch's record of
its collectives. The handler is C that takes no lock of Python's, so it answers in a
blocked collective and while another thread keeps the GIL. A rank that was stopped writes when it is let go on.
"""

import signal
import sys
import time
from pathlib import Path

import psutil

from trainer_daemon.contract.rundir import STACKS_SIGNAL, TRACE_SIGNAL, RunDir
from trainer_daemon.supervisor.sweep import run_processes, send_signal

ANSWER_SECONDS = 2.0
"""How long the stacks are waited for; a process that sleeps in the kernel gives none."""


def save_stacks(run: RunDir, attempt: int, *, wake: bool = False) -> str | None:
    """Have all ranks append their stacks to files in the attempt's folder; its path inside the run folder.

    `wake`: let processes that were stopped go on, or they could not write; for ranks that are killed next. None when no
    rank can be asked.
    """
    ranks = [p for p in run_processes(run) if catches(p.pid, STACKS_SIGNAL)]
    if not ranks:
        return None
    folder = run.attempt(attempt)
    before = _written(folder)
    expected = 0
    for rank in ranks:
        signals: list[int] = [STACKS_SIGNAL]
        if TRACE_SIGNAL is not None and blocks(rank.pid, TRACE_SIGNAL):
            signals.append(TRACE_SIGNAL)
        for number in signals:
            send_signal(rank, number)
        if not _is_stopped(rank):
            expected += len(signals)
        elif wake:
            send_signal(rank, signal.SIGCONT)
            expected += len(signals)
    deadline = time.monotonic() + ANSWER_SECONDS
    last = before
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = _written(folder)
        new = sum(before.get(path) != state for path, state in now.items())
        if new >= expected and now == last:  # a stack is written frame by frame
            break
        last = now
    return str(folder.relative_to(run.path)) if any(p.suffix == ".stacks" for p in _written(folder)) else None


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: one that has none would die of it. False where it cannot be known."""
    return _is_in_mask(pid, "SigCgt:", number)


def blocks(pid: int, number: int) -> bool:
    """Whether a process's main thread keeps a signal waiting, for another thread to take. False where it cannot be known."""
    return _is_in_mask(pid, "SigBlk:", number)


def _is_in_mask(pid: int, mask: str, number: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(mask))
        return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except (OSError, StopIteration, ValueError, IndexError):
        return False


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def _written(folder: Path) -> dict[Path, tuple[int, int]]:
    """What ranks wrote of themselves: file -> its size and when it last changed."""
    files = [*folder.glob("rank-*.stacks"), *folder.glob("rank-*.torch-trace.json")]
    states = {path: path.stat() for path in files}
    return {path: (state.st_size, state.st_mtime_ns) for path, state in states.items() if state.st_size}
