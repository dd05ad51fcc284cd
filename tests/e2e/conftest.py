"""Whole runs: the real daemon, torch's real launcher, real ranks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.conftest import Daemons
from tests.tiny import tiny_spec
from tests.workers import end_workers
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.supervisor.detach import SUPERVISE


class Runs(Daemons):
    """Starts real runs of the tiny spec."""

    program = SUPERVISE

    def train(self, name: str, *overrides: str) -> RunDir:
        spec = tiny_spec("runtime.restart_delay_seconds=0", *overrides)
        return RunDir(Path(self.ask({"name": name, "spec": spec.model_dump(mode="json")}).path))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    made = Runs()
    yield made
    made.end_all()
    end_workers(tmp_path / "home")
