"""The smallest real run there is: two layers, a few hundred generated stories, steps of milliseconds."""

from pathlib import Path
from typing import Any, TypeVar

import torch

from trainer_daemon.contract.events import Command, Event, Finished, TrainStep
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.spec import RunSpec, build_spec
from trainer_daemon.engine.assembly import build_job
from trainer_daemon.engine.job import Job, Launch
from trainer_daemon.engine.loop import train
from trainer_daemon.engine.ranks import Ranks

E = TypeVar("E", bound=Event)

TINY: dict[str, Any] = {
    "model": {"depth": 2, "aspect_ratio": 16, "head_dim": 16, "sequence_len": 32, "window_pattern": "SL"},
    "data": {"source": "stories", "stories": 300},
    "tokenizer": {"vocab_size": 300},
    "train": {"num_iterations": 12, "micro_batch_size": 4, "global_batch_tokens": 4 * 32 * 2},
    "eval": {"every": 6, "tokens": 512},
    "sample": {"every": 6, "prompts": ["Once"], "max_tokens": 4},
    "checkpoint": {"every": 5},
    "optim": {"embedding_lr": 10.0, "unembedding_lr": 0.3, "matrix_lr": 0.5, "scalar_lr": 5.0},
    "schedule": {"warmup_steps": 2},
    "runtime": {"device": "cpu", "nproc": 1, "threads_per_rank": 1, "precision": "fp32"},
}


def tiny_spec(*overrides: str) -> RunSpec:
    """The tiny run with `KEY=VALUE` changes."""
    return build_spec(TINY, list(overrides))


class Recorder:
    """Stands where the journal and the control stream stand: keeps events, gives commands to be obeyed after a step."""

    def __init__(
        self, commands: dict[int, list[Command]] | None = None, *, stop_wanted: bool = False
    ) -> None:
        self.events: list[Event] = []
        self._stop_wanted = stop_wanted
        self._commands = dict(commands or {})
        self._waiting: list[Command] = []
        self._release(1)

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, TrainStep):
            self._release(event.step + 1)

    def _release(self, step: int) -> None:
        """Commands that come while a step runs are seen in its exchange and obeyed after it."""
        self._waiting += self._commands.pop(step, [])

    def pending(self) -> bool:
        return bool(self._waiting)

    def next(self) -> Command | None:
        return self._waiting.pop(0) if self._waiting else None

    def wait(self, seconds: float) -> None:
        """Every command of these tests is there already."""

    def terminated(self) -> bool:
        return False

    def stop_wanted(self) -> bool:
        return self._stop_wanted

    def of(self, kind: type[E]) -> list[E]:
        return [e for e in self.events if isinstance(e, kind)]

    @property
    def losses(self) -> dict[int, float | None]:
        return {e.step: e.loss_nats for e in self.of(TrainStep)}


ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def build_tiny(
    spec: RunSpec,
    home: Path,
    recorder: Recorder,
    folder: Path | None = None,
    ranks: Ranks = ALONE,
    rollbacks: int = 0,
) -> Job:
    """A job in this process, from the newest checkpoint where there is one. `folder`: the run's; None: `home` is."""
    torch.set_num_threads(1)
    (folder or home).mkdir(parents=True, exist_ok=True)
    launch = Launch(
        run=RunDir(folder or home),
        home=home,
        attempt=1,
        emit=recorder.emit,
        commands=recorder,
        rollbacks=rollbacks,
    )
    return build_job(spec, ranks, launch)


def run_tiny(
    spec: RunSpec, home: Path, recorder: Recorder, folder: Path | None = None, ranks: Ranks = ALONE
) -> tuple[Finished, Job]:
    """Build the job and train it."""
    job = build_tiny(spec, home, recorder, folder, ranks)
    try:
        return train(job), job
    finally:
        job.close()
