"""A tiny run of the classic family on HDF5 that the test writes itself: one dataset `tokens`, a separator after each document."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from trainer_daemon.contract.spec import RunSpec, build_spec
from trainer_daemon.engine.data.stories.generator import story
from trainer_daemon.engine.data.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer

TINY_PILE: dict[str, Any] = {
    "model": {"family": "classic", "depth": 2, "aspect_ratio": 16, "head_dim": 16, "sequence_len": 64},
    "data": {"source": "pile", "separator": "after", "packing": "concat"},
    "tokenizer": {"name": "letters"},
    "adamw": {"learning_rate": 0.003},
    "schedule": {"warmup_steps": 2, "warmdown_ratio": 0.8, "warmdown": "cosine", "final_lr_frac": 0.1},
    "train": {
        "num_iterations": 12,
        "micro_batch_size": 4,
        "global_batch_tokens": 4 * 64 * 2,
        "grad_clip_norm": 1.0,
    },
    "eval": {"every": 6, "tokens": 1024},
    "sample": {"every": 6, "prompts": ["Once"], "max_tokens": 4},
    "checkpoint": {"every": 5},
    "runtime": {"device": "cpu", "nproc": 1, "threads_per_rank": 1, "precision": "fp32"},
}


def write_tiny_pile(home: Path) -> None:
    """Text as ids of bytes, and the tokenizer that they are of."""
    special = {name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}
    tokenizer = Tokenizer([bytes([b]) for b in range(256)], special, SPLIT_PATTERN)
    (home / "tokenizers").mkdir(parents=True, exist_ok=True)
    tokenizer.save(home / "tokenizers" / "letters.json")
    (home / "data" / "pile").mkdir(parents=True, exist_ok=True)
    for name, numbers in (("pile_train.h5", range(60)), ("pile_dev.h5", range(60, 70))):
        documents = [[*tokenizer.encode(story(0, i).text), tokenizer.bos_id] for i in numbers]
        with h5py.File(home / "data" / "pile" / name, "w") as file:
            file["tokens"] = np.concatenate(documents).astype(np.int32)


def tiny_pile_spec(*overrides: str) -> RunSpec:
    """The tiny run with `KEY=VALUE` changes."""
    return build_spec(TINY_PILE, list(overrides))
