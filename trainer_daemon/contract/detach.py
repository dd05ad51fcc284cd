"""Starts a process that belongs to nobody: both ends of the ready pipe.

A fresh interpreter in a session of its own, not a fork of a CLI that may have threads; it forks once more by itself, so
that it is no child of whoever started it and leaves no zombie there. The starter waits on a pipe until the new process
says that it is up, or why not.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from trainer_daemon.contract.errors import LlmctlError, WaitTimeoutError, error_from
from trainer_daemon.contract.rundir import home

START_SECONDS = 60.0


def start_detached(
    program: Sequence[str], question: Any = None, *, timeout_seconds: float = START_SECONDS
) -> dict[str, Any]:
    """Start `PROGRAM --ready-fd N` with a question as JSON on its stdin; returns what it says once it is up.

    Raises its own error when it refuses, and WaitTimeoutError when it does not come up in time; then nothing of it is
    left running.
    """
    ready, ready_for_daemon = os.pipe()
    # PYTHONSAFEPATH: a folder named cli/ in the working folder must not shadow ours
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "LLMCTL_HOME": str(home())}
    with (
        tempfile.TemporaryFile() as asked,
        tempfile.TemporaryFile() as said,
        os.fdopen(ready, "rb") as answer,
    ):
        asked.write(json.dumps(question).encode())
        asked.seek(0)
        try:
            first = subprocess.Popen(
                [*program, "--ready-fd", str(ready_for_daemon)],
                stdin=asked,
                stdout=said,
                stderr=said,
                env=environment,
                pass_fds=(ready_for_daemon,),
                start_new_session=True,
                umask=0o077,
            )
        finally:
            os.close(ready_for_daemon)
        deadline = time.monotonic() + timeout_seconds
        line = _read_line(answer, deadline)
        if line is None:
            # the session still has the number of its first process, whether that lives or not
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        if line is None:
            raise WaitTimeoutError(f"the daemon did not come up within {timeout_seconds:g} s and was ended")
        return _understand(line, said)


def _read_line(pipe: IO[bytes], deadline: float) -> bytes | None:
    """What the daemon wrote until the end of the line or of itself; None when the time is over."""
    data = b""
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return None
        part = os.read(pipe.fileno(), 65536)
        if not part:
            break
        data += part
    return data


def _understand(line: bytes, said: IO[bytes]) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        said.seek(0)
        last_words = said.read()[-4000:].decode("utf-8", "replace").strip()
        raise LlmctlError(f"the daemon ended before it was up; it said: {last_words or 'nothing'}") from None
    if "error" in answer:
        raise error_from(answer["exit_code"], answer["error"])
    report: dict[str, Any] = answer
    return report


class ReadyPipe:
    """The new process's end. Whoever started it may be gone by now: that is none of its concern."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_inheritable(fd, False)

    def ready(self, report: dict[str, Any]) -> None:
        """Say that all is up; the report must not have the key `error`."""
        self._say(report)

    def refuse(self, error: LlmctlError) -> None:
        """Say why not."""
        self._say({"error": str(error), "exit_code": error.exit_code})

    def _say(self, what: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):
            os.write(self._fd, json.dumps(what).encode() + b"\n")
        os.close(self._fd)


def leave_parent() -> None:
    """Go on as a process whose parent is gone. Call it before any thread exists."""
    if os.fork():
        os._exit(0)


def settle_in(folder: Path, log: Path) -> None:
    """Stand in the run folder, read from nothing, write to the log."""
    os.chdir(folder)
    log.parent.mkdir(exist_ok=True)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)
