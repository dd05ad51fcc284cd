import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer_daemon.contract import journal as journal_module
from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import Command, Notice, SampleChunk
from trainer_daemon.contract.journal import (
    JournalReader,
    JournalWriter,
    Record,
    Stream,
    decode_line,
    encode_line,
    in_order_of_time,
    read_all,
    segments,
)


def texts(folder: Path, after_seq: int = 0) -> list[str]:
    with JournalReader(folder, "train", after_seq) as reader:
        return [r.event.text for r, _ in reader.poll() if isinstance(r.event, Notice)]


def seqs(folder: Path, after_seq: int = 0) -> list[int]:
    with JournalReader(folder, "train", after_seq) as reader:
        return [r.seq for r, _ in reader.poll(10**6)]


def write(folder: Path, *notices: str) -> None:
    with JournalWriter(folder, "train", 1) as writer:
        for text in notices:
            writer.append(Notice("info", text))


def newest(folder: Path) -> Path:
    return segments(folder, "train")[-1]


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    write(tmp_path, "c")
    assert texts(tmp_path) == ["a", "b", "c"]
    assert seqs(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_torn_tail_ends_what_is_read_and_is_cut_off_by_the_next_writer(tmp_path: Path, cut: int) -> None:
    write(tmp_path, "whole", "torn")
    os.truncate(newest(tmp_path), newest(tmp_path).stat().st_size - cut)
    assert texts(tmp_path) == ["whole"]

    with JournalWriter(tmp_path, "train", 2) as writer:
        assert writer.repaired_bytes > 0
        writer.append(Notice("info", "next"))
    assert texts(tmp_path) == ["whole", "next"]
    assert seqs(tmp_path) == [1, 2]


def test_zeros_that_a_crash_left_at_the_end_are_cut_off(tmp_path: Path) -> None:
    write(tmp_path, "whole")
    with newest(tmp_path).open("ab") as file:
        file.write(b"\0" * 4096)
    write(tmp_path, "next")
    assert texts(tmp_path) == ["whole", "next"]


def test_a_flipped_bit_in_any_byte_of_a_line_is_noticed() -> None:
    line = encode_line(Notice("info", "sixty-one"), seq=1, attempt=1)
    for position in range(len(line)):
        damaged = line[:position] + bytes([line[position] ^ 1]) + line[position + 1 :]
        # the CRC's own letters may change case and mean the same
        if damaged.lower() != line.lower():
            assert decode_line(damaged, "train") is None, position


def test_a_reader_waits_before_a_damaged_line_and_goes_on_when_it_was_repaired(tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    with JournalReader(tmp_path, "train") as reader:
        data = newest(tmp_path).read_bytes()
        newest(tmp_path).write_bytes(data.replace(b'"b"', b'"x"'))
        assert [r.seq for r, _ in reader.poll()] == [1]
        write(tmp_path, "c")
        assert [(r.seq, r.event) for r, _ in reader.poll()] == [(2, Notice("info", "c"))]


def damage(folder: Path, *damaged: int) -> None:
    """Flip one bit in the middle of the lines with these numbers, in whichever segment they are."""
    for path in segments(folder, "train"):
        lines = path.read_bytes().splitlines(keepends=True)
        for index, line in enumerate(lines):
            record = decode_line(line, "train")
            if record is not None and record.seq in damaged:
                middle = len(line) // 2
                lines[index] = line[:middle] + bytes([line[middle] ^ 1]) + line[middle + 1 :]
        path.write_bytes(b"".join(lines))


def test_a_damaged_line_costs_that_line_and_nothing_behind_it(tmp_path: Path) -> None:
    """One flipped bit in line 10 of 100 once had the next writer cut 90 lines off and give their numbers again."""
    write(tmp_path, *map(str, range(1, 101)))
    damage(tmp_path, 10)
    size = newest(tmp_path).stat().st_size
    rest = [*range(1, 10), *range(11, 101)]
    assert seqs(tmp_path) == rest
    with JournalWriter(tmp_path, "train", 2) as writer:
        assert (writer.last_seq, writer.repaired_bytes) == (100, 0)
        assert newest(tmp_path).stat().st_size == size
        writer.append(Notice("info", "next"))
    assert seqs(tmp_path) == [*rest, 101]
    assert seqs(tmp_path, 9) == [*range(11, 102)]


def test_a_torn_tail_behind_a_damaged_line_is_still_cut_off(tmp_path: Path) -> None:
    write(tmp_path, *"abcd")
    damage(tmp_path, 2)
    os.truncate(newest(tmp_path), newest(tmp_path).stat().st_size - 1)
    assert texts(tmp_path) == ["a", "c"]
    write(tmp_path, "next")
    assert texts(tmp_path) == ["a", "c", "next"]
    assert seqs(tmp_path) == [1, 3, 4]


def test_a_line_whose_end_is_not_written_yet_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, *"abc")
    damage(tmp_path, 2)
    whole = newest(tmp_path).read_bytes()
    newest(tmp_path).write_bytes(whole[:-1])
    with JournalReader(tmp_path, "train") as reader:
        assert [r.seq for r, _ in reader.poll()] == [1]
        newest(tmp_path).write_bytes(whole)
        assert [r.seq for r, _ in reader.poll()] == [3]


def test_damage_where_a_segment_begins_or_ends_costs_only_what_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 2000)
    write(tmp_path, *map(str, range(1, 101)))
    first = [journal_module._first_seq(path, "train") for path in segments(tmp_path, "train")]
    damaged = {1, first[2] - 1, first[2], first[4]}
    damage(tmp_path, *damaged)
    rest = [n for n in range(1, 101) if n not in damaged]
    for after in range(101):
        assert seqs(tmp_path, after) == [n for n in rest if n > after], after


