"""What becomes of events that the journal's disk has no room for.

RLIMIT_FSIZE stands for the full disk: like one, it takes part of a line before it refuses. It bounds each file by itself,
so behind a first long line the journal is full while the memory still has room.
"""

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer_daemon.contract import journal as journal_module
from trainer_daemon.contract import spill as spill_module
from trainer_daemon.contract.events import Notice
from trainer_daemon.contract.journal import (
    JournalReader,
    JournalWriter,
    Record,
    decode_line,
    read_stream,
    segments,
)
from trainer_daemon.contract.spill import spill_file

LONG = "x" * 200_000
FULL = "the journal cannot be written (No space left on device); events are kept in memory, training goes on"
ROOM = "the journal can be written again; what was kept in memory is on its disk"


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """The newest segment takes half a line more and then nothing."""
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segments(folder, "train")[-1].stat().st_size + 50, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old_handler)


@pytest.fixture
def no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_module, "MEMORY", tmp_path / "nothing")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[JournalWriter]:
    with JournalWriter(tmp_path, "train", 1) as made:
        assert made.append(Notice("info", LONG))
        yield made


def write(folder: Path, text: str) -> None:
    with JournalWriter(folder, "train", 1) as writer:
        writer.append(Notice("info", text))


def told(records: Iterator[Record] | list[Record]) -> list[str]:
    """What the notices say, without the long one at the beginning."""
    return [r.event.text for r in records if isinstance(r.event, Notice) and r.event.text != LONG]


def on_disk(folder: Path) -> list[int]:
    """The sequence numbers of the whole lines in the files."""
    lines = [
        line for path in segments(folder, "train") for line in path.read_bytes().splitlines(keepends=True)
    ]
    return [record.seq for line in lines if (record := decode_line(line, "train"))]


def test_what_a_full_disk_refuses_is_read_at_once_and_written_when_there_is_room(
    tmp_path: Path, writer: JournalWriter
) -> None:
    with JournalReader(tmp_path, "train") as watcher:
        with full_disk(tmp_path):
            for text in "abc":
                assert writer.append(Notice("info", text))
            assert on_disk(tmp_path) == [1]
            assert told([r for r, _ in watcher.poll()]) == ["a", FULL, "b", "c"]
            assert watcher.is_ahead_of_disk
        writer.append(Notice("info", "d"))
        assert told([r for r, _ in watcher.poll()]) == [ROOM, "d"]
    assert on_disk(tmp_path) == [*range(1, 8)]
    assert told(read_stream(tmp_path, "train")) == ["a", FULL, "b", "c", ROOM, "d"]
    assert not spill_file(tmp_path, "train").exists()


def test_one_who_comes_late_begins_anywhere_in_what_waits(tmp_path: Path, writer: JournalWriter) -> None:
    with full_disk(tmp_path):
        for number in range(20):
            writer.append(Notice("info", str(number)))
        for after in (0, 1, 5, 21, 22):
            assert [r.seq for r in read_stream(tmp_path, "train", after)] == [*range(after + 1, 23)]
        with JournalReader(tmp_path, "train") as reader:
            few = [r.seq for _ in range(8) for r, _ in reader.poll(limit=3)]
        assert few == [*range(1, 23)]


def test_what_waits_outlives_its_writer_and_is_written_by_the_next(tmp_path: Path) -> None:
    write(tmp_path, LONG)
    with full_disk(tmp_path):
        for text in "abc":
            write(tmp_path, text)
        assert on_disk(tmp_path) == [1]
        assert told(read_stream(tmp_path, "train")) == ["a", FULL, "b", "c"]
    write(tmp_path, "d")
    assert told(read_stream(tmp_path, "train")) == ["a", FULL, "b", "c", ROOM, "d"]
    assert on_disk(tmp_path) == [*range(1, 8)]


