"""Models whose likeliest token keeps changing: with every weight perturbed, and trained for a few steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.contract.scaling import Mixture, ModelShape
from trainer_daemon.engine.data.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from trainer_daemon.engine.models.families import new_model
from trainer_daemon.engine.models.language_model import LanguageModel

WINDOWED = ModelShape(
    n_layer=3,
    n_embd=64,
    n_head=4,
    n_kv_head=2,
    head_dim=16,
    sequence_len=256,
    vocab_size=261,
    windows=(7, 30, 256),
)
"""Grouped queries, value embeddings on two layers, windows that are overrun early and late."""
FULL = ModelShape(
    n_layer=2,
    n_embd=32,
    n_head=2,
    n_kv_head=2,
    head_dim=16,
    sequence_len=256,
    vocab_size=261,
    windows=(256, 256),
)


CLASSIC = replace(FULL, n_layer=3, n_embd=64, n_head=4, n_kv_head=4, windows=(256,) * 3, family="classic")


MOE = replace(CLASSIC, family="moe", mixture=Mixture(4, 2, 40, 24, balance_weight=0.01))
"""The likeliest two of four experts; decided enough that no rounding chooses otherwise."""


def perturbed(shape: ModelShape, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """All weights non-zero and large enough that the likeliest token keeps changing."""
    model = new_model(shape, compute_dtype=dtype)
    model.init_weights(1)
    draw = torch.Generator().manual_seed(2)
    much = (
        1.0 if shape.family == "nanochat" else 0.2
    )  # where nothing bounds the logits, so that rounding stays small
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=much)
    return model.eval()


@pytest.fixture(scope="session")
def windowed() -> LanguageModel:
    return perturbed(WINDOWED)


@pytest.fixture(scope="session")
def full() -> LanguageModel:
    return perturbed(FULL)


@pytest.fixture(scope="session")
def classic() -> LanguageModel:
    return perturbed(CLASSIC)


@pytest.fixture(scope="session")
def moe() -> LanguageModel:
    return perturbed(MOE)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Tokenizer, Path]:
    """A model after a few steps, its tokenizer, and its last checkpoint."""
    home = tmp_path_factory.mktemp("trained")
    spec = tiny_spec("model.sequence_len=256", "train.global_batch_tokens=2048", "eval.tokens=2048")
    _, job = run_tiny(spec, home, Recorder())
    return job.model.eval(), job.tokenizer, home / "checkpoints/step-00000012"


@pytest.fixture(scope="session")
def letters() -> Tokenizer:
    """256 bytes and the specials: a token a letter."""
    special = {name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}
    return Tokenizer([bytes([b]) for b in range(256)], special, SPLIT_PATTERN)
