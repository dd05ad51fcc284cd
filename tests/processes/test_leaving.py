"""How a process of ours ends: with its own exit code, whatever the interpreter's teardown would do."""

import os
import subprocess
import sys

import pytest

PRELUDE = (
    "import atexit, os, sys; atexit.register(os.abort); "
    "from trainer_daemon.__main__ import run_and_leave; from trainer_daemon.contract.output import say; "
)


def leave_with(program: str, output: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a program whose teardown aborts, through the way in which ours end."""
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    code = f"{PRELUDE}run_and_leave({program})"
    return subprocess.run(
        [sys.executable, "-c", code],
        stdout=output,
        stderr=output,
        text=True,
        timeout=60,
        check=False,
        env=buffered,
    )


@pytest.mark.parametrize(
    ("program", "exit_code"),
    [("lambda: 0", 0), ("lambda: 4", 4), ("lambda: sys.exit(2)", 2), ("lambda: sys.exit()", 0)],
)
def test_a_crash_in_the_interpreters_teardown_does_not_change_how_a_program_ended(
    program: str, exit_code: int
) -> None:
    """torch's threads made a complete two-rank run end with SIGABRT, once in about a thousand."""
    assert leave_with(program).returncode == exit_code


def test_the_last_words_are_out_before_the_process_is_gone() -> None:
    ended = leave_with("lambda: print('all 3 steps done', end='') or print('warned', file=sys.stderr) or 0")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "all 3 steps done", "warned\n")


def test_an_exception_is_told_and_is_exit_code_1() -> None:
    ended = leave_with("lambda: 1 / 0")
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


@pytest.mark.parametrize(("program", "exit_code"), [("lambda: print('done') or 0", 0), ("lambda: 1 / 0", 1)])
def test_a_full_disk_under_the_log_does_not_change_how_a_program_ended(program: str, exit_code: int) -> None:
    """A rank whose run was complete ended with an error when its last words did not fit on the disk."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert leave_with(program, full).returncode == exit_code
    finally:
        os.close(full)


def test_what_is_said_into_a_full_disk_ends_nothing() -> None:
    ended = leave_with("lambda: (os.dup2(os.open('/dev/full', os.O_WRONLY), 2), say('told'))[1] or 0")
    assert ended.returncode == 0
