"""`llmctl` in this process or as a program, in a home of its own, and runs made without training."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from tests.supervisor.conftest import daemons
from trainer_daemon.contract import events
from trainer_daemon.contract.journal import JournalWriter, Stream
from trainer_daemon.contract.rundir import RunDir, create_run
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.engine.checkpoint import store

__all__ = ["daemons"]

PROGRAM = str(Path(sys.executable).with_name("llmctl"))


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Llmctl = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    runtime = tmp_path / "runtime"
    runtime.mkdir(exist_ok=True)
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    return tmp_path / "home"


@pytest.fixture
def llmctl(home: Path, capsys: pytest.CaptureFixture[str]) -> Llmctl:
    """One command line in this process."""

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return call


@pytest.fixture
def program(home: Path) -> Llmctl:
    """One command line as the installed program."""

    def call(*arguments: str, text: str = "", timeout: float = 60) -> Result:
        done = subprocess.run(
            [PROGRAM, *arguments], input=text, capture_output=True, text=True, timeout=timeout, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


def write(run: RunDir, stream: Stream, *what: events.Event, attempt: int = 1) -> None:
    with JournalWriter(run.journal, stream, attempt) as writer:
        for event in what:
            writer.append(event)


def train_step(step: int) -> events.TrainStep:
    return events.TrainStep(
        step=step,
        loss_nats=4.0 - step,
        grad_norm=1.5,
        learning_rate_scale=1.0,
        step_seconds=0.5,
        tokens=64 * step,
        tokens_per_second=128.0,
        mfu=None,
        epoch=0.1,
        learning_rates={"matrix": 0.02},
        data_seconds=0.01,
        compute_seconds=0.35,
        wait_seconds=0.04,
        optimizer_seconds=0.1,
        memory_bytes=2_000_000,
        peak_memory_bytes=3_000_000,
    )


def make_run(name: str, *last: events.Event) -> RunDir:
    """A run of three steps that nobody works on any more; `last` ends its daemon's stream."""
    run, lock = create_run(name, build_spec({"train": {"num_iterations": 3}}))
    write(run, "daemon", events.StateChanged("starting", "started", 4711, 1))
    write(run, "train", *(train_step(step) for step in (1, 2, 3)))
    write(run, "train", events.Evaluated(3, 1.25, 3.0, 640, 0.1))
    write(run, "daemon", *last)
    os.close(lock)
    return run


def completed_run(name: str = "done") -> RunDir:
    return make_run(name, events.StateChanged("completed", "all 3 steps done", 4711, 1))


def failed_run(name: str = "broken") -> RunDir:
    reason = "rank 0: the disk is gone; check the cable"
    return make_run(name, events.StateChanged("failed", reason, 4711, 1))


def add_checkpoint(run: RunDir, step: int, val_bpb: float | None = None) -> Path:
    draft = store.temporary_folder(run.checkpoints, step)
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"weights %d" % step)
    manifest = store.Manifest(
        step=step,
        tokens=step * 100,
        loss_nats=2.0,
        world_size=1,
        saved_at=1.7e9,
        torch="2.13.0",
        lineage=store.Lineage(spec_hash="a", tokenizer_hash="b", data_fingerprint="c", parent=None),
    )
    path = store.publish(draft, manifest)
    if val_bpb is not None:
        store.record_score(run.checkpoints, step, val_bpb)
    return path
