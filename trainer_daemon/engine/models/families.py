"""Which file answers for which family."""

import torch

from trainer_daemon.contract.estimate import ActivationCheckpointing
from trainer_daemon.contract.events import AttentionKernel
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.contract.spec import Family
from trainer_daemon.engine.models.classic import ClassicGPT
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.models.moe import MoEGPT

MODELS: dict[Family, type[GPT | ClassicGPT | MoEGPT]] = {
    "nanochat": GPT,
    "classic": ClassicGPT,
    "moe": MoEGPT,
}


def new_model(
    shape: ModelShape,
    *,
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    recompute: ActivationCheckpointing = "off",
    attention: AttentionKernel | None = None,
    document_start: int | None = None,
) -> LanguageModel:
    """A model of the shape's family, uninitialised. `document_start`: the id that begins a document, where none may see
    the one before it in its row."""
    return MODELS[shape.family](
        shape,
        compute_dtype=compute_dtype,
        device=device,
        recompute=recompute,
        attention=attention,
        document_start=document_start,
    )
