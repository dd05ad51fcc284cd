"""What someone asks of a run in training, done at a step boundary of all ranks: stop, pause, save, sample and the rest.

Commands are read by the main rank alone and announced to the others before anything is done about them, so no rank ever
acts on its own. Whoever waits at a boundary, paused or for rows, waits here.
"""

import time

from trainer_daemon.contract.core_tasks import EvalTask
from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import (
    Command,
    CommandDone,
    Finished,
    Notice,
    SettingChanged,
    from_fields,
    to_fields,
)
from trainer_daemon.contract.generation import Generation
from trainer_daemon.contract.rundir import write_json
from trainer_daemon.contract.settings import changed_spec, read_settings
from trainer_daemon.contract.spec import asking
from trainer_daemon.engine import benchmark
from trainer_daemon.engine.data.live import LiveRows
from trainer_daemon.engine.duties import evaluate, save, settle_save, write_sample
from trainer_daemon.engine.job import Job
from trainer_daemon.engine.replicas import check_replicas

PAUSE_POLL_SECONDS = 0.5
"""While paused, the main rank tells the others this often that it still is: no exchange ever nears its timeout."""


def obey(job: Job) -> Finished | None:
    """Do what was asked for, at this step boundary. All ranks. Returns the run's last word when it was to stop.

    While paused, and while the next rows are still being made, the ranks stay here: they keep their memory, exchange a
    word now and then, and still save, sample and evaluate on request.
    """
    paused = waits_for_rows = False
    while True:
        settle_save(job)
        if job.live is not None and not paused:
            if last_word := _hear_of_rows(job, job.live):
                return last_word
            waits_for_rows = _wait_for_rows(job, waited=waits_for_rows)
        if paused:
            job.commands.wait(PAUSE_POLL_SECONDS)
        command = _announce(job)
        if command is None:
            if paused or waits_for_rows:
                continue
            return None
        step = job.progress.step
        match command.name:
            case "stop":
                with job.phase("stopping"):
                    ok = save(job, wait=True)
                if ok or command.arguments.get("even_unsaved", False):
                    message = f"stopped on request at step {step}"
                    message += "" if ok else "; its checkpoint could not be written"
                    job.emit(CommandDone(command.request_id, command.name, ok, message))
                    return Finished("stopped", step, message)
                message = f"step {step} could not be saved, so the run was not stopped; see the events"
            case "pause":
                paused = True
                job.enter("paused")
                ok, message = True, f"paused at step {step}"
            case "resume":
                ok, message = True, f"running on from step {step}" if paused else "it was not paused"
                paused = False
                job.enter("running")
            case "save":
                ok = save(job, wait=True)
                message = f"checkpoint of step {step} saved" if ok else "the save failed; see the events"
            case "evaluate":
                ok, message = _evaluate_on_request(job, command.arguments.get("task", "bpb"))
            case "check":
                compared, last_word = check_replicas(job)
                if last_word:
                    job.emit(
                        CommandDone(command.request_id, command.name, ok=False, message=last_word.message)
                    )
                    return last_word
                ok, message = True, compared.in_words()
            case "set":
                ok, message = change_setting(job, **command.arguments)
            case "sample":
                ok, message = _sample_on_request(job, command)
        job.emit(CommandDone(command.request_id, command.name, ok, message))


def _hear_of_rows(job: Job, live: LiveRows) -> Finished | None:
    """Tell what those who make the rows have to say. All ranks. The run's last word when there will be no more rows."""
    for notice in live.take_notices():
        job.emit(Notice("warning", notice))
    failed, missing = job.ranks.sum(
        float(live.failure() is not None), float(not job.batches.are_ready(job.progress.samples_seen))
    )
    if not (failed and missing):
        return None
    save(job, wait=True)
    why = live.failure() or "another rank has no rows to go on with"
    return Finished("failed", job.progress.step, f"there is no more text to train on: {why}", cause="spec")


def _wait_for_rows(job: Job, *, waited: bool) -> bool:
    """A moment, if the next step's rows are not there on any rank; whether that is so. All ranks."""
    if job.ranks.all_ok(job.batches.are_ready(job.progress.samples_seen)):
        if waited:
            job.enter("running")
            job.emit(Notice("info", f"the rows of step {job.progress.step + 1} are there: training goes on"))
        return False
    if not waited:
        job.enter("preparing")
        job.emit(
            Notice("warning", f"step {job.progress.step + 1} waits: training is ahead of the tokenizing")
        )
    job.commands.wait(PAUSE_POLL_SECONDS)
    return True


def _announce(job: Job) -> Command | None:
    """The next command, on all ranks at once. A signal to end, on whichever rank, is a stop for all of them."""
    if job.ranks.sum(float(job.commands.terminated()))[0]:
        return Command("signal", "stop", {"even_unsaved": True})
    command = _next_in_time(job) if job.ranks.is_main else None
    fields = job.ranks.broadcast_json(to_fields(command) if command else None)
    announced = from_fields("command", fields) if fields else None
    return announced if isinstance(announced, Command) else None


def _next_in_time(job: Job) -> Command | None:
    """The next command whose deadline is not over; whoever waited for the others has left. The main rank only."""
    while (
        (command := job.commands.next()) and command.deadline is not None and time.time() > command.deadline
    ):
        late = f"{command.name} lapsed: its turn came after its deadline"
        job.emit(CommandDone(command.request_id, command.name, ok=False, message=late))
    return command


def _evaluate_on_request(job: Job, task: EvalTask) -> tuple[bool, str]:
    """Measure what was asked for. All ranks. Whether it was, and a sentence about it."""
    step = job.progress.step
    if task == "bpb":
        ok = evaluate(job)
        return ok, f"evaluated step {step}" if ok else "the evaluation failed; see the events"
    found = benchmark.evaluate(job, asking(job.spec.eval, task))
    return (
        (True, f"step {step}: {found.in_words()}")
        if found
        else (False, "it was not measured; see the events")
    )


def _sample_on_request(job: Job, command: Command) -> tuple[bool, str]:
    """The main rank writes; the others meet it again in the next announcement. Whether it did, and a sentence about it."""
    if not job.ranks.is_main:
        return True, "sampled"
    try:
        arguments = command.arguments
        request = Generation(**{**arguments, "stop": tuple(arguments.get("stop", ()))})
    except LlmctlError as e:
        job.emit(Notice("error", f"sampling at step {job.progress.step} failed: {e}"))
        return False, str(e)
    reason = write_sample(job, request, command.request_id)
    return reason is None, reason or "sampled"


def change_setting(job: Job, key: str, value: float | str | None) -> tuple[bool, str]:
    """Change one of the values that may change, from the next step on and for later attempts. All ranks.

    Whether it was, and a sentence about it.
    """
    section, name = key.split(".")
    before = getattr(getattr(job.spec, section), name)
    problem = ""
    if job.ranks.is_main:
        try:
            write_json(job.run.settings_file, {**read_settings(job.run.settings_file), key: value})
        except (OSError, LlmctlError) as e:
            problem = f"{key} was not changed: {e}"
    if not job.ranks.all_ok(not problem):
        return False, problem or f"{key} was not changed"
    job.spec = changed_spec(job.spec, key, value)
    job.saver.rules = job.spec.checkpoint
    changed = SettingChanged(job.progress.step, key, value, before)
    job.emit(changed)
    return True, f"{key} is {value} from step {changed.first_step} on, it was {before}"
