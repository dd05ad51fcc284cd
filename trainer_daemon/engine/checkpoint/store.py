"""Checkpoints on disk: what counts as one, finding, checking and thinning them out. No torch.

    checkpoints/step-00000100/  MANIFEST.json  model.safetensors  optimizer.safetensors  rank-0.safetensors …
                                training.json  spec.json  tokenizer.json            score.json, pinned (added later)

A checkpoint is good when its manifest is whole and every file has the size and SHA-256 that the manifest says. It
appears by the rename of a finished temporary folder and leaves by a rename to a temporary one, so a folder named
`step-…` that is not good is damage, which is said and never cleaned away. Nothing is written to it again, except
`score.json`: the evaluation comes after the save, so that an evaluation that fails cannot cost the checkpoint; and
`pinned`, an empty file by which the user keeps it for good.
"""

import json
import os
import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer_daemon.contract.errors import NotFoundError
from trainer_daemon.contract.rundir import fsync_folder, write_durably, write_json

MANIFEST = "MANIFEST.json"
SCORE = "score.json"
PIN = "pinned"
LEAST_KEPT = 2
"""However little is asked to be kept: should the newest turn out damaged, there is one before it."""
FOLDER_PATTERN = re.compile(r"step-(\d{8})")


class ManifestFile(BaseModel):
    model_config = ConfigDict(frozen=True)

    # a plain file name, so that a forged manifest cannot point outside its folder
    path: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    bytes: int
    sha256: str


class Lineage(BaseModel):
    """Where a checkpoint comes from: what a resume must find unchanged."""

    model_config = ConfigDict(frozen=True)

    spec_hash: str
    tokenizer_hash: str
    data_fingerprint: str
    parent: str | None
    """Folder name of the checkpoint that this launch began from."""


class Manifest(BaseModel):
    """What a checkpoint says about itself."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    """Version of this layout; another one is refused by name."""
    step: int
    tokens: int
    loss_nats: float | None
    world_size: int
    saved_at: float
    torch: str
    lineage: Lineage
    files: tuple[ManifestFile, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One checkpoint as `llmctl checkpoints` lists it."""

    step: int
    path: Path
    bytes: int
    val_bpb: float | None
    loss_nats: float | None
    saved_at: float
    best: bool = False
    """Lowest val_bpb among those that have one; of equals the newest."""
    pinned: bool = False
    """Kept until it is unpinned."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file of a checkpoint against the manifest."""

    path: str
    ok: bool
    expected: str
    """SHA-256, hex."""
    actual: str | None
    """None when the file is missing."""


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """Everything that was published as a checkpoint, oldest step first, good or damaged."""
    return sorted(p for p in folder.glob("step-*") if FOLDER_PATTERN.fullmatch(p.name) and p.is_dir())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder. Raises NotFoundError when there is none, or not one to be trusted."""
    try:
        values = json.loads((folder / MANIFEST).read_bytes())
        if values.pop("sha256", None) != _hash_of(values):
            raise NotFoundError(f"{folder.name} is damaged ({MANIFEST})")
        return Manifest.model_validate(values)
    except FileNotFoundError as e:
        raise NotFoundError(f"{folder.name} is not a checkpoint: it has no {MANIFEST}") from e
    except ValidationError as e:
        where = ".".join(map(str, e.errors()[0]["loc"]))
        raise NotFoundError(
            f"{folder.name} was written by another version or forged ({MANIFEST}: {where})"
        ) from e
    except (OSError, ValueError, AttributeError) as e:
        raise NotFoundError(f"{folder.name} is damaged ({MANIFEST})") from e


def _hash_of(values: dict[str, Any]) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def list_checkpoints(folder: Path) -> list[CheckpointInfo]:
    """The run's readable checkpoints, oldest step first. Reads manifests only; `verify_checkpoint` reads the rest."""
    found: list[tuple[Path, Manifest, float | None]] = []
    for path in checkpoint_folders(folder):
        try:
            found.append((path, read_manifest(path), _read_score(path)))
        except NotFoundError:
            continue  # damaged: a listing has nothing to say about it, `newest_good` and `llmctl verify` do
    scored = [(score, -manifest.step) for _, manifest, score in found if score is not None]
    _, best_step = min(
        scored, default=(None, None)
    )  # of equal ones the newest: one, or a plateau would fill the disk
    return [
        CheckpointInfo(
            step=manifest.step,
            path=path,
            bytes=sum(file.bytes for file in manifest.files),
            val_bpb=score,
            loss_nats=manifest.loss_nats,
            saved_at=manifest.saved_at,
            best=score is not None and -manifest.step == best_step,
            pinned=(path / PIN).exists(),
        )
        for path, manifest, score in found
    ]


