"""Serves one stored checkpoint: verifies it, loads it, answers on its socket, ends when idle.

It runs beside training and takes nothing from it: the CPU alone, with a low priority.
"""

import argparse
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer_daemon.contract.detach import ReadyPipe, leave_parent, settle_in
from trainer_daemon.contract.errors import LlmctlError, RunFailedError, SpecError
from trainer_daemon.contract.rundir import socket_folder
from trainer_daemon.link.inference import IDLE_SECONDS, InferenceServer, Piece


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="trainer_daemon infer")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS)
    options = parser.parse_args(arguments)
    pipe = ReadyPipe(options.ready_fd)
    leave_parent()
    os.nice(5)  # a training run on the same cores goes first
    try:
        server = InferenceServer(options.checkpoint)
        log = socket_folder(options.checkpoint) / "worker.log"
        settle_in(log.parent, log)
        from trainer_daemon.engine.inference.session import load_session

        session = load_session(options.checkpoint)
    except LlmctlError as e:
        pipe.refuse(e)
        return e.exit_code
    except Exception as e:  # noqa: BLE001  # whatever it is, the one who waits must hear of it
        traceback.print_exc()
        pipe.refuse(RunFailedError(f"the checkpoint cannot be served: {type(e).__name__}: {e}"))
        return 1
    pipe.ready({"pid": os.getpid()})

    def generate(request: dict[str, Any]) -> Iterator[Piece]:
        try:
            prompt, max_tokens = str(request["prompt"]), int(request["max_tokens"])
            temperature, seed = float(request["temperature"]), int(request["seed"])
            top_k = None if request["top_k"] is None else int(request["top_k"])
        except (KeyError, TypeError, ValueError) as e:
            raise SpecError(
                f"a generate request needs prompt, max_tokens, temperature, top_k and seed: {e!r}"
            ) from e
        if max_tokens < 1 or temperature < 0 or (top_k is not None and top_k < 1):
            raise SpecError("max_tokens and top_k must be at least 1, and temperature not negative")
        return (Piece(*values) for values in session.stream(prompt, max_tokens, temperature, top_k, seed))

    with server:
        server.serve(generate, options.idle)
    return 0
