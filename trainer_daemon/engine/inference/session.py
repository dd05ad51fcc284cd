"""A stored checkpoint, ready to write: verified, loaded, with its own tokenizer. Needs nothing but its folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from trainer_daemon.contract.errors import LlmctlError, RunFailedError
from trainer_daemon.contract.scaling import ModelShape, model_shape
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.engine.checkpoint.files import load_tensors
from trainer_daemon.engine.checkpoint.store import read_manifest, verify_checkpoint
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.inference.decoder import Decoder
from trainer_daemon.engine.inference.uncached import UncachedDecoder, decoder_for
from trainer_daemon.engine.models.families import new_model
from trainer_daemon.engine.models.language_model import LanguageModel

READ = {"model.safetensors", "spec.json", "tokenizer.json"}
"""Of a checkpoint's files; the optimizer's, twice as large, are not even hashed."""


@dataclass(frozen=True)
class StoredModel:
    """What a checkpoint holds of a model, as it lies on disk."""

    shape: ModelShape
    tokenizer: Tokenizer
    tensors: dict[str, Tensor]
    """A state dict of the family's model."""
    step: int
    is_chat: bool
    """Trained on conversations, by what its spec says."""


@dataclass(frozen=True)
class Session:
    """A model and its tokenizer."""

    decoder: Decoder | UncachedDecoder
    tokenizer: Tokenizer
    step: int
    is_chat: bool
    """Trained on conversations: it answers messages."""


def read_model(checkpoint: Path) -> StoredModel:
    """Read a checkpoint onto the CPU. Raises RunFailedError when a file is damaged or foreign, NotFoundError when it is none."""
    bad = [check.path for check in verify_checkpoint(checkpoint, READ) if not check.ok]
    if bad:
        raise RunFailedError(
            f"{checkpoint.name} is damaged ({', '.join(bad)}); choose another: llmctl checkpoints RUN"
        )
    manifest = read_manifest(checkpoint)
    try:
        spec = RunSpec.model_validate_json((checkpoint / "spec.json").read_bytes())
        tokenizer = Tokenizer.load(checkpoint / "tokenizer.json")
        tensors = load_tensors(checkpoint, "model", torch.device("cpu"))
    except (LlmctlError, ValidationError, OSError) as e:
        raise RunFailedError(f"{checkpoint.name} was written by another version: {e}") from e
    if tokenizer.content_hash != manifest.lineage.tokenizer_hash:
        raise RunFailedError(
            f"{checkpoint.name} was trained with another tokenizer than the one that lies beside it; its token ids "
            f"mean other text. Restore the folder from where it was copied"
        )
    return StoredModel(
        model_shape(spec.model, tokenizer.vocab_size, spec.moe),
        tokenizer,
        tensors,
        manifest.step,
        is_chat=spec.data.conversations,
    )


def load_session(
    checkpoint: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Session:
    """A checkpoint, ready to write. Raises as `read_model`."""
    stored = read_model(checkpoint)
    model = load_model(stored, device=device, dtype=dtype)
    return Session(decoder_for(model), stored.tokenizer, stored.step, stored.is_chat)


def load_model(
    stored: StoredModel,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    document_start: int | None = None,
) -> LanguageModel:
    """The model itself; `document_start` as `new_model` takes it. Raises RunFailedError when its tensors are another model's."""
    model = new_model(stored.shape, compute_dtype=dtype, device=device, document_start=document_start)
    try:
        # assigned, not copied: the model takes no memory of its own, and is gone where the fast decoder writes
        model.load_state_dict({name: t.to(device) for name, t in stored.tensors.items()}, assign=True)
    except RuntimeError as e:
        raise RunFailedError(
            f"the checkpoint of step {stored.step} does not hold the model that its spec describes: {e}"
        ) from e
    return model
