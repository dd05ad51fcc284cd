"""What processes print, in files of bounded size: LOG, then LOG.1 … LOG.4, the newest first.

A rank appends to its file itself, with no pipe and no supervisor between; so it turns the file over itself, when it
reports a step: rename, open anew, and nothing is lost. Whatever floods a file between two steps is cut by the supervisor,
which loses it and says so: a full disk would cost the checkpoints.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

LOG_BYTES = 32 * 2**20
"""A file of this size is turned over."""
OLDER_FILES = 4
CUT_BYTES = 2 * LOG_BYTES
"""A file of this size is cut to nothing, by the supervisor, which looks many times a second."""


def say(text: str) -> None:
    """Print to stderr, where there is room: the full disk of a log must end no process that trains."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class OwnOutput:
    """stdout and stderr of this process, in a file of its own: a pipe would break with its reader and take it along."""

    def __init__(self, log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        fd = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    def turn_over_if_large(self) -> None:
        """Costs one fstat when it is not. A disk that refuses leaves everything as it is."""
        with suppress(OSError):
            if os.fstat(1).st_size >= LOG_BYTES:
                turn_over(self._log)
                self._open()


def turn_over(log: Path) -> None:
    """LOG becomes LOG.1, which becomes LOG.2, and so on; the oldest go, until all older ones fit in their share."""
    older = [log.with_name(f"{log.name}.{n}") for n in range(1, OLDER_FILES + 1)]
    for path, newer in zip(reversed(older), [*reversed(older[:-1]), log], strict=True):
        with suppress(FileNotFoundError):
            newer.replace(path)
    held = 0
    for path in older:
        with suppress(FileNotFoundError):
            held += path.stat().st_size
            if held > OLDER_FILES * LOG_BYTES:
                path.unlink()


def cut_outgrown(folder: Path) -> list[str]:
    """Empty every log of the folder that nobody turned over in time; their names. Those that append go on at the start."""
    cut = []
    for log in folder.glob("*.log"):
        with suppress(OSError):
            if log.stat().st_size >= CUT_BYTES:
                os.truncate(log, 0)
                cut.append(log.name)
    return cut