def _read_score(folder: Path) -> float | None:
    try:
        return float(json.loads((folder / SCORE).read_bytes())["val_bpb"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_trained_on_conversations(folder: Path) -> bool:
    """What the checkpoint's spec says of its text; False where it says nothing."""
    try:
        return json.loads((folder / "spec.json").read_bytes())["data"]["conversations"] is True
    except (OSError, ValueError, KeyError, TypeError):  # loading it says what is wrong
        return False


def record_score(folder: Path, step: int, val_bpb: float) -> None:
    """Note the evaluation that belongs to a checkpoint; does nothing when that step was not saved."""
    path = folder / folder_name(step)
    if path.is_dir():
        write_json(path / SCORE, {"val_bpb": val_bpb})


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def verify_checkpoint(folder: Path, only: Collection[str] | None = None) -> list[FileCheck]:
    """Every file of the manifest, or those of it in `only`, hashed anew.

    Raises NotFoundError when the manifest itself cannot be trusted.
    """
    checks = []
    for file in read_manifest(folder).files:
        if only is not None and file.path not in only:
            continue
        path = folder / file.path
        # a link could lead anywhere; only files that lie in the folder count
        actual = sha256_of(path) if path.is_file() and not path.is_symlink() else None
        checks.append(FileCheck(file.path, actual == file.sha256, file.sha256, actual))
    return checks


def good_checkpoints(folder: Path, *, at_most: int) -> list[Path]:
    """The newest checkpoints whose every hash holds, the newest first."""
    good = []
    for path in reversed(checkpoint_folders(folder)):
        with suppress(NotFoundError):
            if all(check.ok for check in verify_checkpoint(path)):
                good.append(path)
        if len(good) == at_most:
            break
    return good


def newest_good(folder: Path, before_step: int | None = None) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose every hash holds, and a sentence for each newer one that was passed over.

    `before_step`: only of earlier steps.
    """
    refused: list[str] = []
    for path in reversed(checkpoint_folders(folder)):
        if before_step is not None and path.name >= folder_name(before_step):
            continue
        try:
            bad = [check.path for check in verify_checkpoint(path) if not check.ok]
        except NotFoundError as e:
            refused.append(str(e))
            continue
        if not bad:
            return path, refused
        refused.append(f"{path.name} is damaged ({', '.join(bad)})")
    return None, refused


def temporary_folder(folder: Path, step: int) -> Path:
    """Where the save of this step is being written."""
    return folder / f".tmp-{folder_name(step)}"


def publish(draft: Path, manifest: Manifest) -> Path:
    """Hash and sync the draft's files, write the manifest, rename: only then is it a checkpoint. Returns its path.

    A damaged checkpoint of the same step, which a resume has passed over, makes way.
    """
    files = []
    for path in sorted(draft.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files.append(ManifestFile(path=path.name, bytes=path.stat().st_size, sha256=sha256_of(path)))
    values = manifest.model_copy(update={"files": tuple(files)}).model_dump()
    write_durably(draft / MANIFEST, json.dumps({**values, "sha256": _hash_of(values)}, indent=1).encode())
    final = draft.with_name(draft.name.removeprefix(".tmp-"))
    if final.exists():
        discard(final)
    draft.rename(final)
    fsync_folder(final.parent)
    return final


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint: by one rename it is none any more, whatever happens to the rest."""
    doomed = checkpoint.with_name(f".tmp-discarded-{checkpoint.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def pin(checkpoint: Path) -> None:
    """Keep a checkpoint until it is unpinned."""
    (checkpoint / PIN).touch()


def unpin(checkpoint: Path) -> None:
    """Leave a checkpoint to the rules again."""
    (checkpoint / PIN).unlink(missing_ok=True)


def dispensable(folder: Path, *, keep_last: int, keep_every: int | None) -> list[CheckpointInfo]:
    """Whole checkpoints that no rule keeps, oldest step first: not among the newest `keep_last` and never among the
    newest two, not the best, not of a step that `keep_every` divides, not pinned."""
    whole = [info for info in list_checkpoints(folder) if _has_its_sizes(info.path)]
    return [
        info
        for info in whole[: -max(keep_last, LEAST_KEPT)]
        if not (info.best or info.pinned or (keep_every and info.step % keep_every == 0))
    ]


def _has_its_sizes(checkpoint: Path) -> bool:
    """Whether every file is there with its size: what can be known without reading gigabytes."""
    try:
        return all(
            (checkpoint / file.path).stat().st_size == file.bytes for file in read_manifest(checkpoint).files
        )
    except (OSError, NotFoundError):
        return False


def retain(folder: Path, *, keep_last: int, keep_every: int | None) -> list[int]:
    """Delete what no rule keeps; returns the steps removed."""
    doomed = dispensable(folder, keep_last=keep_last, keep_every=keep_every)
    for info in doomed:
        discard(info.path)
    return [info.step for info in doomed]


def sweep(folder: Path) -> None:
    """Remove what interrupted saves and deletions left behind. Called by rank 0 before training, with no save going."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
