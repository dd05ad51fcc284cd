"""One of two ranks that choose a micro-batch by trial; the last one runs out of memory above two rows, in backward, where
the ranks would otherwise be exchanging gradients. Leaves what it decided."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.tiny import tiny_spec
from trainer_daemon.__main__ import leave
from trainer_daemon.contract.scaling import TrainingPlan, training_plan
from trainer_daemon.engine.micro_batch import try_out
from trainer_daemon.engine.network import Network, build_network
from trainer_daemon.engine.ranks import join_ranks


class Scarce(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.model(inputs, targets)
        if inputs.size(0) > 2 and ranks.rank == ranks.world_size - 1:
            loss.register_hook(run_out)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss


def run_out(_gradient: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def build(plan: TrainingPlan) -> Network:
    network = build_network(spec, plan, "fp32", ranks, lambda _: None)
    return replace(network, replica=DistributedDataParallel(Scarce(network.model)))


if __name__ == "__main__":
    spec = tiny_spec("train.micro_batch_size=auto", f"train.global_batch_tokens={16 * 32}")
    ranks = join_ranks(spec.runtime)
    choice = try_out(training_plan(spec, 300, 2), 1 << 50, ranks, build)
    assert choice is not None
    decided = f"{choice.plan.micro_batch_size} x {choice.plan.grad_accum_steps}"
    (Path(sys.argv[1]) / f"decided-{ranks.rank}").write_text(decided)
    ranks.close()
    leave(0)
