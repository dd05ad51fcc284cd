"""`python -m trainer_daemon supervise --ready-fd N`: the daemon of one run, with its request on stdin.

{"name": NAME, "spec": {…}}    a new run; with "origin": {run, step, checkpoint} from a checkpoint of another one
{"resume": RUN_FOLDER}         an ended one from its newest checkpoint, or a running one whose supervisor died; with
                               "settings": {KEY: VALUE} that change for all that comes

With either, "listen": "HOST:PORT" to be watched and steered over TCP, too.
"""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer_daemon.contract.detach import ReadyPipe, leave_parent, settle_in
from trainer_daemon.contract.errors import LlmctlError, SpecError
from trainer_daemon.contract.rundir import (
    Origin,
    RunDir,
    check_name,
    create_run,
    hold_lock,
    runs_folder,
    socket_folder,
)
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.link.keys import own_keys
from trainer_daemon.link.server import Server
from trainer_daemon.link.ways import Place
from trainer_daemon.supervisor.agent import elastic_agent_command
from trainer_daemon.supervisor.supervisor import Patience, Supervisor

AgentCommand = Callable[[RunDir, int], list[str]]


def main(
    arguments: list[str],
    *,
    agent_command: AgentCommand = lambda run, attempt: elastic_agent_command(run.path, attempt),
    patience: Patience | None = None,
) -> int:
    parser = argparse.ArgumentParser(prog="trainer_daemon supervise")
    parser.add_argument("--ready-fd", type=int, required=True)
    pipe = ReadyPipe(parser.parse_args(arguments).ready_fd)
    leave_parent()
    try:
        request = json.load(sys.stdin)
        place = place_to_listen_on(request.get("listen"))
        run, lock = take_run(request)
        settle_in(run.path, run.supervisor_log)
        server = Server(run, place)
        supervisor = Supervisor(
            run,
            server,
            lambda attempt: agent_command(run, attempt),
            patience=patience,
            changes=request.get("settings"),
        )
    except LlmctlError as e:
        pipe.refuse(e)
        return e.exit_code
    except Exception as e:  # noqa: BLE001  # whatever it is, the one who waits must hear of it
        pipe.refuse(LlmctlError(f"the daemon could not start: {type(e).__name__}: {e}"))
        with suppress(OSError):  # the log's disk may be what it is about
            traceback.print_exc()
        return 1
    pipe.ready({"name": run.name, "path": str(run.path), "pid": os.getpid()})
    try:
        supervisor.run()
    finally:
        supervisor.close()
        server.close()
        os.close(lock)  # last: as long as it is held, the sockets are ours
    return 0


def place_to_listen_on(wanted: str | None) -> Place | None:
    """Raises LlmctlError, before anything is made, where it would be refused afterwards."""
    if wanted is None:
        return None
    own_keys()
    return Place.parse(wanted).to_listen_on()


def take_run(request: dict[str, Any]) -> tuple[RunDir, int]:
    """The run that the request is about, and its lock, held. Raises LlmctlError."""
    if "resume" in request:
        run = RunDir(Path(request["resume"]).absolute())
        run.read_spec()
        return run, hold_lock(run.run_lock)
    if "name" not in request or "spec" not in request:
        raise SpecError('the request must be {"name": …, "spec": {…}} or {"resume": RUN_FOLDER}')
    spec = build_spec(request["spec"])
    socket_folder(runs_folder() / check_name(request["name"]))  # refuse before anything is made
    origin = Origin(**request["origin"]) if "origin" in request else None
    return create_run(request["name"], spec, origin)
