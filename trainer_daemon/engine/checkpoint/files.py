"""What a checkpoint holds, written and read: safetensors for tensors, JSON for the rest, nothing executable.

The main rank writes all of it, from a snapshot in host memory that the ranks have put together at a step boundary. So no
rank can be left behind with half a checkpoint, and a disk that fails is one process's trouble.
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
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

RESERVED_BYTES = 2**20
"""A checkpoint leaves this much of the disk to the journal and the logs."""


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
    micro_batch_size: int | None = None
    """Rows that a rank took at a time."""
    usual_loss_nats: list[float] = field(default_factory=list)
    """Losses of the last sound steps, oldest first: what counts as a spike follows from them."""
    usual_grad_norm: list[float] = field(default_factory=list)
    """Gradient norms of the same steps."""

    def become(self, other: "Progress") -> None:
        """Take over all of another one's values."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(other, name))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a checkpoint of one step is written from, in host memory. It does not change any more."""

    progress: Progress
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    generators: list[dict[str, Tensor]]
    """Per rank, the states of its random generators."""
    texts: dict[str, str]
    """Small files kept beside the tensors: the spec, the tokenizer."""
    lineage: Lineage

    @property
    def bytes(self) -> int:
        """Of the tensors."""
        return sum(t.nbytes for tensors in (self.model, self.optimizer) for t in tensors.values())


def write_checkpoint(folder: Path, snapshot: Snapshot) -> Path:
    """Publish a checkpoint in `folder`; returns its own folder. Raises SaveFailedError, and nothing of it is left then."""
    progress = snapshot.progress
    draft = store.temporary_folder(folder, progress.step)
    try:
        _check_space(folder, snapshot.bytes)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_file(snapshot.model, draft / "model.safetensors")
        save_file(snapshot.optimizer, draft / "optimizer.safetensors")
        for rank, states in enumerate(snapshot.generators):
            save_file(states, draft / f"rank-{rank}.safetensors")
        write_durably(draft / "training.json", json.dumps(asdict(progress)).encode())
        for name, text in snapshot.texts.items():
            write_durably(draft / name, text.encode())
        manifest = store.Manifest(
            step=progress.step,
            tokens=progress.tokens,
            loss_nats=progress.loss_nats,
            world_size=len(snapshot.generators),
            saved_at=time.time(),
            torch=torch.__version__,
            lineage=snapshot.lineage,
        )
        return store.publish(draft, manifest)
    except (OSError, SafetensorError) as e:  # a full disk reaches us as either, depending on who was writing
        shutil.rmtree(draft, ignore_errors=True)
        raise SaveFailedError(f"checkpoint of step {progress.step} abandoned: {e}") from e


def _check_space(folder: Path, needed: int) -> None:
    """Raises OSError when the disk is too full to begin: minutes of writing would end in the same."""
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    if free < needed + RESERVED_BYTES:
        raise OSError(
            f"it takes {needed / 1e6:,.1f} MB, {folder} has {free / 1e6:,.1f} MB free; free some space"
        )


def load_progress(checkpoint: Path) -> Progress:
    """How far the checkpoint's run was. Raises RunFailedError when the file is not what its name says."""
    try:
        values = json.loads((checkpoint / "training.json").read_bytes())
        if scale := values.get("loss_scale"):
            values["loss_scale"] = LossScale(**scale)
        return Progress(**values)
    except (ValueError, TypeError, AttributeError) as e:
        raise RunFailedError(f"{checkpoint.name}/training.json was not written by this program: {e}") from e


def load_tensors(checkpoint: Path, name: str, device: torch.device) -> dict[str, Tensor]:
    """`name`.safetensors of a checkpoint that was verified before. Raises RunFailedError when it is no such file."""
    try:
        return load_file(checkpoint / f"{name}.safetensors", device=str(device))
    except SafetensorError as e:
        raise RunFailedError(f"{checkpoint.name}/{name}.safetensors is no safetensors file: {e}") from e


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """This rank's random generators, as bytes on the CPU."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(checkpoint: Path, ranks: Ranks) -> None:
    """Set this rank's random generators as they were; they stay fresh on a rank that did not exist then."""
    name = f"rank-{ranks.rank}"
    if not (checkpoint / f"{name}.safetensors").exists():
        return
    states = load_tensors(checkpoint, name, torch.device("cpu"))
    torch.set_rng_state(states["cpu"])
    if ranks.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], ranks.device)


def choose_checkpoint(
    folder: Path, ranks: Ranks, before_step: int | None = None
) -> tuple[Path | None, list[str]]:
    """The newest good checkpoint, the same on all ranks, and what was passed over on the way to it.

    `before_step`: only of earlier steps.

    Raises RunFailedError when there are checkpoints but none is good: training from nothing would hide the loss.
    """
    chosen: list[str] | None = None
    if ranks.is_main:
        store.sweep(folder)
        newest, refused = store.newest_good(folder, before_step)
        chosen = [str(newest or ""), *refused]
    path, *refused = ranks.broadcast_json(chosen)
    if refused and not path:
        raise RunFailedError(
            f"no checkpoint of this run can be trusted: {'; '.join(refused)}. Nothing was deleted; "
            f"restore one of them, or start a new run"
        )
    return (Path(path) if path else None), refused
