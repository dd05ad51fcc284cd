"""`pause resume stop kill save check set`: asking a live run, and waiting until it says that it was done."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.keys import ListenOption, tell_listening
from cli.printing import command_name, out, say
from cli.references import RunArgument, TimeLimitOption

if TYPE_CHECKING:
    from trainer_daemon.contract.events import CommandDone, Event
    from trainer_daemon.contract.journal import Record
    from trainer_daemon.contract.rundir import RunDir
    from trainer_daemon.contract.status import RunStatus

DONE_SECONDS = 600.0
"""A step, an evaluation and a save together may take this long before we stop waiting; the request lapses then, a stop stands."""
KILLED_SECONDS = 30.0

TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", metavar="S", min=0, help="Wait so many seconds for it to be done (exit 5)."),
]


def pause(run: RunArgument, timeout: TimeoutOption = DONE_SECONDS) -> None:
    """Pause at the next step boundary; the ranks keep their memory."""
    tell_done(run, "pause", timeout)


def save(run: RunArgument, timeout: TimeoutOption = DONE_SECONDS) -> None:
    """Save a checkpoint at the next step boundary."""
    tell_done(run, "save", timeout)


def check(run: RunArgument, timeout: TimeoutOption = DONE_SECONDS) -> None:
    """Compare the parameters of all ranks bit for bit at the next step boundary.

    They must be the same. Where they are not, a device computes wrongly: the run ends without saving, and this exits with 4.
    """
    tell_done(run, "check", timeout)


def set_value(
    run: RunArgument,
    change: Annotated[str, typer.Argument(metavar="KEY=VALUE", help="For example eval.every=500.")],
    timeout: TimeoutOption = DONE_SECONDS,
) -> None:
    """Change a value while the run trains, from the next step boundary on.

    These change: the intervals of eval, sample and checkpoint (every, every_minutes), checkpoint.keep_last,
    checkpoint.keep_every and schedule.learning_rate_factor. The change is journalled and holds for later attempts.
    """
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.settings import changed_spec, present_spec
    from trainer_daemon.contract.spec import parse_override

    parts, value = parse_override(change)
    key = ".".join(parts)
    changed_spec(present_spec(find_run(run)), key, value)  # a typo is refused whether the run lives or not
    tell_done(run, "set", timeout, {"key": key, "value": value})


def resume(
    run: RunArgument,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a value that may change, e.g. runtime.nproc=2; repeatable.",
        ),
    ] = None,
    time_limit: TimeLimitOption = None,
    listen: ListenOption = None,
    timeout: TimeoutOption = DONE_SECONDS,
) -> None:
    """Go on with a paused, stopped, failed or crashed run.

    A paused one goes on at once, the others from their newest good checkpoint. --set takes what changes no weight:
    intervals, samples, and what the machine decides (ranks, device, threads, rows of a micro-batch). Anything else that
    differs from the checkpoint is refused; for that there is `fork`. --time-limit counts from now, and holds for later
    resumes, too.
    """
    from pathlib import Path

    from cli.launch import time_limit_override
    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.status import observe
    from trainer_daemon.supervisor.detach import start_supervisor

    overrides = [*(set_ or []), *time_limit_override(time_limit)]
    found = find_run(run)
    status = observe(found)
    if found.supervisor_is_alive():
        if listen is not None:
            raise RefusedError(
                f"{found.name} is {status.state}: it begins to listen when it starts; stop it first"
            )
        if overrides:
            raise RefusedError(
                f"{found.name} is {status.state}: --set and --time-limit are for one that has ended. Stop it first, or change "
                f"what may change while it runs: llmctl set {found.name} KEY=VALUE"
            )
        tell_done(found.name, "resume", timeout)
        return
    if status.state == "completed":
        raise RefusedError(
            f"{found.name} has completed all of its {status.total_steps} steps; nothing is left to train. To train on from "
            f"its end: llmctl fork {found.name}@last --set train.num_iterations={2 * (status.total_steps or 1)}"
        )
    settings = _check_resume(found, overrides)
    request: dict[str, Any] = {"resume": str(found.path), "settings": settings}
    if listen is not None:
        request["listen"] = listen
    report = start_supervisor(request)
    out(f"{Path(report.path).name} resumed")
    if listen is not None:
        tell_listening(listen)
    say(f"watch it: {command_name()} attach {found.name}")


def _check_resume(run: "RunDir", overrides: list[str]) -> dict[str, Any]:
    """The settings that the overrides change, once the run can go on with them here.

    Raises SpecError, naming both values, when the spec differs from the newest checkpoint's in what may not change.
    """
    from cli.launch import check_spec
    from trainer_daemon.contract.rundir import begins_with
    from trainer_daemon.contract.settings import check_against_checkpoint, present_spec, settings_on_resume
    from trainer_daemon.contract.spec import build_spec, flat_values
    from trainer_daemon.engine.checkpoint.store import checkpoint_folders

    settings = settings_on_resume(run, overrides)
    spec = build_spec(present_spec(run).model_dump(mode="json"), overrides)
    saved = checkpoint_folders(run.checkpoints)
    if saved and not begins_with(run, saved[-1]):
        check_against_checkpoint(spec, saved[-1])
    if settings:  # without any it could be run here before, and the ranks say what changed since
        checked = flat_values(check_spec(spec))
        settings = {key: checked[key] for key in settings}
    return settings


def stop(run: RunArgument, timeout: TimeoutOption = DONE_SECONDS) -> None:
    """Save at the next step boundary and end.

    `llmctl resume` continues from there. When it cannot be saved it trains on (exit 6); exit 4 when it ended all the same.
    """
    from cli.following import check_outcome, follow, outcome
    from trainer_daemon.contract.errors import RefusedError, RunFailedError
    from trainer_daemon.contract.events import StateChanged
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.status import observe
    from trainer_daemon.link.client import send_command

    found = find_run(run)
    status = observe(found)
    _check_is_live(found, status)
    request_id = send_command(found, "stop")
    say(f"{found.name} stops at its next step boundary and saves")
    done = None
    for record in follow(found, status, until=time.monotonic() + timeout):
        done = _answer_to(request_id, record) or done
        if done and record and isinstance(record.event, StateChanged) and record.event.state == "running":
            raise RefusedError(
                f"{found.name}: {done.message}. Make room and stop it again, or give up the steps since its last "
                f"checkpoint: llmctl kill {found.name}"
            )
    check_outcome(found, status)
    if done is not None and not done.ok:
        raise RunFailedError(f"{found.name} ended at step {status.step}, not saved: {done.message}")
    out(outcome(found, status))


def kill(
    run: RunArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """End every process of a run at once, without saving.

    Steps since the last checkpoint are lost.
    """
    import sys

    from cli.following import follow, outcome
    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.status import observe

    found = find_run(run)
    status = observe(found)
    _check_is_live(found, status)
    saved = status.last_checkpoint["step"] if status.last_checkpoint else 0
    if not yes and sys.stdin.isatty():
        say(
            f"{found.name} is at step {status.step}, its last checkpoint at {saved}. `stop` would save first."
        )
        say("kill it? [y/N]")
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise RefusedError(f"{found.name} was left alone")
    _end_processes(found, status.pid)
    for _ in follow(found, status, until=time.monotonic() + KILLED_SECONDS):
        pass
    out(outcome(found, status))


def _end_processes(run: "RunDir", supervisor_pid: int | None) -> None:
    """Have the supervisor end the run's processes, or end them from here, and it with them, when it cannot be asked."""
    from contextlib import suppress

    from trainer_daemon.contract.errors import WaitTimeoutError
    from trainer_daemon.link.client import request_kill, supervisor_listens
    from trainer_daemon.supervisor.sweep import kill_unheard_run

    if supervisor_listens(run):
        with suppress(WaitTimeoutError):  # it hangs, or was stopped with SIGSTOP
            request_kill(run)
            return
    say(f"the supervisor of {run.name} does not answer; it is ended along with the ranks")
    kill_unheard_run(run, supervisor_pid)


