"""What a supervisor tells and keeps, beside a disk that takes its time."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trainer_daemon.contract.events import Notice
from trainer_daemon.contract.journal import JournalWriter, Record
from trainer_daemon.contract.rundir import RunDir, create_run
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.contract.status import load_snapshot
from trainer_daemon.contract.wire import Request
from trainer_daemon.supervisor.telemetry import Telemetry


class Told:
    """Sockets that nobody listens to."""

    def __init__(self) -> None:
        self.published: list[int] = []

    def serve(self, timeout_seconds: float, answer: Callable[[Request], dict[str, Any]]) -> None: ...

    def publish(self, record: Record, line: bytes, cursors: dict[str, int]) -> None:  # noqa: ARG002  # a Port's
        self.published.append(record.seq)

    def heartbeat(self, cursors: dict[str, int]) -> None: ...

    def stay_reachable(self) -> None: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDir]:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    run, lock = create_run("kept", RunSpec())
    yield run
    os.close(lock)


@contextmanager
def a_disk_that_hangs(run: RunDir) -> Iterator[None]:
    """Whoever puts the state there waits, in the block, as on a disk that does not answer: for a reader of a named pipe."""
    pipe = run.state_file.with_name(f".{run.state_file.name}.tmp")
    os.mkfifo(pipe)
    try:
        yield
    finally:
        with pipe.open("rb") as reader:
            pipe.unlink()
            reader.read()


def test_a_disk_that_hangs_holds_up_nothing_that_is_told(run: RunDir) -> None:
    port = Told()
    with JournalWriter(run.journal, "train", attempt=1) as train, Telemetry(run, port) as telemetry:
        with a_disk_that_hangs(run):
            for beat in range(3):
                train.append(Notice("info", f"before beat {beat}"))
                assert [record.seq for record in telemetry.follow()] == [beat + 1]
                telemetry.beat()
            assert port.published == [1, 2, 3]
            assert load_snapshot(run).cursors == {}, "nothing of it is on the disk"
        telemetry.store()
    assert load_snapshot(run).cursors == {"train": 3}, "the disk answers, and has all of it"