def test_what_a_killed_writer_had_written_back_is_not_written_twice(tmp_path: Path) -> None:
    write(tmp_path, LONG)
    with JournalWriter(tmp_path, "train", 1) as writer, full_disk(tmp_path):
        for text in "abcd":
            writer.append(Notice("info", text))
        waiting = spill_file(tmp_path, "train").read_bytes()
    spill_file(tmp_path, "train").write_bytes(waiting)  # as if it had died before it forgot them
    write(tmp_path, "e")
    assert told(read_stream(tmp_path, "train")) == ["a", FULL, "b", "c", "d", ROOM, ROOM, "e"]
    assert on_disk(tmp_path) == [*range(1, 10)]


def test_a_step_waits_for_a_part_of_the_writing_back_only(
    tmp_path: Path, writer: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETURN_BYTES", 1000)
    with full_disk(tmp_path):
        for number in range(40):
            writer.append(Notice("info", str(number)))
    before = len(on_disk(tmp_path))
    writer.append(Notice("info", "later"))
    assert 3 < len(on_disk(tmp_path)) - before < 20
    for number in range(10):
        writer.append(Notice("info", str(number)))
    assert on_disk(tmp_path) == [*range(1, writer.last_seq + 1)]


def test_what_outgrows_the_memory_is_given_up_from_its_older_end_and_marked_once(
    tmp_path: Path, writer: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_module, "SPILL_BYTES", 4000)
    seen: list[Record] = []
    with JournalReader(tmp_path, "train") as watcher:
        with full_disk(tmp_path):
            for number in range(100):
                assert writer.append(Notice("info", str(number)))
                seen += [r for r, _ in watcher.poll()]
            assert spill_file(tmp_path, "train").stat().st_size <= 4000
        writer.append(Notice("info", "after"))
        seen += [r for r, _ in watcher.poll()]
    assert [r.seq for r in seen] == [*range(1, writer.last_seq + 1)], "a watcher that was there saw all"
    kept = on_disk(tmp_path)
    lost = kept[1] - 1
    assert kept == [1, *range(kept[1], writer.last_seq + 1)]
    texts = told(read_stream(tmp_path, "train"))
    assert texts[0] == f"{lost} events were lost: the journal's disk was full"
    assert texts[-2:] == [ROOM, "after"]
    assert [t for t in texts if "were lost" in t] == texts[:1]


def test_a_new_run_does_not_inherit_what_waits_of_an_old_one_of_its_name(
    tmp_path: Path, writer: JournalWriter
) -> None:
    with full_disk(tmp_path):
        writer.append(Notice("info", "of the old one"))
        (segment,) = segments(tmp_path, "train")
        segment.unlink()
        write(tmp_path, "new")
    assert told(read_stream(tmp_path, "train")) == ["new"]


@pytest.mark.usefixtures("no_memory")
def test_without_memory_to_wait_in_events_are_lost_never_raised_and_counted_afterwards(
    tmp_path: Path, writer: JournalWriter
) -> None:
    with full_disk(tmp_path):
        for _ in range(3):
            assert not writer.append(Notice("info", "lost"))
    assert writer.append(Notice("info", "after"))
    assert told(read_stream(tmp_path, "train")) == [
        "3 events were lost: the journal's disk was full",
        "after",
    ]
    assert on_disk(tmp_path) == [1, 4, 5]


@pytest.mark.usefixtures("no_memory")
def test_part_of_a_line_that_could_not_be_cut_off_at_once_is_cut_off_before_the_next(
    tmp_path: Path, writer: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(fd: int, data: bytes) -> int:
        return real_write(fd, data[: len(data) // 2])

    def fails(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    real_write = os.write
    with monkeypatch.context() as broken:
        broken.setattr(os, "write", half)
        broken.setattr(os, "ftruncate", fails)
        writer.append(Notice("info", "torn"))
        writer.append(Notice("info", "torn"))
    writer.append(Notice("info", "after"))
    assert told(read_stream(tmp_path, "train")) == [
        "2 events were lost: the journal's disk was full",
        "after",
    ]