def test_a_writer_goes_on_from_an_older_segment_when_the_newest_are_damaged_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1000)
    write(tmp_path, *map(str, range(1, 31)))
    first = [journal_module._first_seq(path, "train") for path in segments(tmp_path, "train")]
    damage(tmp_path, *range(first[-3], 31))
    with JournalWriter(tmp_path, "train", 2) as writer:
        assert writer.last_seq == first[-3] - 1
        writer.append(Notice("info", "next"))
    assert seqs(tmp_path) == [*range(1, first[-3] + 1)]


def test_more_damage_than_is_read_at_once_is_stepped_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "READ_BYTES", 1000)
    write(tmp_path, *map(str, range(1, 101)))
    damage(tmp_path, *range(10, 60))
    data = newest(tmp_path).read_bytes()
    newest(tmp_path).write_bytes(data.replace(b"\n", b"\r", 80).replace(b"\r", b"\n", 30))
    # the lines 31 to 81 are one without an end now
    assert seqs(tmp_path) == [*range(1, 10), *range(82, 101)]


def test_segments_roll_and_read_as_one_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 2000)
    write(tmp_path, *map(str, range(200)))
    assert len(segments(tmp_path, "train")) > 5
    assert all(p.stat().st_size <= 2000 for p in segments(tmp_path, "train"))
    assert texts(tmp_path) == [str(n) for n in range(200)]
    write(tmp_path, "later")
    assert seqs(tmp_path) == list(range(1, 202))


def test_a_reader_follows_the_writer_over_a_roll_without_missing_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader at the end of a segment once saw the next one and went there, past lines written in between."""
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1000)
    with JournalWriter(tmp_path, "train", 1) as writer, JournalReader(tmp_path, "train") as reader:
        writer.append(Notice("info", "1"))
        assert [r.seq for r, _ in reader.poll()] == [1]
        find_newer = reader._newer_segment
        late = iter(range(2, 21))

        def newer_segment_as_seen_by_a_slow_reader() -> Path | None:
            for n in late:
                writer.append(Notice("info", str(n)))
            return find_newer()

        monkeypatch.setattr(reader, "_newer_segment", newer_segment_as_seen_by_a_slow_reader)
        assert [r.seq for r, _ in reader.poll()] == list(range(2, 21))


def test_reading_may_begin_after_any_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 200_000)
    last = 4000
    write(tmp_path, *["x" * 100] * last)
    assert len(segments(tmp_path, "train")) > 3
    for after in (0, 1, 2, 777, 1999, 2000, 3998, 3999, 4000, 5000):
        assert seqs(tmp_path, after) == list(range(after + 1, last + 1)), after


def test_beginning_late_reads_little(tmp_path: Path) -> None:
    write(tmp_path, *["x" * 100] * 5000)
    with JournalReader(tmp_path, "train", after_seq=4990) as reader:
        reader.poll()
        assert reader._open_next()
        assert reader._offset > newest(tmp_path).stat().st_size - 2**17


def test_a_second_writer_of_a_stream_is_refused(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, "train", 1), pytest.raises(RefusedError, match="already going"):
        JournalWriter(tmp_path, "train", 1)
    write(tmp_path, "after the first has left")


def test_a_writer_that_is_killed_leaves_only_whole_lines_for_the_next(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from trainer_daemon.contract.journal import JournalWriter\n"
        "from trainer_daemon.contract.events import Notice\n"
        "writer = JournalWriter(Path(sys.argv[1]), 'train', 1)\n"
        "while True:\n"
        "    writer.append(Notice('info', 'x' * 300)); print(writer.last_seq, flush=True)\n"
    )
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(200)][-1]
            writer.send_signal(signal.SIGKILL)
        assert seqs(tmp_path)[:acknowledged] == list(range(1, acknowledged + 1))


def test_a_loss_that_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    from trainer_daemon.contract.events import EVENT_KINDS, from_fields

    fields = {f: float("nan") for f in EVENT_KINDS["train_step"].__dataclass_fields__}
    event = from_fields("train_step", {**fields, "step": 1})
    assert event is not None
    line = encode_line(event, seq=1, attempt=1)
    assert b"NaN" not in line
    record = decode_line(line, "train")
    assert record is not None
    assert record.event is not None


def test_a_kind_or_a_field_of_another_version_does_not_end_the_stream(tmp_path: Path) -> None:
    write(tmp_path, "a")
    import json
    import zlib

    with newest(tmp_path).open("ab") as file:
        for seq, body in (
            (2, {"kind": "from_the_future"}),
            (3, {"kind": "notice"}),
            (4, {"kind": "notice", "level": "info", "text": "more", "new_field": 1}),
        ):
            payload = json.dumps({"seq": seq, "wall": 0, "mono": 0, "attempt": 1, **body}).encode()[:-1]
            file.write(b'%s,"crc":"%08x"}\n' % (payload, zlib.crc32(payload)))
    with JournalReader(tmp_path, "train") as reader:
        events = [r.event for r, _ in reader.poll()]
    assert events == [Notice("info", "a"), None, None, Notice("info", "more")]


@pytest.mark.parametrize("has_msgspec", [True, False])
def test_a_line_is_the_same_to_every_reader_whichever_library_wrote_it(
    has_msgspec: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank on a bare image writes with the standard library, a cockpit reads with msgspec, and the other way round."""
    event = SampleChunk("id", 'é 🎈 \u2028 "x" \\ \x00 \ud800')
    nested = Command("r", "set", {"rates": {"a": float("inf"), "b": [1e-7, float("nan")]}, "n": 2**53})
    journal_module._json.cache_clear()
    try:
        if not has_msgspec:
            monkeypatch.setitem(sys.modules, "msgspec", None)
        lines = [encode_line(event, seq=1, attempt=1), encode_line(nested, seq=2, attempt=1)]
        monkeypatch.undo()
        journal_module._json.cache_clear()
        first, second = (decode_line(line, "train") for line in lines)
    finally:
        journal_module._json.cache_clear()
    assert first is not None
    assert first.event == SampleChunk("id", 'é 🎈 \u2028 "x" \\ \x00 ?')
    assert second is not None
    assert second.event == Command("r", "set", {"rates": {"a": None, "b": [1e-7, None]}, "n": 2**53})


