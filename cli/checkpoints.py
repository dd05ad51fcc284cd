"""`checkpoints` and `verify`: what is on disk, and whether it is still what was written."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli.printing import clock, number, out, out_json, size, table
from cli.references import CheckpointArgument, JsonOption, RunArgument, find_checkpoint, split_reference

if TYPE_CHECKING:
    from pathlib import Path

    from trainer_daemon.engine.checkpoint.store import CheckpointInfo, FileCheck


def checkpoints(run: RunArgument, json: JsonOption = False) -> None:
    """List a run's checkpoints, the oldest first."""
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.engine.checkpoint.store import list_checkpoints

    infos = list_checkpoints(find_run(run).checkpoints)
    if json:
        out_json([checkpoint_json(info) for info in infos])
        return
    rows = [
        (
            str(info.step),
            size(info.bytes),
            number(info.val_bpb, 4),
            number(info.loss_nats, 4),
            clock(info.saved_at),
            "best" if info.best else "",
        )
        for info in infos
    ]
    out(table(("STEP", "SIZE", "VAL_BPB", "LOSS", "SAVED", ""), rows, left=0))


def checkpoint_json(info: "CheckpointInfo") -> dict[str, Any]:
    """One entry of `checkpoints --json`. `verified` is null: listing reads no tensors, `llmctl verify` does."""
    return {**asdict(info), "path": str(info.path), "verified": None}


def verify(checkpoint: CheckpointArgument, json: JsonOption = False) -> None:
    """Hash every file of a checkpoint anew.

    All checkpoints of a run, or one of them, against what the manifest says. Exit 4 when a file differs.
    """
    from trainer_daemon.contract.errors import NotFoundError, RunFailedError
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.engine.checkpoint.store import checkpoint_folders

    if "/" in checkpoint or split_reference(checkpoint)[1] is not None:
        folders = [find_checkpoint(checkpoint)[1].path]
    else:
        run = find_run(checkpoint)
        # not `list_checkpoints`, which passes over an unreadable manifest: here that is the news
        folders = checkpoint_folders(run.checkpoints)
        if not folders:
            raise NotFoundError(f"{run.name} has no checkpoint yet")
    checks = [check for folder in folders for check in check_folder(folder)]
    bad = [check.path for check in checks if not check.ok]
    if json:
        out_json({"ok": not bad, "files": [asdict(check) for check in checks]})
    else:
        for check in checks:
            what = "ok" if check.ok else "MISSING" if check.actual is None else "DAMAGED"
            out(f"{what:8}{check.path}")
    if bad:
        raise RunFailedError(
            f"{len(bad)} of {len(checks)} files are not what was written: {', '.join(bad)}; "
            f"resume passes over such a checkpoint, use an earlier one"
        )


def check_folder(folder: "Path") -> "list[FileCheck]":
    """Every file of one checkpoint, paths beginning with the folder's name; its manifest alone when that is unusable."""
    from dataclasses import replace

    from trainer_daemon.contract.errors import NotFoundError
    from trainer_daemon.engine.checkpoint.store import MANIFEST, FileCheck, verify_checkpoint

    try:
        checks = verify_checkpoint(folder)
    except NotFoundError as e:
        return [
            FileCheck(f"{folder.name}/{MANIFEST}", ok=False, expected="a readable manifest", actual=str(e))
        ]
    return [replace(check, path=f"{folder.name}/{check.path}") for check in checks]
