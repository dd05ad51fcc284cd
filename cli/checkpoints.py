"""`checkpoints verify pin unpin prune discard rm`: what is on disk, whether it is still what was written, and what is to go."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.printing import clock, number, out, out_json, say, size, table
from cli.references import (
    CheckpointArgument,
    JsonOption,
    RunArgument,
    complete_run,
    find_checkpoint,
    split_reference,
)

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
    else:
        out(checkpoint_table(infos))


def checkpoint_table(infos: "list[CheckpointInfo]") -> str:
    """A line for each, the oldest first."""
    rows = [
        (
            str(info.step),
            size(info.bytes),
            number(info.val_bpb, 4),
            number(info.loss_nats, 4),
            clock(info.saved_at),
            " ".join(["best"] * info.best + ["pinned"] * info.pinned),
        )
        for info in infos
    ]
    return table(("STEP", "SIZE", "VAL_BPB", "LOSS", "SAVED", ""), rows, left=0)


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
        if not bad:
            say(f"all {len(checks)} files of {checkpoint} are what was written")
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


def pin(checkpoint: CheckpointArgument) -> None:
    """Keep a checkpoint until it is unpinned, whatever the rules say."""
    from trainer_daemon.engine.checkpoint import store

    _, info = find_checkpoint(checkpoint)
    store.pin(info.path)
    out(f"step {info.step} is pinned: {info.path}")


def unpin(checkpoint: CheckpointArgument) -> None:
    """Leave a pinned checkpoint to the rules again."""
    from trainer_daemon.engine.checkpoint import store

    _, info = find_checkpoint(checkpoint)
    store.unpin(info.path)
    out(f"step {info.step} is not pinned")


def prune(
    run: RunArgument,
    keep_last: Annotated[
        int, typer.Option("--keep-last", metavar="N", min=2, help="How many of the newest to keep.")
    ] = 2,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete checkpoints, after showing which.

    The newest stay, the best, the pinned, those of every checkpoint.keep_every-th step, and whatever is damaged.
    """
    from contextlib import suppress

    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.settings import present_spec
    from trainer_daemon.engine.checkpoint import store

    found = find_run(run)
    rules = present_spec(found).checkpoint
    newest_good = store.good_checkpoints(found.checkpoints, at_most=store.LEAST_KEPT)
    doomed = [
        info
        for info in store.dispensable(found.checkpoints, keep_last=keep_last, keep_every=rules.keep_every)
        if info.path not in newest_good
    ]
    if not doomed:
        say(f"{found.name} has no checkpoint to delete")
        return
    out(checkpoint_table(doomed))
    freed = size(sum(info.bytes for info in doomed))
    if not yes:
        _make_sure(f"delete these {len(doomed)} of {found.name}, {freed}?", found.name)
    for info in doomed:
        with suppress(FileNotFoundError):  # a run that is training thins them out, too
            store.discard(info.path)
    say(f"{freed} are free again")


def discard(
    checkpoint: CheckpointArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete one checkpoint, RUN@STEP.

    Not a pinned one, and not the newest of a run that may still be resumed.
    """
    from trainer_daemon.contract.errors import RefusedError, SpecError
    from trainer_daemon.contract.status import observe
    from trainer_daemon.engine.checkpoint import store

    if split_reference(checkpoint)[1] is None:
        raise SpecError(
            f"say which one is to be deleted: {checkpoint}@STEP; see: llmctl checkpoints {checkpoint}"
        )
    run, info = find_checkpoint(checkpoint)
    assert run is not None
    if info.pinned:
        raise RefusedError(
            f"step {info.step} of {run.name} is pinned; first: llmctl unpin {run.name}@{info.step}"
        )
    if info.path == store.checkpoint_folders(run.checkpoints)[-1] and observe(run).state != "completed":
        raise RefusedError(
            f"step {info.step} is the newest of {run.name}, which a resume would go on from; it stays until there is a newer one"
        )
    if not yes:
        _make_sure(f"delete step {info.step} of {run.name}, {size(info.bytes)}?", run.name)
    store.discard(info.path)
    out(f"step {info.step} of {run.name} is deleted, {size(info.bytes)} are free again")


def remove(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Whole names of runs, or @last.", autocompletion=complete_run),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete whole runs, their checkpoints and all, after showing which.

    Not one that is still going. A fork of a deleted run keeps what it began with.
    """
    from trainer_daemon.contract.errors import LlmctlError, RefusedError, SpecError
    from trainer_daemon.contract.rundir import bytes_of_its_own, delete_run, find_run
    from trainer_daemon.contract.status import observe

    doomed = {run.name: run for run in map(find_run, runs)}
    if short := [f"{run} ({find_run(run).name})" for run in runs if run not in {*doomed, "@last"}]:
        raise SpecError(f"a run that is to be deleted has to be named in full: {', '.join(short)}")
    if going := [run.name for run in doomed.values() if run.supervisor_is_alive() or run.ranks_are_alive()]:
        raise RefusedError(f"{going[0]} is still going, nothing was deleted; first: llmctl stop {going[0]}")
    freed = {name: bytes_of_its_own(run) for name, run in doomed.items()}
    rows = []
    for name, run in doomed.items():
        try:
            status = observe(run)
            told: tuple[str, str, str] = status.state, str(status.step), number(status.min_val_bpb, 4)
        except LlmctlError:  # a run that cannot be read can go, too
            told = "unreadable", "-", "-"
        rows.append((name, *told, size(freed[name])))
    out(table(("RUN", "STATE", "STEP", "BEST VAL_BPB", "SIZE"), rows, left=2))
    if not yes:
        _make_sure(f"delete {' and '.join(doomed)}, {size(sum(freed.values()))}?", ", ".join(doomed))
    for run in doomed.values():
        delete_run(run)
    are = "is" if len(doomed) == 1 else "are"
    say(f"{' and '.join(doomed)} {are} deleted, {size(sum(freed.values()))} are free again")


def _make_sure(question: str, name: str) -> None:
    """Raises RefusedError unless the reader says yes."""
    from trainer_daemon.contract.errors import RefusedError

    if not sys.stdin.isatty():
        raise RefusedError(f"{question} Say so with --yes")
    say(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise RefusedError(f"{name} was left alone")
