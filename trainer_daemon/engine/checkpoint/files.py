"""What a checkpoint holds, written and read: safetensors for tensors, JSON for the rest, nothing executable.

All ranks save together or not at all: each writes its part into one temporary folder, they agree that every part is
there, and rank 0 publishes it. A save that fails on one rank is abandoned by all and training goes on.
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer_daemon.contract.errors import LlmctlError, RunFailedError
from trainer_daemon.contract.rundir import write_durably
from trainer_daemon.engine.checkpoint import store
from trainer_daemon.engine.checkpoint.store import Lineage
from trainer_daemon.engine.optim.gradients import LossScale
from trainer_daemon.engine.ranks import Ranks

WRITE_ERRORS = (OSError, SafetensorError)
"""A full disk reaches us as either, depending on who was writing."""


class SaveFailedError(LlmctlError):
    """A checkpoint could not be written; the earlier ones stand."""


@dataclass(slots=True)
class Progress:
    """How far a run is: with the tensors and the spec, all that the next step depends on."""

    step: int = 0
    """Steps done."""
    optimizer_steps: int = 0
    """Steps that changed the parameters: those whose loss was finite."""
    samples_seen: int = 0
    """Rows drawn; the whole state of the data order."""
    tokens: int = 0
    loss_nats: float | None = None
    """Of the last step."""
    min_val_bpb: float | None = None
    loss_scale: LossScale | None = None
    """In fp16."""


def save_checkpoint(
    folder: Path,
    ranks: Ranks,
    progress: Progress,
    model: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    texts: dict[str, str],
    lineage: Lineage,
) -> Path:
    """Publish a checkpoint of this step; all ranks call it. Returns its folder.

    `texts` are small files kept beside the tensors (the spec, the tokenizer); `lineage` goes into the manifest. Raises
    SaveFailedError on every rank when any rank could not write its part.
    """
    draft = store.temporary_folder(folder, progress.step)
    problem: OSError | SafetensorError | None = None
    try:
        if ranks.is_main:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            save_file(_on_host(model), draft / "model.safetensors")
            save_file(_on_host(optimizer), draft / "optimizer.safetensors")
            write_durably(draft / "training.json", json.dumps(asdict(progress)).encode())
            for name, text in texts.items():
                write_durably(draft / name, text.encode())
    except WRITE_ERRORS as e:
        problem = e
    if ranks.all_ok(problem is None):
        try:
            save_file(_generator_states(ranks.device), draft / f"rank-{ranks.rank}.safetensors")
        except WRITE_ERRORS as e:
            problem = e
    published = ranks.all_ok(problem is None)
    if published and ranks.is_main:
        try:
            manifest = store.Manifest(
                step=progress.step,
                tokens=progress.tokens,
                loss_nats=progress.loss_nats,
                world_size=ranks.world_size,
                saved_at=time.time(),
                torch=torch.__version__,
                lineage=lineage,
            )
            store.publish(draft, manifest)
        except WRITE_ERRORS as e:
            problem = e
    if not ranks.all_ok(problem is None):
        if ranks.is_main:
            shutil.rmtree(draft, ignore_errors=True)
        reason = problem or "another rank could not write its part"
        raise SaveFailedError(f"checkpoint of step {progress.step} abandoned: {reason}") from problem
    return folder / store.folder_name(progress.step)


def load_progress(checkpoint: Path) -> Progress:
    """How far the checkpoint's run was."""
    values = json.loads((checkpoint / "training.json").read_bytes())
    if scale := values.get("loss_scale"):
        values["loss_scale"] = LossScale(**scale)
    return Progress(**values)


def load_tensors(checkpoint: Path, name: str, device: torch.device) -> dict[str, Tensor]:
    """`name`.safetensors of a checkpoint that was verified before."""
    return load_file(checkpoint / f"{name}.safetensors", device=str(device))


def restore_generators(checkpoint: Path, ranks: Ranks) -> None:
    """Set this rank's random generators as they were; they stay fresh on a rank that did not exist then."""
    path = checkpoint / f"rank-{ranks.rank}.safetensors"
    if not path.exists():
        return
    states = load_file(path)
    torch.set_rng_state(states["cpu"])
    if ranks.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], ranks.device)


def choose_checkpoint(folder: Path, ranks: Ranks) -> tuple[Path | None, list[str]]:
    """The newest good checkpoint, the same on all ranks, and what was passed over on the way to it.

    Raises RunFailedError when there are checkpoints but none is good: training from nothing would hide the loss.
    """
    chosen: list[str] | None = None
    if ranks.is_main:
        store.sweep(folder)
        newest, refused = store.newest_good(folder)
        chosen = [str(newest or ""), *refused]
    path, *refused = ranks.broadcast_json(chosen)
    if refused and not path:
        raise RunFailedError(
            f"no checkpoint of this run can be trusted: {'; '.join(refused)}. Nothing was deleted; "
            f"restore one of them, or start a new run"
        )
    return (Path(path) if path else None), refused


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _generator_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states
