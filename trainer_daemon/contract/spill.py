"""Where a journal's lines wait in memory while its disk refuses them.

A file on tmpfs rather than a list in the writer: whoever reads the journal reads on here, so watchers miss nothing while
the disk is full, and what waits outlives the writer's process. Bounded: beyond SPILL_BYTES the older half is given up.
Where there is no tmpfs of ours (not Linux, or it is full, too) nothing is kept, and the journal counts what it lost.
"""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.rundir import check_private

SPILL_BYTES = 16 * 2**20
"""Of one stream: some 40,000 steps."""
MEMORY = Path("/dev/shm")  # noqa: S108  # below it a folder that only we can enter
"""A file system in memory."""


def spill_file(journal: Path, stream: str) -> Path:
    """Where the lines of one stream of a journal wait."""
    name = sha256(str(journal.resolve()).encode()).hexdigest()[:16]
    return MEMORY / f"llmctl-{os.getuid()}" / f"{name}-{stream}.jsonl"


class SpillWriter(Closing):
    """The lines of one stream that the disk has not taken, oldest first. None of its methods raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._size = 0
        self._taken = 0
        """What of the file is on the disk already, in bytes from its start."""
        with suppress(OSError, RefusedError):
            check_private(path.parent)
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._size = os.pread(self._fd, 2 * SPILL_BYTES, 0).rfind(b"\n") + 1
            os.ftruncate(self._fd, self._size)  # a line that a killed writer tore

    @property
    def was_used(self) -> bool:
        """Whether lines were kept since the last `clear`."""
        return self._size > 0

    @property
    def is_waiting(self) -> bool:
        """Whether there are lines that are not on the disk."""
        return self._taken < self._size

    def append(self, line: bytes) -> bool:
        """Whether the line is kept."""
        try:
            if self._fd < 0:
                self._begin()
            if self._size + len(line) > SPILL_BYTES:
                self._give_up_older_half()
            written = os.write(self._fd, line)
        except (OSError, RefusedError):
            return False
        if written < len(line):
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            return False
        self._size += written
        return True

    def waiting(self, limit_bytes: int) -> list[bytes]:
        """The oldest lines that are not on the disk: so many bytes of them at most, but one in any case."""
        if not self.is_waiting:
            return []
        data = os.pread(self._fd, limit_bytes, self._taken)
        if not (end := data.rfind(b"\n") + 1):
            data = os.pread(self._fd, self._size - self._taken, self._taken)
            end = data.find(b"\n") + 1
        return data[:end].splitlines(keepends=True)

    def forget(self, line: bytes) -> None:
        """The oldest line that waits is on the disk."""
        self._taken += len(line)

    def clear(self) -> None:
        """Nothing waits any more."""
        self.close()
        self._size = self._taken = 0
        with suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _begin(self) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        check_private(self._path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o600)
        self._size, self._taken = os.fstat(self._fd).st_size, 0

    def _give_up_older_half(self) -> None:
        """In a new file that takes the place of the old one: readers of either see whole lines."""
        data = os.pread(self._fd, self._size, 0)
        newer = data[data.find(b"\n", len(data) // 2) + 1 :]
        draft = self._path.with_suffix(".new")
        draft.write_bytes(newer)
        draft.replace(self._path)
        self.close()
        self._begin()


class SpillReader(Closing):
    """Looks at the lines that wait. A look costs one stat while there are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._inode = 0
        self._offset = 0

    def exists(self) -> bool:
        """Whether lines wait."""
        return self._path.exists()

    def look(self) -> bytes:
        """The whole lines behind those that were passed; all that wait when the file is another one than before."""
        if self._fd < 0 and not os.access(self._path, os.F_OK):
            return b""
        try:
            inode = self._path.stat().st_ino
        except OSError:
            self.close()
            return b""
        if self._fd < 0 or inode != self._inode:
            self.close()
            try:
                check_private(self._path.parent)
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except (OSError, RefusedError):
                return b""
            self._inode = os.fstat(self._fd).st_ino
        data = os.pread(self._fd, SPILL_BYTES, self._offset)
        return data[: data.rfind(b"\n") + 1]

    def passed(self, size: int) -> None:
        """So many bytes of what `look` gave need not be given again."""
        self._offset += size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._offset = -1, 0
