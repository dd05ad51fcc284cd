"""`llmctl`: the commands by name, and the one place where an outcome becomes an exit code.

Nothing here or in the command modules imports torch, pydantic or a socket library until a command needs it: `--help`
answers in a tenth of a second. stdout is data, stderr is narration.

0 done   1 our bug, a traceback file is named   2 bad usage or spec   3 no such run or checkpoint   4 the run failed
5 timeout   6 refused   130 interrupted
"""

import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from cli import (
    chat,
    checkpoints,
    control,
    curves,
    data,
    doctor,
    evaluation,
    export,
    fork,
    keys,
    launch,
    mirror,
    plan,
    sample,
    serve,
    tokenizer,
    watch,
)
from cli.printing import out, ready_streams, say

OUR_BUG = 1
NOT_OUR_BUG = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
"""What a disk or its rights refuse."""

commands = typer.Typer(
    name="llmctl",
    help="Pretrain language models on your own GPUs: plan, train, watch, control, sample.",
    no_args_is_help=True,
    # rich would triple the time to the first line of help
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def show_version(wanted: bool) -> None:
    """What `--version` does."""
    if wanted:
        from importlib.metadata import version

        out(f"llmctl {version('llmctl')}")
        raise typer.Exit


@commands.callback(no_args_is_help=True)
def root(
    version: Annotated[  # its callback acts on it
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=show_version),
    ] = False,
) -> None:
    pass


NAMES = {evaluation.evaluate: "eval", control.set_value: "set", checkpoints.remove: "rm"}
"""Of functions that cannot be called what their command is: those are names of Python's own, or no words."""

for function in (
    launch.demo,
    launch.run,
    plan.plan,
    plan.presets,
    watch.ls,
    watch.status,
    watch.attach,
    watch.logs,
    watch.events,
    watch.wait,
    curves.plot,
    curves.compare,
    curves.metrics,
    mirror.mirror,
    control.pause,
    control.resume,
    control.stop,
    control.kill,
    control.save,
    evaluation.evaluate,
    control.check,
    control.set_value,
    fork.fork,
    checkpoints.checkpoints,
    checkpoints.verify,
    checkpoints.pin,
    checkpoints.unpin,
    checkpoints.prune,
    checkpoints.discard,
    checkpoints.remove,
    export.export,
    sample.sample,
    chat.chat,
    serve.serve,
    doctor.doctor,
):
    commands.command(NAMES.get(function))(function)

for group in data.data, tokenizer.tokenizer, keys.keys:
    commands.add_typer(group)


def app() -> int:
    """The program `llmctl`."""
    ready_streams()
    return main(sys.argv[1:])


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    try:
        get_command(commands).main(list(arguments), prog_name="llmctl")
    except (
        SystemExit
    ) as e:  # how typer ends everything that it handles itself, usage errors and Ctrl-C included
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except Exception as e:  # noqa: BLE001  # the one place where whatever went wrong becomes an exit code
        return explain(e)
    return 0


def explain(error: Exception) -> int:
    """Say what went wrong in one paragraph on stderr; returns the exit code."""
    from trainer_daemon.contract.errors import LlmctlError, RefusedError
    from trainer_daemon.contract.text import printable

    if isinstance(error, LlmctlError):
        say(f"error: {printable(str(error))}")
        return error.exit_code
    if isinstance(error, OSError) and error.errno in NOT_OUR_BUG:
        where = f" {error.filename}" if error.filename else ""
        say(f"error: {printable(f'{error.strerror}:{where}')}; make room or rights there, or set LLMCTL_HOME")
        return RefusedError.exit_code
    say(
        f"error: this is a bug in llmctl ({printable(f'{type(error).__name__}: {error}')}); "
        f"please report it with {write_traceback(error)}"
    )
    return OUR_BUG


def write_traceback(error: Exception) -> Path:
    """Keep the traceback for a report; returns the file."""
    from trainer_daemon.contract.rundir import home

    text = f"llmctl {' '.join(map(repr, sys.argv[1:]))}\nPython {sys.version}\n\n"
    text += "".join(traceback.format_exception(error))
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (home() / "tracebacks", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / name).write_text(text, encoding="utf-8", errors="replace")
        except OSError:  # the home may be what the error is about
            continue
        return folder / name
    return Path(os.devnull)