def test_any_text_survives(tmp_path: Path) -> None:
    strange = 'line\nfeed \r\u2028 "quotes" \\ \x00 é 🎈 ,"crc":"00000000"}'
    with JournalWriter(tmp_path, "train", 1) as writer:
        writer.append(SampleChunk("id", strange))
        writer.append(SampleChunk("id", "a lone surrogate: \ud800"))
    with JournalReader(tmp_path, "train") as reader:
        first, second = (r.event for r, _ in reader.poll())
    assert isinstance(first, SampleChunk)
    assert first.text == strange
    assert isinstance(second, SampleChunk)


def test_streams_are_merged_by_time_without_disturbing_their_own_order(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, "daemon", 1) as daemon, JournalWriter(tmp_path, "train", 1) as train:
        for n in range(50):
            (daemon if n % 3 else train).append(Notice("info", str(n)))
    merged = [r.event.text for r in read_all(tmp_path) if isinstance(r.event, Notice)]
    assert merged == [str(n) for n in range(50)]


def test_a_kind_of_string_is_written_as_the_string_it_is(tmp_path: Path) -> None:
    """torch's own version is one, and every run failed at its first event when the encoder knew plain strings alone."""

    class Version(str):
        __slots__ = ()

    write(tmp_path, Version("2.13.0"))
    assert texts(tmp_path) == ["2.13.0"]


def test_a_value_that_json_does_not_know_is_written_in_words_and_never_raises(tmp_path: Path) -> None:
    strange = Command("a", "sample", {"where": Path("/tmp/x"), "how many": 1 << 80, "which": {"one"}})
    with JournalWriter(tmp_path, "train", 1) as writer:
        assert writer.append(strange)
    (record,) = read_all(tmp_path)
    assert isinstance(record.event, Command)
    assert record.event.arguments["where"] == "/tmp/x"
    assert record.event.arguments["how many"] == pytest.approx(1 << 80)
    assert "one" in record.event.arguments["which"]


def test_streams_stay_in_order_when_the_clock_is_set_between_them() -> None:
    """A supervisor's last word came before the steps that it followed, once the clock had been set back."""

    def at(stream: Stream, mono: float, *, off: float = 0.0, boot: float = 1000.0) -> Record:
        return Record(stream, 1, boot + mono + off, mono, 1, "notice", Notice("info", f"{boot + mono:.0f}"))

    day = 86_400.0
    train = [at("train", 10), at("train", 12, off=day), at("train", 14, off=-day), at("train", 16, off=-day)]
    daemon = [at("daemon", 9), at("daemon", 13, off=day), at("daemon", 17, off=-day)]
    after_reboot = [at("daemon", 3, boot=2000.0)]
    told = [
        r.event.text for r in in_order_of_time([daemon + after_reboot, train]) if isinstance(r.event, Notice)
    ]
    assert told == ["1009", "1010", "1012", "1013", "1014", "1016", "1017", "2003"]
