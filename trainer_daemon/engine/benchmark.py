"""CORE while it trains: when it is due, and how the ranks share its examples. What it computes is `evals/core.py`.

A benchmark never ends a run: whatever fails, on whichever rank, becomes an event that says why there is no figure.
"""

import time

from trainer_daemon.contract.core_tasks import CoreTask
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import CoreScored, CoreTaskScored, Notice
from trainer_daemon.contract.output import say
from trainer_daemon.contract.spec import EvalSpec
from trainer_daemon.engine.evals.core import Example, in_one_figure, open_core, right_answers
from trainer_daemon.engine.job import Job


class EvaluationFailedError(Exception):
    """It failed on some rank; raised on all of them, with what the main rank knows of it."""


def is_due(job: Job) -> bool:
    """Whether CORE's tasks are to be asked now: by their interval, and after the last step."""
    every, step = job.spec.eval.core_every, job.progress.step
    return every != "off" and step > 0 and (step % every == 0 or step == job.plan.total_steps)


def evaluate(job: Job, settings: EvalSpec | None = None) -> CoreScored | None:
    """Ask CORE's tasks, those of `settings` instead of the spec's, of the present model. All ranks, each its share.

    An event has the figure, or why there is none.
    """
    step = job.progress.step
    with job.phase("evaluating"):
        began = time.perf_counter()
        job.model.eval()
        try:
            tasks = _open_core_alike(job, settings or job.spec.eval)
            centred = {task: _score_core_task(job, task, examples) for task, examples in tasks.items()}
        except EvaluationFailedError as e:
            job.emit(Notice("error", f"CORE at step {step} was not measured: {e}"))
            return None
        finally:
            job.model.train()
        scored = in_one_figure(step, centred, time.perf_counter() - began)
        job.emit(scored)
        return scored


def _open_core_alike(job: Job, settings: EvalSpec) -> dict[CoreTask, list[Example]]:
    """The tasks and their examples, the same on all ranks."""
    error, tasks = "", {}
    try:
        tasks = open_core(settings, job.home)
    except (SpecError, OSError) as e:
        error = str(e)
        say(f"CORE at step {job.progress.step}: {error}")
    found = {task.name: len(examples) for task, examples in tasks.items()}
    on_main_rank = job.ranks.broadcast_json(found)
    if not job.ranks.all_ok(not error and found == on_main_rank):
        raise EvaluationFailedError(error or "not all ranks find the same examples; see: logs/rank-*.log")
    return tasks


def _score_core_task(job: Job, task: CoreTask, examples: list[Example]) -> float:
    """Centred accuracy of one task, reported. All ranks meet once a task, so none waits long for another."""
    began, right, error = time.perf_counter(), 0, ""
    try:
        right = right_answers(job.model, job.tokenizer, job.ranks, task, examples)
    except Exception as e:  # noqa: BLE001  # out of memory, or whatever a changed model raises: never the run's end
        error = f"{task.name}: {type(e).__name__}: {e}"
        say(f"CORE at step {job.progress.step} failed: {error}")
    all_right, failed = job.ranks.sum(float(right), float(bool(error)))
    if failed:
        raise EvaluationFailedError(error or f"{task.name} failed on another rank; see: logs/rank-*.log")
    accuracy = all_right / len(examples)
    centred, seconds = task.centred(accuracy), time.perf_counter() - began
    job.emit(CoreTaskScored(job.progress.step, task.name, accuracy, centred, len(examples), seconds))
    return centred