def tell_done(
    reference: str,
    name: str,
    timeout: float,
    arguments: dict[str, Any] | None = None,
    *,
    heard: "Callable[[Event], None]" = lambda _: None,
    tell: Callable[[str], None] = out,
) -> "RunStatus":
    """Send a command, wait for its `CommandDone`, `tell` what it said. Returns the run's status by then.

    `heard` is called with each event that comes meanwhile.
    """
    from trainer_daemon.contract.errors import RefusedError, RunFailedError
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.status import observe
    from trainer_daemon.contract.text import printable

    found = find_run(reference)
    status = observe(found)
    _check_is_live(found, status)
    done = _send_and_wait(found, status, name, timeout, arguments, heard)
    if not done.ok:
        ends_run = status.alert is not None and status.alert["name"] == "replicas_differ"
        raise (RunFailedError if ends_run else RefusedError)(f"{found.name}: {done.message}")
    tell(printable(f"{found.name} {done.message}"))
    return status


def _send_and_wait(
    run: "RunDir",
    status: "RunStatus",
    name: str,
    timeout: float,
    arguments: dict[str, Any] | None,
    heard: "Callable[[Event], None]",
) -> "CommandDone":
    """Raises what the supervisor refuses with, RunFailedError when the run ends first, WaitTimeoutError."""
    from cli.following import check_outcome, follow, outcome
    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.link.client import send_command

    request_id = send_command(run, name, arguments, deadline=time.time() + timeout)
    for record in follow(run, status, until=time.monotonic() + timeout):
        if done := _answer_to(request_id, record):
            return done
        if record is not None and record.event is not None:
            heard(record.event)
    check_outcome(run, status)
    raise RefusedError(f"{outcome(run, status)}, before it could {name}")


def _answer_to(request_id: str, record: "Record | None") -> "CommandDone | None":
    from trainer_daemon.contract.events import CommandDone

    event = record.event if record else None
    return event if isinstance(event, CommandDone) and event.request_id == request_id else None


def _check_is_live(run: "RunDir", status: "RunStatus") -> None:
    """Raises RefusedError, saying what to do, when nobody is there to ask."""
    from trainer_daemon.contract.errors import RefusedError

    if run.supervisor_is_alive():
        return
    if run.ranks_are_alive():
        raise RefusedError(
            f"{run.name} trains on without its supervisor; take it over first: llmctl resume {run.name}"
        )
    again = "" if status.state == "completed" else f"; start it again: llmctl resume {run.name}"
    raise RefusedError(f"{run.name} is not running, it is {status.state}{again}")
