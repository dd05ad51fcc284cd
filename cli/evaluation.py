"""`eval`: what a model is worth, asked of the run in training or of a checkpoint that it left."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.control import DONE_SECONDS, TimeoutOption, tell_done
from cli.printing import out, out_json, say
from cli.references import CheckpointArgument, JsonOption, find_checkpoint, split_reference
from trainer_daemon.contract.core_tasks import EvalTask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer_daemon.contract.events import CoreScored, CoreTaskScored, Evaluated, Event
    from trainer_daemon.contract.rundir import RunDir

    Tell = Callable[[CoreTaskScored], None]
    """Called with each task of CORE as it is done."""


def evaluate(
    checkpoint: CheckpointArgument,
    task: Annotated[
        EvalTask,
        typer.Option(
            "--task",
            help="bpb: held-out loss in bits per byte. core: its 22 tasks, or those whose examples are there. "
            "hellaswag: that one alone.",
        ),
    ] = "bpb",
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens", metavar="N", min=1, help="Of a stored checkpoint: read so many held-out tokens."
        ),
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option(
            "--examples", metavar="N", min=1, help="Of a stored checkpoint: ask so many of each task."
        ),
    ] = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DONE_SECONDS,
) -> None:
    """Measure the run in training at its next step boundary, or a stored checkpoint.

    RUN alone asks the run while it trains, whose ranks do it together, and its newest checkpoint afterwards. RUN@STEP, RUN@best and
    a folder are measured here, beside whatever trains, on a GPU that is free or else on the CPU.
    """
    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.events import Evaluated
    from trainer_daemon.contract.rundir import find_run

    run = None if "/" in checkpoint or split_reference(checkpoint)[1] else find_run(checkpoint)
    is_live = run is not None and run.supervisor_is_alive()
    if is_live and (tokens or examples):
        raise SpecError(
            f"{checkpoint} is in training and is measured as its spec says; --tokens and --examples are for stored "
            f"checkpoints: llmctl eval {checkpoint}@last"
        )
    scores: list[CoreTaskScored] = []

    def tell(task: "CoreTaskScored") -> None:
        scores.append(task)
        say(f"{task.task}: {task.accuracy:.1%} of {task.examples} right, centred {task.centred:.4f}")

    path = None if is_live else find_checkpoint(checkpoint)[1].path
    if path is None:
        assert run is not None
        found = _ask(run, task, timeout, tell)
    else:
        found = _measure(path, task, tokens, examples, tell)
    if json:
        report = {"checkpoint": str(path) if path else None, **asdict(found)}
        out_json(
            report if isinstance(found, Evaluated) else {**report, "scores": [asdict(s) for s in scores]}
        )
    elif isinstance(found, Evaluated):
        out(f"val_bpb {found.val_bpb:.6f}")
    else:
        out(found.in_words())


def _ask(run: "RunDir", task: "EvalTask", timeout: float, tell: "Tell") -> "Evaluated | CoreScored":
    """Have the run measure itself. Raises as `tell_done`."""
    from trainer_daemon.contract.events import CoreScored, CoreTaskScored, Evaluated

    found: list[Evaluated | CoreScored] = []

    def hear(event: "Event") -> None:
        if isinstance(event, CoreTaskScored):
            tell(event)
        elif isinstance(event, Evaluated if task == "bpb" else CoreScored):
            found.append(event)

    arguments = {} if task == "bpb" else {"task": task}  # as an older supervisor understands it, too
    tell_done(run.name, "evaluate", timeout, arguments, heard=hear, tell=say)
    return found[-1]


def _measure(
    path: "Path", task: "EvalTask", tokens: int | None, examples: int | None, tell: "Tell"
) -> "Evaluated | CoreScored":
    """Measure a checkpoint in this process. Raises as `open_examinee` and what it is asked, RefusedError for want of memory."""
    import os

    from trainer_daemon.contract.rundir import home
    from trainer_daemon.contract.spec import asking
    from trainer_daemon.processes.infer import free_gpu
    from trainer_daemon.processes.room import MAIN_MEMORY, free_memory, texts_that_fit

    texts_that_fit(path, free_memory(), MAIN_MEMORY)  # refused now rather than by the kernel
    gpu, why_none = free_gpu()
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu or ""  # before torch looks: a context alone would take memory
    if why_none:
        say(why_none)

    import torch

    from trainer_daemon.engine.evals.stored import measure_core, measure_held_out, open_examinee

    examinee = open_examinee(path, torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu"))
    if task == "bpb":
        return measure_held_out(examinee, home(), tokens)
    settings = asking(examinee.spec.eval, task)
    if examples is not None:
        settings = settings.model_copy(update={"core_examples": examples})
    return measure_core(examinee, settings, home(), tell)
