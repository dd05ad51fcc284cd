"""How a process of ours ends: with its own exit code, whatever the interpreter's teardown would do."""

import subprocess
import sys

import pytest

ABORT_AT_TEARDOWN = "import atexit, os, sys; atexit.register(os.abort); "


def leave_with(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program whose teardown aborts, through the way in which ours end."""
    code = f"{ABORT_AT_TEARDOWN}from trainer_daemon.__main__ import run_and_leave; run_and_leave({program})"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
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
