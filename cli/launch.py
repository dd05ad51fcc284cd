"""`run` and `demo`: check everything that can be checked, start the daemon, watch. Ctrl-C leaves the run going."""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.keys import ListenOption, tell_listening
from cli.plan import NprocOption, PresetOption, SetOption, SpecOption, plan_for, read_spec, show_plan
from cli.printing import command_name, on_terminal, out, out_json, say, size
from cli.references import JsonOption, TimeLimitOption

if TYPE_CHECKING:
    from trainer_daemon.contract.rundir import RunDir
    from trainer_daemon.contract.spec import RunSpec
    from trainer_daemon.supervisor.detach import ReadyReport

NAME_TRIES = 20
"""How often a name chosen for the reader may be taken by someone else in between."""


def run(
    preset: PresetOption = None,
    spec: SpecOption = None,
    set_: SetOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The run's name; else the preset's or the file's."),
    ] = None,
    nproc: NprocOption = None,
    time_limit: TimeLimitOption = None,
    listen: ListenOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and plan; start nothing.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON: what was started, or with no --detach how it ended.")
    ] = False,
) -> None:
    """Train: check the spec, start the daemon, attach the cockpit. Ctrl-C or q leaves the run going.

    Without a terminal it tells the run in lines until it is over. SIGTERM or SIGUSR1 to it, as SLURM, systemd and containers
    send, then save and stop the run.
    """
    from trainer_daemon.contract.rundir import RunDir, check_name

    if name is not None:
        check_name(name)
    asked = read_spec(preset, spec, [*(set_ or []), *time_limit_override(time_limit)], nproc)
    if dry_run:
        show_plan(asked, json=json)
        _tell_what_is_lacking(asked)
        return
    built = check_spec(asked)
    started = start(built, name, default_name=spec.stem if spec else built.preset or "run", listen=listen)
    if listen is not None:
        tell_listening(listen)
    if detach:
        _tell_started(started, json=json)
    else:
        watch_run(RunDir(Path(started.path)), json=json)


def time_limit_override(time_limit: str | None) -> list[str]:
    """`--time-limit` as the override of the spec that it is; nothing where it was not given. Raises SpecError."""
    if time_limit is None:
        return []
    minutes = "none" if time_limit.strip() == "none" else f"{minutes_of(time_limit):g}"
    return [f"runtime.time_limit_minutes={minutes}"]


def minutes_of(time_limit: str) -> float:
    """`4h`, `90m`, `2d12h`, `1h30m` -> minutes. Raises SpecError for anything else."""
    from trainer_daemon.contract.errors import SpecError

    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?", time_limit.strip(), re.ASCII)
    parts = match.groups() if match else ()
    if not any(int(part or 0) for part in parts):
        raise SpecError(
            f'--time-limit takes days, hours and minutes such as 4h, 90m or 2d12h, or none; got "{time_limit}"'
        )
    days, hours, minutes = (int(part or 0) for part in parts)
    return days * 1440 + hours * 60 + minutes


def demo(json: JsonOption = False) -> None:
    """Train the embedded default here, watch it, then talk to it."""
    from trainer_daemon.contract.rundir import RunDir

    built = check_spec(read_spec(None, None, None, None))
    started = start(built, None, default_name="demo")
    try:
        watch_run(RunDir(Path(started.path)), json=json)
    finally:
        say(f"talk to the model: {command_name()} chat {started.name}")


def _tell_what_is_lacking(spec: "RunSpec") -> None:
    """What would refuse this run on this machine: a plan is often made where neither the data nor the disk is."""
    from trainer_daemon.contract.errors import LlmctlError

    try:
        check_spec(spec)
    except LlmctlError as e:
        say(f"note: here it would not start: {e}")


def check_spec(spec: "RunSpec") -> "RunSpec":
    """The spec with its data source made absolute, once it can be run here.

    Raises SpecError for an impossible batch, a device that is not here or unreadable data, RefusedError when the checkpoints would not fit.
    """
    from cli.machine import check_device
    from trainer_daemon.contract.rundir import home
    from trainer_daemon.engine.data.prepare import check_data, with_absolute_paths

    plan_for(spec)
    check_device(spec.runtime)
    check_data(spec.data, spec.tokenizer, home())
    check_disk(spec, home())
    # the daemon works in the run folder, where a relative path would mean something else
    return with_absolute_paths(spec, home())


