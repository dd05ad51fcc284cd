"""A rank that makes five updates with given gradients, leaves what it has after three and five, and resumes from three."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.engine.optim.small import new_model, small_plan, take_steps
from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.contract.spec import RuntimeSpec
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.optim.muon_adamw import MuonAdamW, build_optimizer
from trainer_daemon.engine.ranks import Ranks, join_ranks


def leave(folder: Path, name: str, ranks: Ranks, model: GPT, optimizer: MuonAdamW) -> None:
    save_file(model.state_dict(), folder / f"{name}-model-{ranks.rank}.safetensors")
    state = optimizer.state_tensors()
    assert ranks.is_main or not state
    if ranks.is_main:
        save_file(state, folder / f"{name}-optimizer.safetensors")
    ranks.sum(0.0)  # all ranks have left theirs


def main(folder: Path, ranks: Ranks) -> None:
    plan = small_plan()
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        model = new_model(plan, dtype)
        optimizer = build_optimizer(model, plan, ranks=ranks)
        take_steps(model, optimizer, range(3))
        leave(folder, f"{name}-3", ranks, model, optimizer)
        take_steps(model, optimizer, range(3, 5))
        leave(folder, f"{name}-5", ranks, model, optimizer)

        resumed = new_model(plan, dtype)
        again = build_optimizer(resumed, plan, ranks=ranks)
        resumed.load_state_dict(load_file(folder / f"{name}-3-model-{ranks.rank}.safetensors"))
        again.load_state_tensors(load_file(folder / f"{name}-3-optimizer.safetensors"), steps_taken=3)
        leave(folder, f"{name}-loaded", ranks, resumed, again)
        take_steps(resumed, again, range(3, 5))
        leave(folder, f"{name}-resumed", ranks, resumed, again)


def run() -> int:
    joined = join_ranks(RuntimeSpec(device="cpu", threads_per_rank=1))
    main(Path(sys.argv[1]), joined)
    joined.close()
    return 0


if __name__ == "__main__":
    run_and_leave(run)
