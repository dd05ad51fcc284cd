"""What is read in bulk is what is read record by record: the same events, in the same order, and the same numbers."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from zlib import crc32

import pytest

from tests.cli.conftest import train_step
from trainer_daemon.contract import course as course_module
from trainer_daemon.contract.course import COLUMNS, Item, Steps, read_course
from trainer_daemon.contract.events import Evaluated, Event, Notice, Resumed, StateChanged, TrainStep
from trainer_daemon.contract.history import read_history
from trainer_daemon.contract.journal import JournalWriter, Record, read_all
from trainer_daemon.contract.status import RunStatus


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Two attempts of a run, the second from a checkpoint of the first, with words of its supervisor in between."""
    with JournalWriter(tmp_path, "train", 1) as train, JournalWriter(tmp_path, "daemon", 1) as daemon:
        daemon.append(StateChanged("starting", "", pid=1, attempt=1))
        for step in range(1, 301):
            loss = None if step == 40 else 5.0 - step / 100
            train.append(replace(train_step(step), loss_nats=loss, was_skipped=step == 40, data_seconds=0.1))
            if step % 50 == 0:
                train.append(Evaluated(step, 1.0, 3.0, 640, 0.1))
            if step % 70 == 0:
                daemon.append(Notice("info", f"at {step}"))
        train.append(Resumed(200, "step-200", 1.0))
        for step in range(201, 260):
            train.append(replace(train_step(step), loss_nats=2.0, peak_memory_bytes=step))
    return tmp_path


def one_by_one(items: Iterator[Item]) -> Iterator[tuple[str, int, Event | int | None]]:
    for item in items:
        if isinstance(item, Record):
            step = item.event.step if isinstance(item.event, TrainStep) else None
            yield item.stream, item.seq, item.event if step is None else step
        else:
            columns = item.columns
            yield from (
                ("train", int(seq), int(step))
                for seq, step in zip(columns["seq"], columns["step"], strict=True)
            )


def test_the_course_is_the_history_in_the_same_order(journal: Path) -> None:
    assert list(one_by_one(read_course(journal))) == list(one_by_one(iter(read_history(journal))))


def test_steps_come_with_every_number_of_theirs_and_with_the_newest_whole(journal: Path) -> None:
    whole = {record.seq: record for record in read_all(journal) if isinstance(record.event, TrainStep)}
    seen = 0
    for steps in (item for item in read_course(journal) if isinstance(item, Steps)):
        assert {len(column) for column in steps.columns.values()} == {len(steps)}
        assert steps.last == whole[int(steps.columns["seq"][-1])]
        for row, seq in enumerate(map(int, steps.columns["seq"])):
            record = whole[seq]
            numbers = {name: steps.columns[name][row] for name in COLUMNS}
            assert (numbers["wall"], numbers["mono"]) == (record.wall, record.mono)
            for name in COLUMNS[3:]:
                value = getattr(record.event, name)
                assert math.isnan(numbers[name]) if value is None else numbers[name] == value
            seen += 1
    assert seen == len(whole)


def test_every_number_that_a_step_declares_is_a_column() -> None:
    left_out = {field.name for field in fields(TrainStep)} - set(COLUMNS)
    assert left_out == {"learning_rates"}, "a number for each group of parameters"


def test_a_status_is_the_same_whether_steps_are_folded_in_bulk_or_one_by_one(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_record, in_bulk = RunStatus("fox"), RunStatus("fox")
    for record in read_history(journal):
        by_record.apply(record)
    monkeypatch.setattr(course_module, "MOST_ROWS", 17)
    for item in read_course(journal):
        if isinstance(item, Steps):
            in_bulk.apply_steps(item)
        else:
            in_bulk.apply(item)
    told, expected = in_bulk.to_json(), by_record.to_json()
    assert told.pop("training_seconds") == pytest.approx(expected.pop("training_seconds"))
    assert told == expected


def test_steps_of_an_older_version_are_read_too(journal: Path) -> None:
    path = journal / "train-000001.jsonl"
    made: list[bytes] = []
    for line in path.read_bytes().splitlines():
        payload = line.rpartition(b',"crc"')[0].replace(b',"was_skipped":false', b"")
        made.append(b'%s,"crc":"%08x"}\n' % (payload, crc32(payload)))
    path.write_bytes(b"".join(made))
    bulks = [item for item in read_course(journal) if isinstance(item, Steps)]
    assert sum(map(len, bulks)) == 359
    assert sum(sum(steps.columns["was_skipped"]) for steps in bulks) == 1


def test_a_damaged_line_and_one_of_another_version_cost_no_other(journal: Path) -> None:
    path = journal / "train-000001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[10] = lines[10].replace(b"train_step", b"train_stop")
    path.write_bytes(b"".join(lines))
    told = [seq for stream, seq, _ in one_by_one(read_course(journal)) if stream == "train"]
    assert told == [seq for seq in range(1, len(lines) + 1) if seq != 11]
