"""A history that another process reads is the one that is read here."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import train_step
from trainer_daemon.contract.ahead import CourseAhead, message_of, received
from trainer_daemon.contract.course import Item, Steps, read_course
from trainer_daemon.contract.events import Evaluated, Notice, Resumed, StateChanged
from trainer_daemon.contract.journal import JournalWriter


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A run that went back once, whose supervisor spoke in between."""
    with JournalWriter(tmp_path, "train", 1) as train, JournalWriter(tmp_path, "daemon", 1) as daemon:
        daemon.append(StateChanged("starting", "", pid=1, attempt=1))
        for step in range(1, 201):
            train.append(replace(train_step(step), loss_nats=None if step == 40 else 5.0 - step / 100))
            if step % 50 == 0:
                train.append(Evaluated(step, 1.0, 3.0, 640, 0.1))
                daemon.append(Notice("info", f"at {step}, ein Gruß\x1b[0m"))
        train.append(Resumed(100, "step-100", 1.0))
        for step in range(101, 160):
            train.append(replace(train_step(step), loss_nats=2.0))
    return tmp_path


def spelled(items: list[Item]) -> list[str]:
    """What tells two items apart; NaN is no other than NaN."""
    return [repr(item) for item in items]


def test_what_another_process_reads_is_what_is_read_here_in_the_same_order(journal: Path) -> None:
    with CourseAhead(journal) as ahead:
        items = list(ahead.items())
    assert spelled(items) == spelled(list(read_course(journal)))
    assert any(isinstance(item, Steps) for item in items)


@pytest.mark.parametrize("program", ["/nonexistent/python", shutil.which("false")])
def test_a_history_whose_reader_cannot_be_had_or_dies_before_its_first_word_is_read_here(
    journal: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", program)
    with CourseAhead(journal) as ahead:
        assert spelled(list(ahead.items())) == spelled(list(read_course(journal)))


def test_of_a_reader_that_dies_on_the_way_all_is_taken_that_came_whole(journal: Path, tmp_path: Path) -> None:
    """The rest is behind the newest numbers of each stream, where a feed begins."""
    items = list(read_course(journal))
    cut = tmp_path / "cut"
    cut.write_bytes(b"".join(map(message_of, items))[:-1])
    with cut.open("rb") as stream:
        assert spelled(list(received(stream))) == spelled(items[:-1])


def test_a_reader_that_nobody_listens_to_ends_with_its_owner(journal: Path) -> None:
    ahead = CourseAhead(journal)
    ahead.close()
    assert ahead._process is not None
    assert ahead._process.poll() is not None
