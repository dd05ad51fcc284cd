"""What a step has to tell is held until the device has work again, and nothing overtakes it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from tests.tiny import Recorder, build_tiny, tiny_spec
from trainer_daemon.contract.events import Command, Event, TrainStep
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.engine.job import Job
from trainer_daemon.engine.loop import train
from trainer_daemon.engine.outbox import Outbox


def a_job_that_holds_its_steps(
    spec: RunSpec, tmp_path: Path, seen: Recorder, emit: Callable[[Event], None]
) -> Job:
    """A job as it is built for an accelerator."""
    job = build_tiny(spec, tmp_path, seen, tmp_path / "held")
    job.emit = Outbox(emit, holds_steps=True)
    return job


def test_a_run_that_holds_its_steps_tells_the_same_in_the_same_order(tmp_path: Path) -> None:
    asked = {3: [Command("a", "pause", {}), Command("b", "save", {}), Command("c", "resume", {})]}
    spec = tiny_spec("checkpoint.asynchronous=off")
    at_once, held = Recorder(asked), Recorder(asked)
    for job in (
        build_tiny(spec, tmp_path, at_once, tmp_path / "at-once"),
        a_job_that_holds_its_steps(spec, tmp_path, held, held.emit),
    ):
        assert train(job).reason == "completed"
        job.close()
    assert in_order(held) == in_order(at_once)


def in_order(seen: Recorder) -> list[tuple[str, object]]:
    """What was told since the first step, without what differs from run to run."""
    told = [(event.kind(), getattr(event, "step", None)) for event in seen.events]
    return told[told.index(("train_step", 1)) :]


def test_a_step_is_told_once_the_next_one_is_queued_and_the_last_one_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, queued = Recorder(), 0
    told_after: list[int] = []

    def emit(event: Event) -> None:
        seen.emit(event)
        if isinstance(event, TrainStep):
            told_after.append(queued)

    spec = tiny_spec("eval.every=off", "sample.every=off", "checkpoint.every=off")
    job = a_job_that_holds_its_steps(spec, tmp_path, seen, emit)
    backward = job.gradients.backward

    def counted(loss: Tensor) -> None:
        nonlocal queued
        queued += 1
        backward(loss)

    monkeypatch.setattr(job.gradients, "backward", counted)
    train(job)
    job.close()
    portions = job.plan.grad_accum_steps
    assert told_after == [step * portions + 1 for step in range(1, 12)] + [12 * portions]


def test_a_step_is_told_even_if_the_next_one_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Recorder()
    job = a_job_that_holds_its_steps(tiny_spec(), tmp_path, seen, seen.emit)
    rows = job.batches.micro_batches

    def run_out(samples_seen: int) -> object:
        if job.progress.step == 3:
            raise OSError("the disk with the rows is gone")
        return rows(samples_seen)

    monkeypatch.setattr(job.batches, "micro_batches", run_out)
    with pytest.raises(OSError, match="rows is gone"):
        train(job)
    assert [e.step for e in seen.of(TrainStep)] == [1, 2]
    job.close()
    assert [e.step for e in seen.of(TrainStep)] == [1, 2, 3]
