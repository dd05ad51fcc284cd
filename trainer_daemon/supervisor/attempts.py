"""What an agent leaves in `attempts/N/` for whoever supervises it, then or later.

Files, because a supervisor that took a run over is not the agent's parent: it can neither wait for it nor ask it.
"""

import os
import sys
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from trainer_daemon.contract.rundir import write_durably

T = TypeVar("T")


class ProcessIdentity(msgspec.Struct, frozen=True):
    """A process, told apart from a later one with the same pid."""

    pid: int
    started: float
    """Clock ticks after boot on Linux, seconds since 1970 elsewhere."""
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """The living process with that pid; None when there is none, or only its zombie."""
        try:
            if sys.platform == "linux":
                state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
                found = None if state in "ZX" else cls(pid, float(fields[18]), boot_id)
            else:
                found = cls(pid, psutil.Process(pid).create_time(), "")
        except (OSError, psutil.Error):
            return None
        return found

    def is_alive(self) -> bool:
        return ProcessIdentity.of(self.pid) == self


class RankResult(msgspec.Struct, frozen=True):
    """How one rank ended; only ranks that did not end well are listed."""

    rank: int
    exit_code: int | None
    signal: str | None
    message: str
    is_root_cause: bool


class AttemptResult(msgspec.Struct, frozen=True):
    """How one launch of the ranks ended."""

    ranks: list[RankResult] = []
    error: str | None = None
    """What went wrong in the agent itself, if anything did."""


AGENT_FILE = "agent.json"
RESULT_FILE = "result.json"


def write_struct(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def read_struct(path: Path, kind: type[T]) -> T | None:
    """The file's value; None when it is missing or is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None


def write_own_identity(attempt_folder: Path) -> None:
    """Called by an agent first of all."""
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    write_struct(attempt_folder / AGENT_FILE, identity)
