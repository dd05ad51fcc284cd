"""Starts a run's daemon: what the CLI and the cockpit call."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer_daemon.contract.detach import START_SECONDS, start_detached
from trainer_daemon.supervisor.scope import scope_command

SUPERVISE = (sys.executable, "-m", "trainer_daemon", "supervise")


@dataclass(frozen=True, slots=True)
class ReadyReport:
    """What a daemon says when it holds its lock, has its run folder on disk and its sockets bound."""

    name: str
    path: str
    """The run folder."""
    pid: int


def start_supervisor(
    request: dict[str, Any], *, program: Sequence[str] | None = None, timeout_seconds: float = START_SECONDS
) -> ReadyReport:
    """Start a daemon, in a systemd scope of its own where there is one, for `{"name": …, "spec": {…}}`, a new run, or `{"resume": RUN_FOLDER}`, either with `"listen": "HOST:PORT"`; returns once it is up.

    Raises the daemon's own error when it refuses, and WaitTimeoutError when it does not come up in time.
    """
    program = (*scope_command(), *SUPERVISE) if program is None else program
    return ReadyReport(**start_detached(program, request, timeout_seconds=timeout_seconds))
