"""A model and gradients small enough to be updated in milliseconds, with every kind of parameter."""

import torch

from trainer_daemon.contract.scaling import LearningRates, TrainingPlan, training_plan
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.optim.muon_adamw import MuonAdamW


def small_plan() -> TrainingPlan:
    """Five layers: the stacks have 10 square, 10 and 5 wide, 5 tall and 3 tiny matrices, the tables 128 rows."""
    spec = build_spec(
        {
            "model": {"depth": 5, "aspect_ratio": 8, "head_dim": 8, "n_kv_head": 1, "sequence_len": 64},
            "train": {"global_batch_tokens": 512, "micro_batch_size": 8, "num_iterations": 50},
        }
    )
    return training_plan(spec, vocab_size=90, world_size=1)


def rates_of(plan: TrainingPlan) -> LearningRates:
    assert isinstance(plan.learning_rates, LearningRates)
    return plan.learning_rates


def new_model(plan: TrainingPlan, compute_dtype: torch.dtype = torch.float32) -> GPT:
    model = GPT(plan.shape, compute_dtype=compute_dtype)
    model.init_weights(3)
    return model


def set_gradients(model: GPT, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = (0.01 * torch.randn(parameter.shape, generator=draw)).to(parameter.dtype)


def take_steps(model: GPT, optimizer: MuonAdamW, seeds: range) -> None:
    """One update a seed, each with gradients, rate and momentum of its own."""
    for seed in seeds:
        set_gradients(model, seed)
        optimizer.step(
            learning_rate_scale=1.0 / (1 + seed), muon_momentum=0.85 + 0.02 * seed, weight_decay_scale=0.5
        )
