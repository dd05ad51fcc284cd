"""The whole thing as a person has it: a real terminal, a real run, a closed window."""

import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Runs
from tests.supervisor.conftest import watch
from tests.tiny import TINY
from trainer_daemon.contract.events import TrainStep
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import find_run
from trainer_daemon.contract.status import observe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]
LLMCTL = [sys.executable, "-c", "from cli.entry import app; raise SystemExit(app())"]
WAIT_SECONDS = 90.0


class Terminal:
    """A tmux server of its own with one window."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]

    def start(self, command: list[str], columns: int, rows: int) -> None:
        size = ["-x", str(columns), "-y", str(rows)]
        self._run(
            "new-session",
            "-d",
            *size,
            "env",
            "COLORTERM=truecolor",
            "sh",
            "-c",
            f"{shlex.join(command)}; echo EXIT=$?; cat",
        )

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    def wait_for(self, is_shown: Callable[[str], bool], what: str) -> str:
        """The screen once it shows what is waited for; looks ten times a second."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_shown(screen := self.screen()):
            assert time.monotonic() < deadline, f"{what} did not show:\n{screen}"
            time.sleep(0.1)
        return screen

    def close(self) -> None:
        """As closing the window does: every process in it gets SIGHUP."""
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    yield made
    made.close()


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    """The tiny run as TOML, long enough to be watched."""

    def toml(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')

    path = tmp_path / "tiny.toml"
    sections = {**TINY, "train": {**TINY["train"], "num_iterations": 3000}, "checkpoint": {"every": 500}}
    lines = [
        f"[{name}]\n" + "\n".join(f"{k} = {toml(v)}" for k, v in values.items())
        for name, values in sections.items()
    ]
    path.write_text("\n".join(lines))
    assert tomllib.loads(path.read_text()) == sections
    return path


def twenty_steps_from(step: int) -> Callable[[Record], bool]:
    return lambda record: isinstance(record.event, TrainStep) and record.event.step >= step + 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_run_opens_the_cockpit_q_leaves_it_and_the_run_goes_on(
    runs: Runs, terminal: Terminal, spec_file: Path, size: tuple[int, int]
) -> None:
    terminal.start([*LLMCTL, "run", "--spec", str(spec_file), "--name", "watched"], *size)
    screen = terminal.wait_for(
        lambda s: "running" in s and "/3,000" in s and "loss nats" in s, "the running cockpit"
    )
    assert "q detach" in screen
    run = find_run("watched")
    terminal.press("q")
    terminal.wait_for(lambda s: "EXIT=0" in s, "the end of the cockpit")
    watch(run, twenty_steps_from(observe(run).step))
    subprocess.run([*LLMCTL, "kill", "watched", "-y"], check=True, capture_output=True)


@pytest.mark.timeout(300)
def test_closing_the_window_does_not_touch_the_run(runs: Runs, terminal: Terminal, spec_file: Path) -> None:
    terminal.start([*LLMCTL, "run", "--spec", str(spec_file), "--name", "closed"], 100, 30)
    terminal.wait_for(lambda s: "/3,000" in s and "loss nats" in s, "the running cockpit")
    run = find_run("closed")
    terminal.close()
    watch(run, twenty_steps_from(observe(run).step))
    assert observe(run).error is None
    subprocess.run([*LLMCTL, "kill", "closed", "-y"], check=True, capture_output=True)
