"""`python -m trainer_daemon`: starts one of the programs in `processes/`; a bare run folder means `rank`.

The last form is for launchers of other people: torchrun --nproc-per-node 2 -m trainer_daemon RUN_FOLDER
"""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

PROGRAMS = ("supervise", "agent", "rank", "infer", "post", "tokenize", "course")


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments:
        print(f"usage: python -m trainer_daemon [{'|'.join(PROGRAMS)}] ...  or  RUN_FOLDER", file=sys.stderr)
        return 2
    program, rest = (arguments[0], arguments[1:]) if arguments[0] in PROGRAMS else ("rank", arguments)
    return int(import_module(f"trainer_daemon.processes.{program}").main(rest))


def leave(exit_code: int) -> NoReturn:
    """End this process now, without the interpreter's teardown.

    By then everything is written and closed. What teardown could still do is harm: once in some thousand times a thread
    of torch's asks for an interpreter that is going away, and a rank whose run is complete ends with SIGABRT. It also
    takes 0.9 s after `import torch`. What a full disk refuses of its last output changes nothing about how it ended.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(exit_code)


def run_and_leave(program: Callable[[], int]) -> NoReturn:
    """Run a program and end with its exit code; an exception is reported as the interpreter would."""
    try:
        leave(program())
    except SystemExit as e:  # argparse's, and our own for a process that has nothing to do
        leave(e.code if isinstance(e.code, int) else 0 if e.code is None else 1)
    except BaseException:  # noqa: BLE001
        with suppress(OSError):
            traceback.print_exc()
        leave(1)


if __name__ == "__main__":
    run_and_leave(main)
