"""`serve`: checkpoints as an OpenAI-compatible endpoint, on this machine alone.

A model goes by the name it was asked for with: RUN@best stays RUN@best to the programs that ask, whichever step it is.

From elsewhere, ssh forwards the port: ssh -L 8000:127.0.0.1:8000 HOST.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.printing import out, say
from cli.references import complete_run, find_checkpoint, split_reference

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from trainer_daemon.gateway.app import ServedModel

LOOPBACK = "127.0.0.1"
GOODBYE_SECONDS = 2
"""How long answers in progress may take to end after Ctrl-C."""


def serve(
    checkpoints: Annotated[
        list[str],
        typer.Argument(metavar="RUN[@STEP]", help="The checkpoints to serve.", autocompletion=complete_run),
    ],
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes one that is free.")
    ] = 8000,
) -> None:
    """Serve checkpoints to programs that speak OpenAI's API: completions, chat completions, models."""
    from socket import create_server

    from trainer_daemon.contract.errors import RefusedError

    served = dict(map(named_model, checkpoints))
    try:
        listener = create_server((LOOPBACK, port))
    except OSError as e:
        raise RefusedError(f"port {port} cannot be had: {e.strerror}; choose another: --port 0") from e
    with listener:
        out(f"http://{LOOPBACK}:{listener.getsockname()[1]}/v1")
        say(f"serving {', '.join(served)}")
        if base := [name for name, model in served.items() if not model.is_chat]:
            say(f"to {' and '.join(base)}, a base model, a chat is a transcript that it continues")
        run_server(listener, served)


def named_model(reference: str) -> "tuple[str, ServedModel]":
    """The name that requests call a checkpoint by, and where it is. Raises as `find_checkpoint`."""
    from trainer_daemon.engine.checkpoint.store import is_trained_on_conversations
    from trainer_daemon.gateway.app import ServedModel

    run, info = find_checkpoint(reference)
    which = split_reference(reference)[1] if run else None
    name = f"{run.name if run else info.path.parent.parent.name}@{which or info.step}"
    return name, ServedModel(info.path, is_chat=is_trained_on_conversations(info.path))


def run_server(listener: "socket.socket", served: "dict[str, ServedModel]") -> None:
    """Answer until Ctrl-C or SIGTERM."""
    import uvicorn

    from trainer_daemon.gateway.app import build_app

    token = kept_token()
    say(f"the token is in {token_file()}; for example: export OPENAI_API_KEY=$(cat {token_file()})")
    config = uvicorn.Config(
        build_app(served, token),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GOODBYE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])


def token_file() -> "Path":
    """Where the token is kept, for its owner alone."""
    from trainer_daemon.contract.rundir import home

    return home() / "serve-token"


def kept_token() -> str:
    """This home's token, made at first use: programs that know it need no new one each time."""
    import os
    import secrets

    path = token_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(fd, "w") as file:
        token = secrets.token_urlsafe(32)
        file.write(f"{token}\n")
    return token
