"""A rank's last moments with the others, readable whatever became of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer_daemon.contract.flight import BYTES, SLOTS, FlightRecorder, read_flight

DIES_IN_AN_EXCHANGE = """
import os, signal, sys
from pathlib import Path
from trainer_daemon.contract.flight import FlightRecorder
flight = FlightRecorder(Path(sys.argv[1]))
flight.enter("running")
flight.step = 7
with flight.exchanging("sum"):
    pass
with flight.exchanging("gradients"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_rank_was_in_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "attempt" / "rank-0.flight"
    died = subprocess.run([sys.executable, "-c", DIES_IN_AN_EXCHANGE, file], timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    phase, done, open_one = read_flight(file)
    assert (phase.what, phase.exchange, phase.step) == ("running", None, 0)
    assert (done.what, done.exchange, done.step) == ("sum", 1, 7)
    assert done.ended is not None
    assert done.ended >= done.began
    assert (open_one.what, open_one.exchange, open_one.ended) == ("gradients", 2, None)


def test_the_newest_moments_are_kept_in_a_file_of_one_size(tmp_path: Path) -> None:
    file = tmp_path / "rank-0.flight"
    flight = FlightRecorder(file)
    for _ in range(3 * SLOTS + 5):
        with flight.exchanging("sum"):
            pass
    moments = read_flight(file)
    assert [m.exchange for m in moments] == list(range(2 * SLOTS + 6, 3 * SLOTS + 6))
    assert file.stat().st_size == BYTES


def test_an_exchange_that_raised_never_ended(tmp_path: Path) -> None:
    flight = FlightRecorder(tmp_path / "rank-0.flight")
    with pytest.raises(ConnectionError), flight.exchanging("broadcast"):
        raise ConnectionError
    assert read_flight(tmp_path / "rank-0.flight")[-1].ended is None


def test_a_record_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where a folder must be")
    flight = FlightRecorder(tmp_path / "folder" / "rank-0.flight")
    with flight.exchanging("sum"):
        flight.enter("running")
    assert read_flight(tmp_path / "folder" / "rank-0.flight") == []
    assert read_flight(Path(os.devnull)) == []
