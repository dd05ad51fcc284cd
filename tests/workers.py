"""Inference workers that a test's home has, so that none outlives its test."""

from pathlib import Path

import psutil

from trainer_daemon.contract.rundir import is_locked


def workers_of(home: Path) -> list[psutil.Process]:
    """The living workers of a home."""
    if not is_locked(home / "inference/worker.lock"):
        return []
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "infer" in (process.info["cmdline"] or []):
            try:
                found += [process] if process.environ().get("LLMCTL_HOME") == str(home) else []
            except psutil.Error:  # it has just ended
                continue
    return found


def end_workers(home: Path) -> None:
    """End them, and wait until they are gone."""
    found = workers_of(home)
    for process in found:
        process.kill()
    psutil.wait_procs(found, timeout=60)