def check_disk(spec: "RunSpec", home: Path) -> None:
    """Raises RefusedError when the run's checkpoints would not fit beside what is there."""
    from cli.machine import nearest_existing
    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.estimate import checkpoint_bytes, checkpoints_at_once, disk_needed_bytes

    plan, _, precision = plan_for(spec)
    place = nearest_existing(home)
    needed, free = disk_needed_bytes(spec, plan, precision), shutil.disk_usage(place).free
    if needed > free:
        each = size(checkpoint_bytes(plan.shape, precision))
        raise RefusedError(
            f"not enough disk: up to {checkpoints_at_once(spec, plan.total_steps)} checkpoints of {each} need "
            f"{size(needed)}, {place} has {size(free)} free; free some, lower checkpoint.keep_last, or set LLMCTL_HOME"
        )


def start(
    spec: "RunSpec",
    name: str | None,
    *,
    default_name: str,
    origin: dict[str, Any] | None = None,
    listen: str | None = None,
) -> "ReadyReport":
    """Start a daemon for a new run; a name of our own choosing gets -2, -3, … where it is taken. `origin`: the fields of
    an `Origin`, for one that begins with a checkpoint. `listen`: HOST:PORT to listen on as well.

    Raises SpecError for a name or an address that is not one, RefusedError when a given name or port is taken, or when
    there are no keys to listen with.
    """
    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.rundir import check_name, runs_folder
    from trainer_daemon.supervisor.detach import start_supervisor

    request: dict[str, Any] = {"spec": spec.model_dump(mode="json")}
    if origin is not None:
        request["origin"] = origin
    if listen is not None:
        request["listen"] = listen
    if name is not None:
        return start_supervisor({**request, "name": check_name(name)})
    for _ in range(NAME_TRIES):
        chosen = free_name(default_name)
        try:
            return start_supervisor({**request, "name": chosen})
        except RefusedError:
            if not (runs_folder() / chosen).exists():
                raise  # refused for another reason than a name taken in between
    raise RefusedError(f"every name that was tried is taken, up to {chosen}; give one with --name")


def free_name(wanted: str) -> str:
    """`wanted` as a run name, with the first number behind it that is free."""
    from trainer_daemon.contract.rundir import runs_folder

    base = re.sub(r"[^a-z0-9_-]+", "-", wanted.lower()).strip("-_")[:50] or "run"
    number, name = 1, base
    while (runs_folder() / name).exists():
        number += 1
        name = f"{base}-{number}"
    return name


def watch_run(run: "RunDir", *, json: bool) -> None:
    """The cockpit on a terminal, else a line now and then until the run is over; Ctrl-C only ends the watching.

    Raises RunFailedError when the run ended badly.
    """
    from trainer_daemon.contract.events import FINAL_STATES
    from trainer_daemon.contract.status import observe

    if on_terminal() and not json:
        from tui.app import run_cockpit

        run_cockpit(run)
        status = observe(run)
        if status.state in FINAL_STATES:
            from cli.following import check_outcome, outcome

            check_outcome(run, status)
            say(outcome(run, status))
        else:
            _tell_it_goes_on(run)
        return
    try:
        follow_lines(run, json=json)
    except KeyboardInterrupt:
        _tell_it_goes_on(run)
        raise


def follow_lines(run: "RunDir", *, json: bool) -> None:
    """Tell the run in lines until it is over; SIGTERM and SIGUSR1 have it save and stop. Raises RunFailedError when it ended
    badly."""
    from cli.following import ProgressLines, check_outcome, follow, outcome, save_and_stop, wish_to_end
    from trainer_daemon.contract.status import RunStatus

    status = RunStatus(name=run.name, spec_hash=run.read_spec().content_hash())
    lines = ProgressLines(tell=say if json else out, warn=say)
    (say if json else out)(f"run {run.name} in {run.path}")
    with wish_to_end() as signal_that_came:
        for record in follow(run, status):
            if number := signal_that_came():
                save_and_stop(run, f"got {number.name}")
            if record is not None:
                lines.take(record, status)
    if json:
        out_json(status.to_json())
    check_outcome(run, status)
    if not json:
        out(outcome(run, status))


def _tell_started(started: "ReadyReport", *, json: bool) -> None:
    if json:
        out_json({"name": started.name, "path": started.path, "pid": started.pid})
    else:
        out(started.name)
        say(f"it runs on its own; watch it: {command_name()} attach {started.name}")


def _tell_it_goes_on(run: "RunDir") -> None:
    say(
        f"\n{run.name} goes on; come back: {command_name()} attach {run.name}    end it: {command_name()} stop {run.name}"
    )
