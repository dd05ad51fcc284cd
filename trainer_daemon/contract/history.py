"""The history of a long run, thinned: what a screen can show of a million steps, read in a moment.

What lies in a journal behind its newest lines does not change any more. It is thinned in pieces of a few megabytes, as it
grows: `history/` has a file for each, with the same lines but for most of those that come all the time. Of every 64 steps
the last one and the one with the highest loss stay, so that no spike is lost; of looks at the ranks and the machine one of
many. The newest lines are read one and all. The journal stays the truth: a piece that is missing or damaged is made again,
by the supervisor or by whoever reads, and where it cannot be written it is made for that reader alone.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from trainer_daemon.contract.journal import (
    STREAMS,
    JournalReader,
    Record,
    Stream,
    decode_line,
    in_order_of_time,
    is_whole,
    read_stream,
    segments,
)
from trainer_daemon.contract.rundir import write_durably

STEPS_PER_GROUP = 64
"""Of so many steps in a row two are kept."""
EVERY = {b"ranks_paced": 16, b"experts_used": 16, b"system_sampled": 32}
"""Of these other kinds one in so many is kept."""
THINNED: tuple[Stream, ...] = ("train", "system")
"""The streams that have such kinds."""
KIND = re.compile(rb'"kind":"(train_step|%s)"' % b"|".join(EVERY))
PIECE_BYTES = 4 * 2**20
"""A piece has the lines that begin within so many bytes: six thousand steps, thinned in 20 ms."""
WHOLE_BYTES = 2 * 2**20
"""At least so much of the segment being written, some three thousand steps, is read one and all."""
READ_BYTES = 2**20
LOSS = re.compile(rb'"loss_nats":([-+.e0-9]+|null)')


def read_history(journal: Path) -> Iterator[Record]:
    """The records of all streams in order of time, thinned. The last record of each stream is always among them, so a watcher may go on behind it."""
    yield from in_order_of_time(read_thinned(journal, stream) for stream in STREAMS)


def read_thinned(journal: Path, stream: Stream) -> Iterator[Record]:
    """The records of one stream, as `read_history` gives those of all."""
    last_seq = 0
    for line in settled_lines(journal, stream):
        if (record := decode_line(line, stream)) is not None:
            last_seq = record.seq
            yield record
    yield from read_stream(journal, stream, last_seq)


def history_lines(journal: Path) -> Iterator[tuple[Stream, bytes]]:
    """What `read_history` reads as it stands in the files, stream by stream: for a watcher on another machine."""
    for stream in STREAMS:
        last_seq = 0
        for line in settled_lines(journal, stream):
            if (record := decode_line(line, stream)) is not None:
                last_seq = record.seq
                yield stream, line
        with JournalReader(journal, stream, last_seq) as reader:
            while batch := reader.poll():
                yield from ((stream, line) for _, line in batch)


def settled_lines(journal: Path, stream: Stream) -> Iterator[bytes]:
    """The whole lines of a stream that are on the disk, thinned but for the newest. What was written meanwhile, or waits
    for room on the disk, comes after them and is left to a JournalReader."""
    for segment, pieces, is_open in _divided(journal, stream):
        for number in range(pieces):
            yield from _thinned_piece(segment, number)
        if is_open:
            with segment.open("rb") as file:
                yield from _whole_lines(file, pieces * PIECE_BYTES, None)


def thin_history(journal: Path, most: int | None = None) -> None:
    """Thin what was not yet, at most so many pieces. Raises OSError where the journal cannot be read."""
    missing = (
        (segment, number)
        for stream in THINNED
        for segment, pieces, _ in _divided(journal, stream)
        for number in range(pieces)
        if not _piece_file(segment, number).exists()
    )
    for segment, number in islice(missing, most):
        _thin(segment, number)


def _divided(journal: Path, stream: Stream) -> Iterator[tuple[Path, int, bool]]:
    """The segments of a stream, in how many pieces each is read, and whether it is the one being written."""
    every = segments(journal, stream)
    for segment in every:
        is_open = segment is every[-1]
        if stream not in THINNED:
            yield segment, 0, True
        elif is_open:
            yield segment, max(0, segment.stat().st_size - WHOLE_BYTES) // PIECE_BYTES, True
        else:
            yield segment, -(-segment.stat().st_size // PIECE_BYTES), False


def _piece_file(segment: Path, number: int) -> Path:
    return segment.parent / "history" / f"{segment.stem}.{number:02d}.jsonl"


def _thinned_piece(segment: Path, number: int) -> list[bytes]:
    """The lines kept of a piece, thinned now when it was not before or when one is damaged."""
    with suppress(OSError):
        kept = _piece_file(segment, number).read_bytes().splitlines(keepends=True)
        if kept and all(map(is_whole, kept)):
            return kept
    return _thin(segment, number)


def _thin(segment: Path, number: int) -> list[bytes]:
    """Keep and store the lines of a piece that tell its course. Damaged ones are left out."""
    path = _piece_file(segment, number)
    with segment.open("rb") as file:
        kept = list(thinned(_whole_lines(file, number * PIECE_BYTES, (number + 1) * PIECE_BYTES)))
        with suppress(OSError):  # a full disk, or someone else's run: it is read whole another time, too
            path.parent.mkdir(exist_ok=True)
            os.fdatasync(file.fileno())  # nothing that is thinned outlives a power cut that its lines do not
            write_durably(path, b"".join(kept))
    return kept


def _whole_lines(file: BinaryIO, begin: int, end: int | None) -> Iterator[bytes]:
    """The undamaged lines of a file that begin in this stretch of its bytes; without an end, to the last one."""
    if begin:  # a line that began before belongs to the stretch before
        file.seek(begin - 1)
        file.readline()
    while end is None or file.tell() < end:
        # readlines goes on until it has more bytes than it was told, and without end when told 0
        lines = file.readlines(READ_BYTES if end is None else max(1, min(READ_BYTES, end - file.tell() - 1)))
        if not lines:
            return
        yield from filter(is_whole, lines)


def thinned(lines: Iterable[bytes]) -> Iterator[bytes]:
    """All lines but those that come all the time, and of each group of steps the last and the one with the highest loss, in
    their order."""
    group: list[bytes] = []
    steps = 0
    seen = dict.fromkeys(EVERY, 0)
    for line in lines:
        found = KIND.search(line)
        kind = found[1] if found else None
        if kind in seen:
            seen[kind] += 1
            if seen[kind] % EVERY[kind]:
                continue
        if kind is not None:
            group.append(line)
            steps += kind not in seen
            if 0 < steps < STEPS_PER_GROUP:
                continue
        yield from _course_of(group)
        group, steps = [], 0
        if kind is None:
            yield line
    yield from _course_of(group)


def _course_of(group: list[bytes]) -> list[bytes]:
    """Of a group's steps the one with the highest loss, one that is not finite above all, and the last one; and all else."""
    steps = [place for place, line in enumerate(group) if LOSS.search(line)]
    if not steps:
        return group
    highest = max(steps, key=lambda place: _loss(group[place]))
    left_out = {*steps} - {highest, steps[-1]}
    return [line for place, line in enumerate(group) if place not in left_out]


def _loss(line: bytes) -> float:
    found = LOSS.search(line)
    if found is None:
        return float("-inf")
    return float("inf") if found[1] == b"null" else float(found[1])
