"""The terminal is given back as it was found, however the cockpit ends. Watched from the other end of a real pty."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.tui.terminal import PtyProcess
from trainer_daemon.contract.rundir import home
from tui.settings import settings_file

if TYPE_CHECKING:
    from tests.tui.conftest import Runs

PATIENCE_SECONDS = 90.0

WATCH = """
import sys
from trainer_daemon.contract.rundir import find_run
from tui.app import run_cockpit
run_cockpit(find_run("fox"))
"""
ATTACH = """
import os, sys
sys.argv[1:] = ["attach", sys.argv[1]]
from cli.entry import app
code = app()
with open(os.path.join(os.environ["LLMCTL_HOME"], "modules"), "w") as file:
    file.write(" ".join(sys.modules))
sys.exit(code)
"""
BROKEN = """
from trainer_daemon.contract.rundir import find_run
import tui.feed
def broken(run, after):
    raise KeyError("a bug of ours")
tui.feed.open_link = broken
from tui.app import run_cockpit
run_cockpit(find_run("fox"))
"""
STUCK = """
import time
from trainer_daemon.contract.rundir import find_run
from tui.app import Cockpit, run_cockpit
Cockpit.action_detach = lambda self: time.sleep(60)
run_cockpit(find_run("fox"))
"""


class Terminal(PtyProcess):
    """One that can be waited for."""

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while words.encode() not in self.sent:
            assert time.monotonic() < deadline, f"{words!r} did not come: {self.sent[-500:]!r}"
            self.read()

    def wait_for_end(self) -> int:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it did not end"
            self.read()
        while self.read():
            pass
        return self.process.returncode

    def assert_given_back(self) -> None:
        """Each mode that was set has been reset after it was last set, and the line settings are the first ones."""
        for mode in (b"1049", b"1000", b"1002", b"1003", b"1006", b"1004", b"2004", b"2026", b"2048"):
            assert self.sent.rfind(b"\x1b[?%sh" % mode) <= self.sent.rfind(b"\x1b[?%sl" % mode), mode
        for mode in (b"25", b"7"):  # the cursor is shown, long lines wrap
            assert self.sent.rfind(b"\x1b[?%sl" % mode) < self.sent.rfind(b"\x1b[?%sh" % mode), mode
        assert self.sent.count(b"\x1b[>") <= self.sent.count(b"\x1b[<u"), "the kitty keyboard is popped"
        assert termios.tcgetattr(self.other) == self.settings


@pytest.fixture
def terminals(runs: Runs) -> Iterator[list[Terminal]]:
    runs.completed()
    every: list[Terminal] = []
    yield every
    for terminal in every:
        terminal.close()


def opened(terminals: list[Terminal], program: str) -> Terminal:
    terminals.append(Terminal(program))
    return terminals[-1]


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "ctrl+c"])
def test_leaving_gives_the_terminal_back(terminals: list[Terminal], key: bytes) -> None:
    terminal = opened(terminals, WATCH)
    terminal.wait_for("completed")
    terminal.wait_for("detach")
    os.write(terminal.main, key)
    assert terminal.wait_for_end() == 0
    assert b"\x1b[?1049h" in terminal.sent
    terminal.assert_given_back()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0)],  # SIGINT leaves as ctrl+c does
)
def test_a_signal_gives_the_terminal_back(
    terminals: list[Terminal], number: signal.Signals, code: int
) -> None:
    terminal = opened(terminals, WATCH)
    terminal.wait_for("completed")
    terminal.process.send_signal(number)
    assert terminal.wait_for_end() == code
    terminal.assert_given_back()


def test_a_signal_takes_the_mouse_back_too(terminals: list[Terminal]) -> None:
    settings = settings_file()
    settings.write_text("mouse = true\n")
    terminal = opened(terminals, WATCH)
    terminal.wait_for("completed")
    assert b"\x1b[?1000h" in terminal.sent
    terminal.process.send_signal(signal.SIGHUP)
    assert terminal.wait_for_end() == 128 + signal.SIGHUP
    terminal.assert_given_back()


def test_a_copy_and_the_bytes_that_are_sent_reach_the_terminal(terminals: list[Terminal]) -> None:
    terminal = opened(terminals, WATCH)
    terminal.wait_for("completed")
    terminal.wait_for("detach")
    os.write(terminal.main, b"Y")
    terminal.wait_for("\x1b]52;c;")
    os.write(terminal.main, b"D")
    terminal.wait_for("frames/s")
    written = re.search(rb"([\d,]+) B/s", terminal.sent)
    assert written is not None
    assert int(written[1].replace(b",", b"")) > 0
    os.write(terminal.main, b"q")
    assert terminal.wait_for_end() == 0
    terminal.assert_given_back()


def test_a_signal_while_the_first_frame_is_painted_gives_the_terminal_back(terminals: list[Terminal]) -> None:
    terminal = opened(terminals, WATCH)
    terminal.wait_for("opening")
    terminal.process.terminate()
    assert terminal.wait_for_end() == 128 + signal.SIGTERM
    terminal.assert_given_back()


def test_a_signal_to_a_cockpit_that_hangs_gives_the_terminal_back(terminals: list[Terminal]) -> None:
    terminal = opened(terminals, STUCK)
    terminal.wait_for("completed")
    os.write(terminal.main, b"q")
    terminal.process.terminate()
    assert terminal.wait_for_end() == 128 + signal.SIGTERM
    terminal.assert_given_back()


def test_a_bug_gives_the_terminal_back_and_shows_itself(terminals: list[Terminal]) -> None:
    terminal = opened(terminals, BROKEN)
    assert terminal.wait_for_end() != 0
    terminal.assert_given_back()
    assert terminal.sent.rfind(b"a bug of ours") > terminal.sent.rfind(b"\x1b[?1049l")


def test_no_mouse_mode_is_ever_set_so_that_text_can_be_selected(terminals: list[Terminal]) -> None:
    terminal = opened(terminals, WATCH)
    terminal.wait_for("completed")
    os.write(terminal.main, b"q")
    terminal.wait_for_end()
    for mode in (b"1000", b"1002", b"1003", b"1006", b"1016"):
        assert b"\x1b[?%sh" % mode not in terminal.sent


def test_a_cockpit_that_has_no_terminal_says_what_to_use_instead(runs: Runs) -> None:
    runs.completed()
    done = subprocess.run(
        [sys.executable, "-c", WATCH], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode != 0
    assert "llmctl status" in done.stderr
    assert "\x1b" not in done.stdout


def test_the_cockpit_never_loads_torch_and_paints_before_it_loads_numpy(terminals: list[Terminal]) -> None:
    program = "import sys, tui.app; print(sorted({'torch', 'numpy', 'zmq'} & set(sys.modules)), 'loaded')"
    terminal = opened(terminals, program)
    terminal.wait_for("[] loaded")
    everything = "import sys, tui.screens.cockpit; print('torch' in sys.modules, 'is the word')"
    opened(terminals, everything).wait_for("False is the word")


def test_attaching_opens_the_run_and_loads_no_other_command(terminals: list[Terminal]) -> None:
    terminals.append(terminal := Terminal(ATTACH, "fox"))
    terminal.wait_for("completed")
    terminal.wait_for("detach")
    os.write(terminal.main, b"q")
    assert terminal.wait_for_end() == 0
    terminal.assert_given_back()
    loaded = (home() / "modules").read_text().split()
    assert "numpy" in loaded
    assert not {"typer", "torch", "cli.main"} & set(loaded)


def test_attaching_to_what_is_no_run_says_so(terminals: list[Terminal]) -> None:
    terminals.append(terminal := Terminal(ATTACH, "nobody"))
    assert terminal.wait_for_end() == 3
    assert b'error: "nobody" names no run' in terminal.sent


@pytest.mark.parametrize(
    ("address", "words"),
    [("tcp://nobody@127.0.0.1:9", b"llmctl keys make"), ("ssh://box/a/b", b"ssh://[user@]host[:port]/RUN")],
)
def test_an_address_is_no_name_of_a_run(terminals: list[Terminal], address: str, words: bytes) -> None:
    """On a terminal, where runs are opened before the command line is loaded, those with tcp:// were looked for here."""
    terminals.append(terminal := Terminal(ATTACH, address))
    assert terminal.wait_for_end() != 0
    assert words in terminal.sent
    assert b"names no run" not in terminal.sent
