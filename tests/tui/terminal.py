"""A Python process on a pty, watched from the other end: all that a terminal would have got of it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress


class PtyProcess:
    """`python -c code arguments…` in a session of its own on a terminal of so many columns and rows."""

    def __init__(
        self,
        code: str,
        *arguments: str,
        size: tuple[int, int] = (80, 24),
        environment: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.main, self.other = pty.openpty()
        columns, rows = size
        fcntl.ioctl(self.other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.settings = termios.tcgetattr(self.other)
        """Of the line, before the process had it."""
        self.sent = bytearray()
        """By the process, so far."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=self.other,
            stdout=self.other,
            stderr=self.other,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **(environment or {})},
            start_new_session=True,
            pass_fds=pass_fds,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def read(self, limit: int = 1 << 16, seconds: float = 0.05) -> bytes:
        """What comes within a moment, at most `limit` bytes; nothing if nothing does."""
        came = b""
        if select.select([self.main], [], [], seconds)[0]:
            with suppress(OSError):
                came = os.read(self.main, limit)
        self.sent += came
        return came

    def write(self, keys: bytes) -> None:
        os.write(self.main, keys)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.main)
        os.close(self.other)
