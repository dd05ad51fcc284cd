"""Has every rank write down where it is, for whoever looks at a hang after the processes are gone.

A rank registers faulthandler for SIGUSR2 as it starts. The handler is C that takes no lock of Python's, so it answers in a
blocked collective and while another thread keeps the GIL. A rank that was stopped writes when it is let go on.
"""

import signal
import sys
import time
from pathlib import Path

import psutil

from trainer_daemon.contract.rundir import STACKS_SIGNAL, RunDir
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
    before = _sizes(folder)
    stopped = 0
    for rank in ranks:
        send_signal(rank, STACKS_SIGNAL)
        if _is_stopped(rank):
            stopped += 1
            if wake:
                send_signal(rank, signal.SIGCONT)
    expected = len(ranks) if wake else len(ranks) - stopped
    deadline = time.monotonic() + ANSWER_SECONDS
    last = before
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = _sizes(folder)
        if _grown(before, now) >= expected and now == last:  # a stack is written frame by frame
            break
        last = now
    return str(folder.relative_to(run.path)) if _sizes(folder) else None


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: one that has none would die of it. False where it cannot be known."""
    if sys.platform != "linux":
        return False
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
    except (OSError, StopIteration, ValueError, IndexError):
        return False


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def _sizes(folder: Path) -> dict[Path, int]:
    """Of the stack files that have something in them."""
    return {p: size for p in folder.glob("rank-*.stacks") if (size := p.stat().st_size)}


def _grown(before: dict[Path, int], now: dict[Path, int]) -> int:
    return sum(size > before.get(path, 0) for path, size in now.items())
