"""A real rank of the tiny run that has one fault, named on the command line; leaves its events as JSON.

python -m tests.faults.faulty_rank FOLDER nan|slow|flip|flip-then-asked|evaluation KEY=VALUE…
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.tiny import Recorder, build_tiny, tiny_spec
from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.contract.events import Command, Event, TrainStep, to_fields
from trainer_daemon.engine.job import Job
from trainer_daemon.engine.loop import train
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.ranks import join_ranks

FAULTY_STEP = 8
SLOW_SECONDS = {0: 0.04, 1: 0.06}
"""Of each forward pass, by rank: far enough apart that a busy machine does not bring them together."""


class FaultyRecorder(Recorder):
    """Breaks something on rank 1 once a step is done; every rank takes part in the step, and so has one."""

    def __init__(self, fault: str, rank: int) -> None:
        asked = {
            "flip-then-asked": {
                FAULTY_STEP - 2: [Command("before", "check", {})],
                FAULTY_STEP: [Command("after", "check", {})],
            },
            "evaluation": {FAULTY_STEP: [Command("asked", "evaluate", {})]},
        }
        super().__init__(
            asked.get(fault) if rank == 0 else None
        )  # others hear of requests from the main rank
        self.fault = fault
        self.job: Job | None = None

    def emit(self, event: Event) -> None:
        super().emit(event)
        if (
            self.job is not None
            and self.fault.startswith("flip")
            and isinstance(event, TrainStep)
            and event.step == FAULTY_STEP
            and self.job.ranks.rank == 1
        ):
            # of what each rank updates for itself: the next step would overwrite a row that another rank updates
            assert isinstance(self.job.model, GPT)
            bits = self.job.model.resid_lambdas.data.view(torch.int32)
            bits[0] ^= 1 << 10


def main() -> int:
    folder, fault, *overrides = sys.argv[1:]
    spec = tiny_spec(*overrides)
    ranks = join_ranks(spec.runtime)
    recorder = FaultyRecorder(fault, ranks.rank)
    job = build_tiny(spec, Path(folder), recorder, Path(folder) / "checkpoints", ranks)
    recorder.job = job

    def before_forward(_module: torch.nn.Module, _inputs: Any) -> None:
        if fault == "slow":
            time.sleep(SLOW_SECONDS[ranks.rank])

    def after_forward(_module: torch.nn.Module, _inputs: Any, loss: torch.Tensor) -> torch.Tensor:
        if fault == "evaluation" and ranks.rank == 1 and not torch.is_grad_enabled():
            raise TypeError("a mistake in a changed model")
        is_hit = (
            fault == "nan"
            and ranks.rank == 1
            and torch.is_grad_enabled()
            and job.progress.step >= FAULTY_STEP
        )
        return loss * float("nan") if is_hit else loss

    job.model.register_forward_pre_hook(before_forward)
    job.model.register_forward_hook(after_forward)
    finished = train(job)
    told = [{"kind": e.kind(), **to_fields(e)} for e in [*recorder.events, finished]]
    finite = all(bool(torch.isfinite(p).all()) for p in job.model.parameters())
    (Path(folder) / f"rank-{ranks.rank}.json").write_text(json.dumps({"events": told, "finite": finite}))
    ranks.close()
    return 0


if __name__ == "__main__":
    run_and_leave(main)
