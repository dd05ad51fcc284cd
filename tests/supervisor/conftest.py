"""Real daemons with a stand-in agent, each test in a home of its own; whatever a test leaves running is ended."""

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from trainer_daemon.contract.events import Event, StateChanged
from trainer_daemon.contract.journal import Record, read_all
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.link.client import Feed
from trainer_daemon.link.far import FarFeed
from trainer_daemon.supervisor.detach import ReadyReport, start_supervisor
from trainer_daemon.supervisor.sweep import kill_run_processes, run_processes

DAEMON = (sys.executable, str(Path(__file__).with_name("daemon_program.py")))
END_SECONDS = 30.0
"""No wait in these tests is longer."""


class Daemons:
    """Starts daemons and waits for what they do."""

    program: Sequence[str] = DAEMON

    def __init__(self) -> None:
        self._reports: list[ReadyReport] = []

    def ask(self, request: dict[str, Any], **options: Any) -> ReadyReport:
        report = start_supervisor(request, program=self.program, **options)
        self._reports.append(report)
        return report

    def start(
        self,
        name: str = "a",
        *,
        steps: int = 10_000,
        sections: dict[str, Any] | None = None,
        listen: str | None = None,
        **runtime: Any,
    ) -> RunDir:
        """`sections`: of the spec, beside `train` and `runtime`. `listen`: HOST:PORT."""
        runtime = {"restart_delay_seconds": 0, **runtime}
        spec = {"train": {"num_iterations": steps}, "runtime": runtime, **(sections or {})}
        report = self.ask({"name": name, "spec": spec, **({"listen": listen} if listen else {})})
        return RunDir(Path(report.path))

    def resume(self, run: RunDir) -> int:
        """The new supervisor's pid."""
        return self.ask({"resume": str(run.path)}).pid

    @property
    def pid(self) -> int:
        """Of the supervisor that was started last."""
        return self._reports[-1].pid

    def end_all(self) -> None:
        for report in self._reports:
            with suppress(psutil.NoSuchProcess):
                if "supervise" in psutil.Process(report.pid).cmdline() or "daemon_program" in " ".join(
                    psutil.Process(report.pid).cmdline()
                ):
                    kill_and_wait(report.pid)
            kill_run_processes(RunDir(Path(report.path)))


@pytest.fixture
def daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemons]:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    # where a daemon goes whose runtime folder is gone
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    made = Daemons()
    yield made
    made.end_all()


def kill_and_wait(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process and return once it is dead."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, number)
            assert select.select([fd], [], [], END_SECONDS)[0], f"{pid} outlived {number.name}"
        finally:
            os.close(fd)


def watch(run: RunDir, until: Callable[[Record], bool], seconds: float = END_SECONDS) -> list[Record]:
    """Follow the run from its beginning to the record that is waited for; everything up to there."""
    with Feed(run) as feed:
        return follow(feed, until, seconds)


def follow(
    feed: Feed | FarFeed, until: Callable[[Record], bool], seconds: float = END_SECONDS
) -> list[Record]:
    deadline = time.monotonic() + seconds
    seen: list[Record] = []
    while (left := deadline - time.monotonic()) > 0:
        batch = feed.poll(left)
        seen += batch
        if any(map(until, batch)):
            return seen
    raise AssertionError(f"it did not come; the last of {len(seen)} records: {seen[-3:]}")


def state_is(*states: str, attempt: int | None = None) -> Callable[[Record], bool]:
    return lambda r: (
        isinstance(r.event, StateChanged) and r.event.state in states and attempt in (None, r.event.attempt)
    )


def kind_is(kind: str, attempt: int | None = None) -> Callable[[Record], bool]:
    return lambda r: r.kind == kind and attempt in (None, r.attempt)


def wait_until_over(run: RunDir, pid: int) -> None:
    """Until the supervisor's process has ended."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        assert select.select([fd], [], [], END_SECONDS)[0], f"the supervisor of {run.name} does not end"
        os.close(fd)


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = END_SECONDS) -> None:
    """For what nobody announces: looks every 20 ms."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.02)


def rank_pids(run: RunDir) -> list[int]:
    return [p.pid for p in run_processes(run) if "rank_program" in " ".join(p.cmdline())]


def agent_pid(run: RunDir) -> int:
    return next(int(p.pid) for p in run_processes(run) if "agent_program" in " ".join(p.cmdline()))


def events(run: RunDir, kind: type[Event]) -> list[Any]:
    return [r.event for r in read_all(run.journal) if isinstance(r.event, kind)]


def states(run: RunDir) -> list[str]:
    return [e.state for e in events(run, StateChanged)]
