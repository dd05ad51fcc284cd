"""The journal: append-only files that are the truth of a run.

A journal is a folder of streams. A stream has exactly one writer (held by flock on its newest segment), its own
gapless sequence from 1, and segments of bounded size. So rank 0 and the supervisor never wait for each other, and
"nothing was lost" is one comparison of numbers a stream. A line is JSON:

    {"seq":7,"wall":...,"mono":...,"attempt":1,"kind":"train_step",<the event's fields>,"crc":"9ac3f1e2"}

where crc is CRC-32 of everything before `,"crc"`. What follows the last whole line is torn: readers wait before it and
the next writer cuts it off. A damaged line with whole ones behind it stays where it is, and its number is missing from
what is read. Appending is one write() and never raises into the training loop. What a full disk refuses waits in
memory (`contract.spill`), where readers read on, and is written once there is room; if it outgrows that memory, the
numbers of what is lost are missing and a notice in their place says how many they are.
"""

import errno
import fcntl
import heapq
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import Event, Notice, from_fields, to_fields
from trainer_daemon.contract.spill import SPILL_BYTES, SpillReader, SpillWriter, spill_file

Stream = Literal["daemon", "control", "train", "system"]
"""daemon: the supervisor's events. control: the commands it accepted. train: rank 0's events. system: what the supervisor
sees of the machine, apart because it says nothing about whether the training lives."""

STREAMS: tuple[Stream, ...] = ("daemon", "control", "train", "system")
SEGMENT_BYTES = 64 * 2**20
CLOCK_JUMP_SECONDS = 1.0
CLOCK_SLEW = 0.001
"""The wall clock was set where it and the monotonic one come apart between two records by more than this, in seconds and
as a share of the time between them: a kernel that follows NTP changes a clock's rate by at most half as much."""
READ_BYTES = 8 * 2**20
"""At most this much of a segment is in memory at once."""
RETURN_BYTES = 128 * 2**10
"""At most so much of what waited for room is written with one event: a step must not wait for all of it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One journal line, decoded."""

    stream: Stream
    seq: int
    wall: float
    """Seconds since 1970, for the reader; may jump."""
    mono: float
    """CLOCK_MONOTONIC seconds of the machine, for durations."""
    attempt: int
    kind: str
    event: Event | None
    """None when this version does not know the kind."""


def encode_line(event: Event, *, seq: int, attempt: int) -> bytes:
    """The journal line of an event, newline included."""
    # the head by hand and the event as it is: no dictionary of all its fields, in every step
    numbers = seq, time.time(), time.monotonic(), attempt, event.kind().encode()
    head = b'{"seq":%d,"wall":%.6f,"mono":%.6f,"attempt":%d,"kind":"%s"' % numbers
    fields = _json().encode(event)[1:-1]
    payload = head + b"," + fields if fields else head
    return b'%s,"crc":"%08x"}\n' % (payload, zlib.crc32(payload))


def decode_line(line: bytes, stream: Stream) -> Record | None:
    """The record of one line, or None when it is torn or damaged."""
    payload = _checked_payload(line)
    if payload is None:
        return None
    reader = _json()
    try:
        values = reader.decode(payload + b"}")
        kind = values["kind"]
        return Record(
            stream,
            values["seq"],
            values["wall"],
            values["mono"],
            values["attempt"],
            kind,
            from_fields(kind, values),
        )
    except reader.unreadable:
        return None


@dataclass(frozen=True, slots=True)
class _Json:
    """Reads and writes the JSON of a line."""

    encode: Callable[[Event], bytes]
    """An event's fields as an object. NaN and infinity, which JSON does not know, become null: a Notice says in words that a loss is not finite."""
    decode: Callable[[bytes], Any]
    unreadable: tuple[type[Exception], ...]
    """What decoding and a look into the result may raise."""


@cache
def _json() -> _Json:
    """msgspec where there is one, at a sixth of the time of the standard library both ways: 3 us for a step's event."""
    wrong = (ValueError, KeyError, TypeError)
    try:
        import msgspec
    except ImportError:  # a rank on an image that has torch and little else
        return _Json(_encode_plainly, json.loads, wrong)

    def encode(event: Event) -> bytes:
        try:
            return msgspec.json.encode(event)
        except Exception:  # noqa: BLE001  # half a character, from a sample that was cut; a kind of str; a huge int
            return _encode_plainly(event)

    return _Json(encode, msgspec.json.decode, (*wrong, msgspec.MsgspecError))


