"""A rank of a run in which the last rank alone computes what is not a number: its loss at one step, one gradient at
another. Its clock stands still, too, while evaluations are due by the clock. Leaves its parameters, and how it saw each
step."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.tiny import Recorder, build_tiny, tiny_spec
from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.contract.events import Evaluated, TrainStep
from trainer_daemon.engine.loop import train
from trainer_daemon.engine.ranks import join_ranks
from trainer_daemon.engine.timers import Timers

NAN_LOSS_STEP, NAN_GRADIENT_STEP = 3, 6


def main() -> int:
    folder = Path(sys.argv[1])
    spec = tiny_spec(
        "train.num_iterations=8",
        "eval.every=off",
        "eval.every_minutes=1e-9",
        "sample.every=off",
        "checkpoint.every=off",
    )
    ranks = join_ranks(spec.runtime)
    seen = Recorder()
    job = build_tiny(spec, folder, seen, ranks=ranks)

    def poison_loss(_module: nn.Module, _inputs: object, loss: Tensor) -> Tensor:
        is_poisoned = torch.is_grad_enabled() and job.progress.step + 1 == NAN_LOSS_STEP
        return loss * float("nan") if is_poisoned else loss

    def poison_gradient(gradient: Tensor) -> Tensor:
        return gradient * float("nan") if job.progress.step + 1 == NAN_GRADIENT_STEP else gradient

    if ranks.rank == ranks.world_size - 1:
        job.timers = Timers(clock=lambda: 0.0)
        job.model.register_forward_hook(poison_loss)
        job.model.lm_head.weight.register_hook(poison_gradient)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    finished = train(job)
    save_file(
        {k: v.clone() for k, v in job.model.state_dict().items()},
        folder / f"replica-{ranks.rank}.safetensors",
    )
    told = {
        "reason": finished.reason,
        "updates": job.optimizer.steps_taken,
        "losses": [e.loss_nats for e in seen.of(TrainStep)],
        "evaluated": [e.step for e in seen.of(Evaluated)],
        "grad_norms": [e.grad_norm for e in seen.of(TrainStep)],
    }
    (folder / f"told-{ranks.rank}.json").write_text(json.dumps(told))
    ranks.close()
    return 0


if __name__ == "__main__":
    run_and_leave(main)
