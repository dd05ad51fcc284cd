"""How runs and checkpoints are named on the command line, once for all commands.

RUN           a run's name, a unique prefix of it, or @last
CHECKPOINT    RUN, RUN@STEP, RUN@last, RUN@best, or a path to a checkpoint folder; RUN alone is its newest one
"""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from trainer_daemon.contract.rundir import RunDir
    from trainer_daemon.engine.checkpoint.store import CheckpointInfo


def complete_run(incomplete: str) -> list[str]:
    """Run names for the shell's tab key."""
    from trainer_daemon.contract.rundir import all_runs

    return [run.name for run in all_runs() if run.name.startswith(incomplete)]


RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's name, a unique prefix of it, or @last.", autocompletion=complete_run
    ),
]
CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@STEP]",
        help="A run's newest checkpoint, RUN@STEP, RUN@best, or a checkpoint's folder.",
        autocompletion=complete_run,
    ),
]
TimeLimitOption = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        metavar="TIME",
        help="Save and stop before so long has passed: 4h, 90m, 2d12h. none: as long as it takes.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def split_reference(reference: str) -> tuple[str, str | None]:
    """`demo@500` -> `("demo", "500")`; `demo` -> `("demo", None)`; `@last` is a run."""
    run, at, which = reference.rpartition("@")
    return (run, which) if at and run else (reference, None)


def find_checkpoint(reference: str) -> "tuple[RunDir | None, CheckpointInfo]":
    """The checkpoint that is meant, and its run unless a folder was named.

    Raises SpecError for what is no checkpoint reference, NotFoundError, naming the nearest, when there is none such.
    """
    from pathlib import Path

    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.rundir import find_run

    if "/" in reference:
        return None, _checkpoint_at(Path(reference))
    run_reference, which = split_reference(reference)
    if which is not None and which not in {"last", "best"} and not (which.isascii() and which.isdecimal()):
        raise SpecError(
            f'"{reference}": after the @ comes a step, last or best; for example {run_reference}@best'
        )
    run = find_run(run_reference)
    return run, _choose(run, which)


def _choose(run: "RunDir", which: str | None) -> "CheckpointInfo":
    from trainer_daemon.contract.errors import NotFoundError
    from trainer_daemon.engine.checkpoint.store import list_checkpoints

    infos = list_checkpoints(run.checkpoints)
    if not infos:
        advice = (
            f"save one: llmctl save {run.name}"
            if run.supervisor_is_alive()
            else "it ended before its first save"
        )
        raise NotFoundError(f"{run.name} has no checkpoint yet; {advice}")
    if which in (None, "last"):
        return infos[-1]
    if which == "best":
        best = [info for info in infos if info.best]
        if not best:
            raise NotFoundError(
                f"no checkpoint of {run.name} has been evaluated; use {run.name}@{infos[-1].step}"
            )
        return best[-1]
    step = int(which or 0)
    exact = [info for info in infos if info.step == step]
    if not exact:
        nearest = min(infos, key=lambda info: abs(info.step - step))
        steps = ", ".join(str(info.step) for info in infos[-8:])
        raise NotFoundError(
            f"{run.name} has no checkpoint of step {step}; the nearest is {run.name}@{nearest.step}, there are: {steps}"
        )
    return exact[0]


def _checkpoint_at(path: "Path") -> "CheckpointInfo":
    from trainer_daemon.contract.errors import NotFoundError
    from trainer_daemon.engine.checkpoint.store import list_checkpoints

    path = path.expanduser().absolute()
    found = [info for info in list_checkpoints(path.parent) if info.path == path] if path.is_dir() else []
    if not found:
        raise NotFoundError(
            f"{path} is not a checkpoint folder: it needs to be a step-… folder with a MANIFEST.json"
        )
    return found[0]
