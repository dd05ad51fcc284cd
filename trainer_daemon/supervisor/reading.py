"""Requests that only read: a range of the journal, a part of a log. Bounded, so that one answer holds up nobody for long."""

from typing import Any

import msgspec

from trainer_daemon.contract.journal import JournalReader, Stream
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.wire import RANGE_LIMIT

RANGE_BYTES = 4 * 2**20
"""An answer ends with the line that passes this."""


class RangeArguments(msgspec.Struct, frozen=True):
    """The wire's `range`: what follows a number in a stream."""

    stream: Stream
    after: int


class LogArguments(msgspec.Struct, frozen=True):
    """The wire's `log`: a part of a file in logs/."""

    source: str
    offset: int = 0


def read_range(run: RunDir, args: dict[str, Any]) -> dict[str, Any]:
    """Journal lines, whole. Raises msgspec.ValidationError for arguments of another shape."""
    wanted = msgspec.convert(args, RangeArguments)
    lines: list[bytes] = []
    size = 0
    with JournalReader(run.journal, wanted.stream, wanted.after) as reader:
        for _, line in reader.poll(RANGE_LIMIT):
            lines.append(line)
            size += len(line)
            if size > RANGE_BYTES:
                break
    return {"lines": lines}


def read_log(run: RunDir, args: dict[str, Any]) -> dict[str, Any]:
    """A part of a log, where the next one begins, and how long the log is. Raises msgspec.ValidationError for arguments of
    another shape."""
    wanted = msgspec.convert(args, LogArguments)
    text, offset, size = run.read_log(wanted.source, wanted.offset)
    return {"text": text, "offset": offset, "size": size}
