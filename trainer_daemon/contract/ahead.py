"""The course of a run, read by a process of its own. A cockpit that is opened has to load Textual and numpy first, which one
interpreter does on one core; meanwhile this one takes the journal apart, and what it hands over is columns of numbers.

Nothing hangs on it: where it cannot be started the journal is read here, and where it ends early a feed that is opened
behind what came brings the rest, as it brings whatever is written later.
"""

import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trainer_daemon.contract.closing import Closing

if TYPE_CHECKING:  # the journal's modules are loaded when there is something to read
    from trainer_daemon.contract.course import Item
    from trainer_daemon.contract.journal import Record

LENGTH_BYTES = 8
"""Before each message, how long it is."""
PIPE_BYTES = 2**20
"""What the system lets a pipe hold at most: as much is there at once when it is asked for."""


class CourseAhead(Closing):
    """Has a run's journal read from now on; `items` gives what comes of it."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "trainer_daemon", "course", str(journal)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pipesize=PIPE_BYTES,
                start_new_session=True,  # a Ctrl-C is the reader's own, who ends this one
            )
        except OSError:  # out of processes or memory: it is read here
            return

    def items(self) -> "Iterator[Item]":
        """What `contract.course.read_course` gives, or the beginning of it. To be asked for once."""
        from trainer_daemon.contract.course import read_course

        stream = self._process.stdout if self._process else None
        first = next(received(stream), None) if stream else None
        if stream is None or first is None:
            yield from read_course(self._journal)
        else:
            yield first
            yield from received(stream)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def message_of(item: "Item") -> bytes:
    """An item as it is sent."""
    import msgspec

    from trainer_daemon.contract.journal import Record

    if isinstance(item, Record):
        return _framed(msgspec.msgpack.encode((_told(item), None)))
    columns = {name: values.tobytes() for name, values in item.columns.items()}
    return _framed(msgspec.msgpack.encode((_told(item.last), columns)))


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES) + body


def _told(record: "Record") -> tuple[Any, ...]:
    from trainer_daemon.contract.events import to_fields

    fields = None if record.event is None else to_fields(record.event)
    return record.stream, record.seq, record.wall, record.mono, record.attempt, record.kind, fields


def received(stream: IO[bytes]) -> "Iterator[Item]":
    """The items that were sent, to the last one that came whole."""
    import msgspec

    from trainer_daemon.contract.course import Steps
    from trainer_daemon.contract.events import from_fields
    from trainer_daemon.contract.journal import Record

    while len(head := stream.read(LENGTH_BYTES)) == LENGTH_BYTES:
        length = int.from_bytes(head)
        if len(body := stream.read(length)) < length:
            return
        (name, seq, wall, mono, attempt, kind, fields), columns = msgspec.msgpack.decode(body)
        event = None if fields is None else from_fields(kind, fields)
        record = Record(name, seq, wall, mono, attempt, kind, event)
        if columns is None:
            yield record
        else:
            yield Steps({metric: array("d", values) for metric, values in columns.items()}, record)
