"""A tiny run of the moe family: two layers, three experts of which a token meets two, on a few hundred generated stories."""

from typing import Any

from tests.tiny import TINY
from trainer_daemon.contract.spec import RunSpec, build_spec

TINY_MOE: dict[str, Any] = {
    **{
        name: TINY[name] for name in ("data", "tokenizer", "train", "eval", "sample", "checkpoint", "runtime")
    },
    "model": {"family": "moe", "depth": 2, "aspect_ratio": 16, "head_dim": 8, "sequence_len": 32},
    "moe": {"experts": 3, "latent_width": 12, "expert_ratio": 1.0},
    "muon": {"learning_rate": 0.02},
    "adamw": {"learning_rate": 0.01},
    "schedule": {"warmup_steps": 0, "restart_every": 8, "final_lr_frac": 0.5},
}


def tiny_moe_spec(*overrides: str) -> RunSpec:
    """The tiny run with `KEY=VALUE` changes."""
    return build_spec(TINY_MOE, list(overrides))
