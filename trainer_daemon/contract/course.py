"""The course of a run, read in bulk: training steps as columns of numbers, all else as the journal's records.

A million steps are thirty thousand lines, thinned. Each as an object that is made, sorted in and taken apart again costs
25 µs, as a row of columns 4. The columns are those of `TrainStep` that are single numbers, so a metric that is declared
there is among them. Nothing is stored in this form: the journal's lines are, and `contract.history` thins them.
"""

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from heapq import merge
from operator import attrgetter, itemgetter
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias, get_args

import msgspec

from trainer_daemon.contract.events import TrainStep
from trainer_daemon.contract.history import read_thinned, settled_lines
from trainer_daemon.contract.journal import (
    STREAMS,
    Record,
    SteadyClock,
    Stream,
    decode_line,
    read_stream,
    with_steady_time,
)

STREAM: Stream = "train"
"""The one that has the steps."""
MOST_ROWS = 4096
"""In one `Steps`: whoever folds them has keys to answer in between."""
KIND = b'"kind":"%s"' % TrainStep.kind().encode()


@dataclass(frozen=True, slots=True)
class Steps:
    """Training steps that follow each other, with nothing else between them."""

    columns: dict[str, "array[float]"]
    """Of one length, by name: `seq`, `wall` and `mono` of the records, and whatever is one number in `TrainStep`, NaN where it
    is not known."""
    last: Record
    """The newest of them, with what is no number."""

    def __len__(self) -> int:
        return len(self.columns["seq"])


Item: TypeAlias = Record | Steps


def read_course(journal: Path) -> Iterator[Item]:
    """What `contract.history.read_history` gives, in the same order."""
    others = [list(with_steady_time(read_thinned(journal, stream))) for stream in STREAMS if stream != STREAM]
    # steps stay together up to where another stream has something to say
    breaks = sorted(time for stream in others for time, _ in stream)
    for _, item in merge(*others, _timed_course(journal, breaks), key=itemgetter(0)):
        yield item


def _timed_course(journal: Path, breaks: list[float]) -> Iterator[tuple[float, Item]]:
    """The stream of the steps, each item with the time of its beginning; no steps go on across one of the breaks."""
    clock = SteadyClock()
    rows = _Rows()
    last_seq = 0
    coming = iter([*breaks, math.inf])
    next_break = next(coming)
    for line in settled_lines(journal, STREAM):
        row = _decoded_step(line)
        if row is None:
            if (record := decode_line(line, STREAM)) is None:
                continue
            yield from rows.taken()
            last_seq = record.seq
            yield clock.time(record.wall, record.mono), record
            continue
        time = clock.time(row.wall, row.mono)
        if time >= next_break or len(rows) == MOST_ROWS:
            yield from rows.taken()
            while time >= next_break:
                next_break = next(coming)
        last_seq = row.seq
        rows.add(time, row, line)
    yield from rows.taken()
    for record in read_stream(journal, STREAM, last_seq):
        yield clock.time(record.wall, record.mono), record


class _Rows:
    """Steps that are gathered until something else comes."""

    def __init__(self) -> None:
        self._rows: list[Any] = []
        self._began = 0.0
        self._newest_line = b""

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, time: float, row: Any, line: bytes) -> None:
        if not self._rows:
            self._began = time
        self._rows.append(row)
        self._newest_line = line

    def taken(self) -> Iterator[tuple[float, Steps]]:
        """What was gathered, if there is something; it is gone from here."""
        last = decode_line(self._newest_line, STREAM) if self._rows else None
        if last is not None:
            values = zip(*map(_values_of, self._rows), strict=True)
            columns = {name: _column(column) for name, column in zip(COLUMNS, values, strict=True)}
            yield self._began, Steps(columns, last)
        self._rows = []


def _column(values: Iterable[float | None]) -> "array[float]":
    return array("d", [math.nan if value is None else value for value in values])


def _is_one_number(kind: Any) -> bool:
    return set(get_args(kind) or (kind,)) <= {int, float, bool, NoneType}


HEAD = ("seq", "wall", "mono")
NUMBERS = [field for field in fields(TrainStep) if _is_one_number(field.type)]
COLUMNS = (*HEAD, *(field.name for field in NUMBERS))
_values_of = attrgetter(*COLUMNS)
_StepLine = msgspec.defstruct(
    "_StepLine",
    [
        *((name, float) for name in HEAD),
        *((f.name, f.type) for f in NUMBERS if f.default is MISSING),
        *((f.name, f.type, f.default) for f in NUMBERS if f.default is not MISSING),
    ],
)
_decoder = msgspec.json.Decoder(_StepLine)


def _decoded_step(line: bytes) -> Any:
    """The numbers of a whole line, as attributes; None where it is another event's, or a step of another version that lacks some."""
    if KIND not in line:
        return None
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
