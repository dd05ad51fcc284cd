"""A model to be trained, with its optimizer and as it is trained: compiled where that works, under DDP on several ranks.

It is built as the plan says, with fresh weights; a checkpoint is put into it afterwards. Where a compiler is missing the
run goes on without what would have been compiled, and says so.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer_daemon.contract.estimate import Precision
from trainer_daemon.contract.events import AttentionChosen, Notice
from trainer_daemon.contract.scaling import TrainingPlan
from trainer_daemon.contract.spec import RunSpec, RuntimeSpec
from trainer_daemon.engine.checkpoint.files import Progress, load_progress, load_tensors
from trainer_daemon.engine.models.attention import choose_attention
from trainer_daemon.engine.models.families import new_model
from trainer_daemon.engine.models.grouped import keep_loop_from_compiler
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.models.loss import use_fused_kernel
from trainer_daemon.engine.native import NativeError
from trainer_daemon.engine.optim.muon_adamw import MuonAdamW, build_optimizer
from trainer_daemon.engine.outbox import Emit
from trainer_daemon.engine.precision import COMPUTE_DTYPES
from trainer_daemon.engine.ranks import Ranks


@dataclass(frozen=True)
class Network:
    """A model, the same model as it is trained, and its optimizer."""

    model: LanguageModel
    replica: nn.Module
    """Compiled and under DDP, as the run asks for."""
    optimizer: MuonAdamW


def build_network(
    spec: RunSpec,
    plan: TrainingPlan,
    precision: Precision,
    ranks: Ranks,
    emit: Emit,
    document_start: int | None = None,
) -> Network:
    """A fresh model, its optimizer, and the model as it is trained; `document_start` as `new_model` takes it. All ranks."""
    dtype = COMPUTE_DTYPES[precision]
    attention = choose_attention(
        spec.runtime.attention,
        ranks.device,
        dtype,
        plan.shape.head_dim,
        masks_documents=document_start is not None,
    )
    emit(AttentionChosen(attention.kernel, attention.why))
    model = new_model(
        plan.shape,
        compute_dtype=dtype,
        device=ranks.device,
        recompute=spec.runtime.activation_checkpointing,
        attention=attention.kernel,
        document_start=document_start,
    )
    if precision == "fp8" and not model.train_in_fp8(spec.runtime.fp8_recipe):
        emit(Notice("warning", "fp8: no product of this model is wide enough; it trains in bf16"))
    model.init_weights(spec.seed)
    optimizer = build_optimizer(
        model, plan, spec.optimizer, ranks
    )  # it moves the parameters, so it comes first
    replica: nn.Module = model
    if mode := compile_mode(spec.runtime, ranks.device):
        keep_loop_from_compiler()
        replica = compiled_or_eager(replica, mode, emit)
    if ranks.world_size > 1:
        on_gpu = [ranks.device.index] if ranks.device.type == "cuda" else None
        replica = DistributedDataParallel(replica, device_ids=on_gpu, gradient_as_bucket_view=True)
    return Network(model, replica, optimizer)


def load_checkpoint(checkpoint: Path, model: LanguageModel, optimizer: MuonAdamW, ranks: Ranks) -> Progress:
    """Put a checkpoint that was verified before into the model and the optimizer; returns how far it is."""
    progress = load_progress(checkpoint)
    model.load_state_dict(load_tensors(checkpoint, "model", ranks.device))
    # mapped from the file on the CPU: only this rank's part of it is read
    whole_state = load_tensors(checkpoint, "optimizer", torch.device("cpu"))
    optimizer.load_state_tensors(whole_state, progress.optimizer_steps)
    return progress


def fuse_loss_or_tell(home: Path, emit: Emit) -> None:
    """Compile the CPU's loss kernel, or say that the loss goes on in plain torch."""
    try:
        use_fused_kernel(home / "kernels")
    except NativeError as e:
        emit(
            Notice(
                "info", f"the loss runs without its compiled kernel, more slowly ({e}). See: llmctl doctor"
            )
        )


def compile_mode(runtime: RuntimeSpec, device: torch.device) -> str | None:
    """The mode for torch.compile; None to run eagerly."""
    if runtime.compile == "auto":
        return "default" if device.type == "cuda" else None
    return None if runtime.compile == "off" else runtime.compile


def compiled_or_eager(model: nn.Module, mode: str, emit: Emit) -> nn.Module:
    """The model compiled, or as it is, with a notice, where this machine has no working compiler."""
    # a constant of its own: a compilation kept on disk would answer for a compiler that is gone
    constant = float(time.time_ns() % 1_000_003)
    try:
        torch.compile(lambda x: x * constant, dynamic=False)(torch.zeros(8))
    except Exception as e:  # noqa: BLE001 - whatever the tool chain raises, eager is right and the reader is told
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        emit(
            Notice(
                "warning",
                f"torch.compile does not work here ({reason}); the run goes on eagerly. See: llmctl doctor",
            )
        )
        return model
    compiled: nn.Module = torch.compile(model, dynamic=False, mode=mode)  # type: ignore[assignment]  # typed as a plain callable
    return compiled