def _encode_plainly(event: Event) -> bytes:
    text = json.dumps(_finite(to_fields(event)), separators=(",", ":"), ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    """The value with None for every float in it that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_whole(line: bytes) -> bool:
    """Whether a line is what was written; a tenth of the work of reading it."""
    return _checked_payload(line) is not None


def _checked_payload(line: bytes) -> bytes | None:
    """What the line's CRC covers, when the line is whole and the CRC is right."""
    payload, mark, rest = line.rpartition(b',"crc":"')
    if not mark or len(rest) != 11 or not rest.endswith(b'"}\n'):
        return None
    try:
        return payload if int(rest[:8], 16) == zlib.crc32(payload) else None
    except ValueError:
        return None


def segments(folder: Path, stream: Stream) -> list[Path]:
    """The stream's files, oldest first."""
    return sorted(folder.glob(f"{stream}-*.jsonl"))


def sync_stream(folder: Path, stream: Stream, first: str = "") -> str:
    """Force what was appended to the disk, from the segment of this name on; the name of the newest one. The one that writes need
    not wait for it. Raises OSError for a disk that does not take it."""
    for segment in segments(folder, stream):
        if segment.name >= first:
            fd = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
            first = segment.name
    return first


class JournalWriter(Closing):
    """The one writer of a stream. Opening repairs a torn tail and continues the sequence."""

    def __init__(self, folder: Path, stream: Stream, attempt: int) -> None:
        """Raises RefusedError when another process holds the stream."""
        folder.mkdir(parents=True, exist_ok=True)
        self.stream: Stream = stream
        self.attempt = attempt
        self.repaired_bytes = 0
        self._folder = folder
        self._torn = False
        """What follows `_end` in the file may be part of a line."""
        self._error = ""
        """What the disk said when it last refused a line."""
        existing = segments(folder, stream)
        self._segment = int(existing[-1].stem.rpartition("-")[2]) if existing else 1
        self._fd = self._open_and_take()
        self._stored_seq, self._end = self._repair_tail(existing)
        self._spill = SpillWriter(spill_file(folder, stream))
        if not existing:  # what waits there is of another run that had this name
            self._spill.clear()
        waiting = [r.seq for line in self._spill.waiting(SPILL_BYTES) if (r := decode_line(line, stream))]
        self._seq = max(self._stored_seq, *waiting[-1:], 0)
        self._is_refused = bool(waiting)
        """Lines wait for room on the disk, or were lost for want of it."""

    def _path(self) -> Path:
        return self._folder / f"{self.stream}-{self._segment:06d}.jsonl"

    def _open_and_take(self) -> int:
        fd = os.open(self._path(), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(fd)
            raise RefusedError(
                f"another process is writing {self._path()}; is this run already going?"
            ) from e
        return fd

    def _repair_tail(self, existing: list[Path]) -> tuple[int, int]:
        """Cut what follows the last whole line of the newest segment; returns the last sequence number and the end.

        A number whose line is damaged is not given again as long as a whole line follows it: watchers have passed it.
        """
        last, end = _last_whole_line(self._path())
        size = os.fstat(self._fd).st_size
        if size > end:
            os.ftruncate(self._fd, end)
            self.repaired_bytes = size - end
        older = existing[:-1]
        while last is None and older:
            last, _ = _last_whole_line(older.pop())
        record = decode_line(last, self.stream) if last else None
        return (record.seq if record else 0), end

    @property
    def last_seq(self) -> int:
        return self._seq

    def append(self, event: Event) -> bool:
        """Write one event, or keep it until there is room; whether it is held by either.

        Never raises for a full or failing disk: training outranks its record.
        """
        if self._is_refused:
            self._write_back(RETURN_BYTES)
        line = self._next_line(event)
        if not self._is_refused and self._write(line, self._seq):
            return True
        is_kept = self._spill.append(line)
        if is_kept and not self._is_refused:
            text = (
                f"the journal cannot be written ({self._error}); events are kept in memory, training goes on"
            )
            self._spill.append(self._next_line(Notice("warning", text)))
        self._is_refused = True
        return is_kept

    def _next_line(self, event: Event) -> bytes:
        self._seq += 1
        return encode_line(event, seq=self._seq, attempt=self.attempt)

    def _write_back(self, limit_bytes: int) -> None:
        """Write what waits, the oldest first, as far as the disk takes it."""
        for line in self._spill.waiting(limit_bytes):
            record = decode_line(line, self.stream)
            # an earlier writer may have been killed between writing a line and forgetting it
            if record is not None and record.seq > self._stored_seq and not self._write(line, record.seq):
                return
            self._spill.forget(line)
        if self._spill.is_waiting:
            return
        were_kept = self._spill.was_used
        self._spill.clear()
        self._is_refused = False
        if were_kept:
            self.append(
                Notice("info", "the journal can be written again; what was kept in memory is on its disk")
            )

    def _write(self, line: bytes, seq: int) -> bool:
        """Put a line on the disk; before it, in the place of those that were lost since the last, a notice of them."""
        if (lost := seq - 1 - self._stored_seq) > 0:
            text = f"{lost} events were lost: the journal's disk was full"
            notice = encode_line(Notice("warning", text), seq=seq - 1, attempt=self.attempt)
            if not self._put(notice):
                return False
            self._stored_seq = seq - 1
        if not self._put(line):
            return False
        self._stored_seq = seq
        return True

    def _put(self, line: bytes) -> bool:
        try:
            if self._torn:
                os.ftruncate(self._fd, self._end)
                self._torn = False
            if self._end + len(line) > SEGMENT_BYTES and self._end:
                self._roll()
            self._torn = True
            if os.write(self._fd, line) < len(line):  # a disk that fills up takes part of a line first
                self._error = os.strerror(errno.ENOSPC)
                return False
            self._torn = False
        except (OSError, RefusedError) as e:
            self._error = (e.strerror if isinstance(e, OSError) else None) or str(e)
            return False
        self._end += len(line)
        return True

    def _roll(self) -> None:
        self._segment += 1
        try:
            fd = self._open_and_take()
        except (OSError, RefusedError):
            self._segment -= 1
            raise
        os.close(self._fd)
        self._fd, self._end = fd, 0

    def sync(self) -> None:
        """Force what was appended to the disk."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """What the disk still refuses stays in memory, for readers and for the next writer."""
        if self._is_refused:
            self._write_back(SPILL_BYTES)
        self._spill.close()
        os.close(self._fd)


class JournalReader(Closing):
    """Follows one stream from a sequence number on; `poll()` gives what is new. Costs three stats when nothing is."""

    def __init__(self, folder: Path, stream: Stream, after_seq: int = 0) -> None:
        self.stream: Stream = stream
        self.last_seq = after_seq
        self._folder = folder
        self._next_segment = ""
        """The path of the segment after the open one, which the writer may have begun."""
        self._offset = 0
        self._fd = -1
        self._spill = SpillReader(spill_file(folder, stream))

    @property
    def is_ahead_of_disk(self) -> bool:
        """Whether there are records that the disk has no room for, so that what was read may go with the machine."""
        return self._spill.exists()

    def poll(self, limit: int = 5000) -> list[tuple[Record, bytes]]:
        """Up to `limit` new records with their raw lines, in order."""
        found: list[tuple[Record, bytes]] = []
        # looked at before the disk: what leaves the memory in between is then found there
        waiting = self._spill.look()
        while len(found) < limit:
            if self._fd < 0 and not self._open_next():
                break
            batch = self._read_segment(limit - len(found))
            if not batch and (newer := self._newer_segment()):
                # the writer may have ended this one after we looked and before it rolled
                batch = self._read_segment(limit - len(found))
                if not batch:
                    self._follow(newer)
                    continue
            if not batch:
                break
            found += batch
        if waiting and self._fd >= 0:
            found += self._read_waiting(waiting, limit - len(found))
        return found

    def _read_waiting(self, waiting: bytes, limit: int) -> list[tuple[Record, bytes]]:
        found: list[tuple[Record, bytes]] = []
        for line in waiting.splitlines(keepends=True):
            if len(found) >= limit:
                break
            self._spill.passed(len(line))
            record = decode_line(line, self.stream)
            if record is not None and record.seq > self.last_seq:
                self.last_seq = record.seq
                found.append((record, line))
        return found

    def _read_segment(self, limit: int) -> list[tuple[Record, bytes]]:
        size = os.fstat(self._fd).st_size
        found: list[tuple[Record, bytes]] = []
        position = self._offset
        while position < size and not found:
            data = os.pread(self._fd, min(size - position, READ_BYTES), position)
            *lines, rest = data.split(b"\n")
            for body in lines:
                line = body + b"\n"
                position += len(line)
                record = decode_line(line, self.stream)
                # a damaged line is left behind with the first whole one after it; until then a writer may cut it off
                if record is None:
                    continue
                self._offset = position
                if record.seq > self.last_seq:
                    self.last_seq = record.seq
                    found.append((record, line))
                    if len(found) == limit:
                        return found
            if len(data) < READ_BYTES:
                break  # what is left has no end yet
            if not lines:
                position += len(rest)
        return found

    def _open_next(self) -> bool:
        """Open the segment that holds the next record."""
        paths = segments(self._folder, self.stream)
        if not paths:
            return False
        later = [p for p in paths if _first_seq(p, self.stream) > self.last_seq + 1]
        self._open(paths[-1] if not later else paths[max(paths.index(later[0]) - 1, 0)])
        self._offset = self._offset_after(self.last_seq)
        return True

    def _offset_after(self, seq: int) -> int:
        """Byte offset of a line start at or before the record that follows `seq`, by bisection over the file."""
        low, high = 0, os.fstat(self._fd).st_size
        while high - low > 2**16:
            middle = (low + high) // 2
            window = os.pread(self._fd, 2**16, middle)
            before, *lines = window.split(b"\n")[:-1] or [b""]
            whole = (decode_line(line + b"\n", self.stream) for line in lines)
            record = next((r for r in whole if r is not None), None)
            if record is not None and record.seq <= seq:
                low = middle + len(before) + 1
            else:
                high = middle
        return low

    def _newer_segment(self) -> Path | None:
        """The segment after the one that is open, once the writer has begun it."""
        # no path is put together and no exception made where nothing is new: a rank looks for commands in every step
        return Path(self._next_segment) if os.access(self._next_segment, os.F_OK) else None

    def _follow(self, path: Path) -> None:
        self._close_segment()
        self._open(path)
        self._offset = 0

    def _open(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        number = int(path.stem.rpartition("-")[2]) + 1
        self._next_segment = str(self._folder / f"{self.stream}-{number:06d}.jsonl")

    def close(self) -> None:
        self._spill.close()
        self._close_segment()

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _first_seq(path: Path, stream: Stream) -> int:
    with path.open("rb") as file:
        records = (decode_line(line, stream) for line in file)
        return next((record.seq for record in records if record is not None), 1 << 62)


def _last_whole_line(path: Path) -> tuple[bytes | None, int]:
    """The last undamaged line of a segment, if there is one, and the offset of what follows it."""
    last, end, position = None, 0, 0
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            if _checked_payload(line) is not None:
                last, end = line, position
    return last, end


def read_stream(folder: Path, stream: Stream, after_seq: int = 0) -> Iterator[Record]:
    """Every record of one stream behind `after_seq`."""
    with JournalReader(folder, stream, after_seq) as reader:
        while batch := reader.poll():
            yield from (record for record, _ in batch)


def read_all(folder: Path, after: dict[str, int] | None = None) -> Iterator[Record]:
    """Every record of all streams of a run, ordered by wall time between streams and by sequence within one.

    `after`: per stream, the sequence number to begin behind.
    """

    yield from in_order_of_time(read_stream(folder, s, (after or {}).get(s, 0)) for s in STREAMS)


def in_order_of_time(streams: Iterable[Iterable[Record]]) -> Iterator[Record]:
    """Streams merged by wall time, each in its own order, also where somebody set the clock in between."""
    timed = heapq.merge(*map(with_steady_time, streams), key=lambda pair: pair[0])
    yield from (record for _, record in timed)


def with_steady_time(stream: Iterable[Record]) -> Iterator[tuple[float, Record]]:
    """The records of a stream, each with its time by a `SteadyClock`."""
    clock = SteadyClock()
    for record in stream:
        yield clock.time(record.wall, record.mono), record


class SteadyClock:
    """Wall time along a stream as if the clock had never been set: what it jumped by against the monotonic clock, which starts
    anew with the machine, is taken off."""

    def __init__(self) -> None:
        self._wall, self._mono = math.nan, math.inf
        self._jumped = 0.0

    def time(self, wall: float, mono: float) -> float:
        """Of the next record."""
        passed = mono - self._mono
        if passed < 0:
            self._jumped = 0.0
        else:
            jump = wall - self._wall - passed
            self._jumped += jump if abs(jump) > CLOCK_JUMP_SECONDS + CLOCK_SLEW * passed else 0.0
        self._wall, self._mono = wall, mono
        return wall - self._jumped
