"""A rank of an fp16 run; at step 3 the last rank's gradient overflows after the ranks have averaged theirs, so that only
it can know. Leaves its parameters and its loss scale for comparison."""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.tiny import Recorder, build_tiny, tiny_spec
from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.engine.loop import train
from trainer_daemon.engine.optim.gradients import Gradients
from trainer_daemon.engine.ranks import join_ranks


class OverflowingGradients(Gradients):
    steps = 0

    def finish(self) -> float:
        self.steps += 1
        if self.steps == 3:
            weight = self._parameters[0].grad
            assert weight is not None
            weight.view(-1)[0] = torch.tensor(math.inf)
        return super().finish()


def main() -> int:
    home, folder = Path(sys.argv[1]), Path(sys.argv[2])
    spec = tiny_spec("runtime.precision=fp16", "train.num_iterations=5", "checkpoint.every=none")
    ranks = join_ranks(spec.runtime)
    job = build_tiny(spec, home, Recorder(), folder, ranks)
    if ranks.rank == ranks.world_size - 1:
        job.gradients = OverflowingGradients(
            job.model.parameters(), clip_norm=None, loss_scale=job.gradients.loss_scale
        )
    train(job)
    assert job.gradients.loss_scale is not None
    save_file(job.model.state_dict(), folder / f"replica-{ranks.rank}.safetensors")
    told = {"scale": job.gradients.loss_scale.value, "updates": job.optimizer.steps_taken}
    (folder / f"told-{ranks.rank}.json").write_text(json.dumps(told))
    ranks.close()
    return 0


if __name__ == "__main__":
    run_and_leave(main)
