"""systemd-run is played by a small program: no machine that runs tests needs a systemd."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.conftest import DAEMON, Daemons, wait_until_over
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import observe
from trainer_daemon.supervisor.scope import SCOPE, scope_command

PLAYED = """#!/bin/sh
echo "$@" >> "$0.calls"
while [ "$1" != "--" ]; do shift; done
shift
{end}
"""


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's runtime folder with a bus in it, and a PATH that begins with the player's folder."""
    runtime = tmp_path / "run"
    runtime.mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "bus"))
        yield tmp_path / "bin" / "systemd-run"


def play(program: Path, end: str) -> None:
    program.write_text(PLAYED.format(end=end))
    program.chmod(0o700)


def test_where_a_scope_works_a_daemon_gets_one(bus: Path) -> None:
    play(bus, 'exec "$@"')
    assert scope_command() == SCOPE


@pytest.mark.parametrize("end", ["exit 1", "exit 0", '"$@" >/dev/null 2>&1 & exit 3'])
def test_where_it_does_not_work_the_daemon_starts_without(bus: Path, end: str) -> None:
    """Nobody answers on the bus, a scope that runs nothing, one that fails after all."""
    play(bus, end)
    assert scope_command() == ()


def test_a_slurm_job_is_never_left_and_without_a_bus_nobody_is_asked(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(bus, 'exec "$@"')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert scope_command() == ()
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert scope_command() == ()
    assert not bus.with_name("systemd-run.calls").exists()


def test_a_daemon_in_a_scope_reports_and_runs_as_any_other(daemons: Daemons, bus: Path) -> None:
    play(bus, 'exec "$@"')
    daemons.program = (*scope_command(), *DAEMON)
    run = daemons.start(steps=3)
    wait_until_over(run, daemons.pid)
    assert observe(RunDir(run.path)).state == "completed"
    assert "--ready-fd" in bus.with_name("systemd-run.calls").read_text()
