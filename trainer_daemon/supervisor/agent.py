"""The agent as the supervisor sees it: one that it launched, or one that it found running when it came."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import psutil

from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.supervisor.attempts import AGENT_FILE, ProcessIdentity, read_struct
from trainer_daemon.supervisor.sweep import RUN_MARK, send_signal


class Agent(Protocol):
    """One launch of the ranks, seen from outside."""

    @property
    def pid(self) -> int | None:
        """None when it is not known."""

    def is_over(self) -> bool:
        """No process of this launch acts any more."""

    def ending(self) -> str:
        """How the agent itself ended, for the reader, once it is over."""

    def terminate(self) -> None:
        """Ask it to end: the ranks save and leave."""


class LaunchedAgent:
    """A child of this process, in its own session: a hang-up of ours does not reach it."""

    def __init__(self, command: list[str], run: RunDir, attempt: int, control_after: int) -> None:
        """Raises OSError when it cannot be started."""
        # PYTHONSAFEPATH: a folder named cli/ in the working folder must not shadow ours
        environment = {
            **os.environ,
            "PYTHONSAFEPATH": "1",
            "LLMCTL_ATTEMPT": str(attempt),
            "LLMCTL_CONTROL_AFTER": str(control_after),
            RUN_MARK: str(run.path),
        }
        run.logs.mkdir(exist_ok=True)
        log = os.open(run.agent_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(
                command,
                cwd=run.path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def ending(self) -> str:
        code = self._process.returncode
        return describe_exit(code) if code is not None else "is still running"

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)


class AdoptedAgent:
    """The launch of a supervisor that died: watched by its identity and by the lock of its ranks."""

    def __init__(self, run: RunDir, identity: ProcessIdentity | None) -> None:
        self._run = run
        self._identity = identity

    @classmethod
    def find(cls, run: RunDir, attempt: int) -> "AdoptedAgent | None":
        """The launch that still goes on in this run, if there is one."""
        identity = read_struct(run.attempt(attempt) / AGENT_FILE, ProcessIdentity)
        agent = cls(run, identity)
        return None if agent.is_over() else agent

    @property
    def pid(self) -> int | None:
        return self._identity.pid if self._identity else None

    def is_over(self) -> bool:
        agent_lives = self._identity is not None and self._identity.is_alive()
        return not agent_lives and not self._run.ranks_are_alive()

    def ending(self) -> str:
        return "ended"

    def terminate(self) -> None:
        if self._identity is not None and self._identity.is_alive():
            send_signal(psutil.Process(self._identity.pid), signal.SIGTERM)


def elastic_agent_command(run: Path, attempt: int) -> list[str]:
    """The command of torch's elastic launcher for one attempt."""
    return [sys.executable, "-m", "trainer_daemon", "agent", str(run), "--attempt", str(attempt)]


def describe_exit(code: int) -> str:
    """`-9` -> "was killed by SIGKILL"."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
