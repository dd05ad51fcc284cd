"""The history of a long run, thinned: what a screen can show of a million steps, read in a second or two.

A segment of the journal that is full does not change any more. Beside it lies, once someone made it, `history/` with
the same lines but for most of those that come all the time: of every 64 steps the last one and the one with the highest
loss stay, so that no spike is lost, of looks at the ranks and the machine one of many. The segment being written is thinned as it is read, but for its newest part, which is read whole. The journal stays
the truth: a thinned segment that is missing or damaged is made again, and where it cannot be written the whole one is read.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
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
EVERY = {b"ranks_paced": 16, b"system_sampled": 32}
"""Of these other kinds one in so many is kept."""
THINNED: tuple[Stream, ...] = ("train", "system")
"""The streams that have such kinds."""
KIND = re.compile(rb'"kind":"(train_step|%s)"' % b"|".join(EVERY))
WHOLE_BYTES = 4 * 2**20
"""The newest steps, some six thousand, are read one and all."""
READ_BYTES = 2**20
LOSS = re.compile(rb'"loss_nats":([-+.e0-9]+|null)')


def read_history(journal: Path) -> Iterator[Record]:
    """The records of all streams in order of time, thinned. The last record of each stream is always among them, so a watcher may go on behind it."""
    yield from in_order_of_time(
        _read_thinned(journal, stream) if stream in THINNED else read_stream(journal, stream)
        for stream in STREAMS
    )


def history_lines(journal: Path) -> Iterator[tuple[Stream, bytes]]:
    """What `read_history` reads as it stands in the files, stream by stream: for a watcher on another machine."""
    for stream in STREAMS:
        last_seq = 0
        for segment in segments(journal, stream)[:-1] if stream in THINNED else ():
            for line in _thinned_lines(segment):
                if (record := decode_line(line, stream)) is not None:
                    last_seq = record.seq
                    yield stream, line
        with JournalReader(journal, stream, last_seq) as reader:
            while batch := reader.poll():
                yield from ((stream, line) for _, line in batch)


def thin_full_segments(journal: Path) -> None:
    """Thin whatever full segment was not yet: a third of a second for each. Raises OSError on a full disk."""
    for stream in THINNED:
        for segment in segments(journal, stream)[:-1]:
            if not _thinned_path(segment).exists():
                _thin(segment)


def _read_thinned(journal: Path, stream: Stream) -> Iterator[Record]:
    last_seq = 0
    every = segments(journal, stream)
    for segment in every:
        is_full = segment is not every[-1]
        for line in _thinned_lines(segment) if is_full else _older_lines(segment):
            if (record := decode_line(line, stream)) is not None:
                last_seq = record.seq
                yield record
    yield from read_stream(journal, stream, last_seq)


def _older_lines(segment: Path) -> Iterator[bytes]:
    """The thinned lines of a segment that is being written, up to its newest part. Some may be damaged."""
    with suppress(FileNotFoundError), segment.open("rb") as file:
        end = os.fstat(file.fileno()).st_size - WHOLE_BYTES
        yield from thinned(_lines_before(end, file))


def _lines_before(end: int, file: BinaryIO) -> Iterator[bytes]:
    while (left := end - file.tell()) > 0:
        yield from file.readlines(min(left, READ_BYTES))


def _thinned_path(segment: Path) -> Path:
    return segment.parent / "history" / segment.name


def _thinned_lines(segment: Path) -> list[bytes]:
    """The lines kept of a full segment, thinned now when it was not before or when one is damaged."""
    with suppress(OSError):
        kept = _thinned_path(segment).read_bytes().splitlines(keepends=True)
        if kept and all(map(is_whole, kept)):
            return kept
    return _thin(segment)


def _thin(segment: Path) -> list[bytes]:
    """Keep and store the lines of a full segment that tell its course. Damaged ones are left out."""
    with segment.open("rb") as file:
        kept = list(thinned(line for line in file if is_whole(line)))
    path = _thinned_path(segment)
    with suppress(OSError):  # a full disk, or someone else's run: it is read whole another time, too
        path.parent.mkdir(exist_ok=True)
        write_durably(path, b"".join(kept))
    return kept


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
