"""The whole thing as a person has it: a real terminal, a real run, a closed window."""

import re
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
from tests.supervisor.conftest import kill_and_wait, watch
from tests.tiny import TINY
from trainer_daemon.contract.events import TrainStep
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import all_runs, find_run
from trainer_daemon.contract.status import observe
from trainer_daemon.supervisor.sweep import kill_run_processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]
LLMCTL = [sys.executable, "-c", "from cli.entry import app; raise SystemExit(app())"]
WAIT_SECONDS = 180.0


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
            "--unset=COLUMNS",
            "--unset=LINES",
            "COLORTERM=truecolor",
            "sh",
            "-c",
            f"{shlex.join(command)}; echo EXIT=$?; cat",
        )

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", text)

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
def other(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "o").mkdir()
    made = Terminal(tmp_path / "o")
    yield made
    made.close()


def written_spec(folder: Path, **sections: dict[str, object]) -> Path:
    """The tiny run as TOML, with these keys of its sections otherwise."""

    def toml(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')

    path = folder / "tiny.toml"
    tables = {**TINY, **{name: {**TINY[name], **values} for name, values in sections.items()}}
    lines = [
        f"[{name}]\n" + "\n".join(f"{k} = {toml(v)}" for k, v in values.items())
        for name, values in tables.items()
    ]
    path.write_text("\n".join(lines))
    assert tomllib.loads(path.read_text()) == tables
    return path


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    """Long enough to be watched."""
    return written_spec(tmp_path, train={"num_iterations": 3000}, checkpoint={"every": 500})


@pytest.fixture
def ended_runs(runs: Runs) -> Iterator[None]:
    """Ends what was started from the terminal and is still there."""
    yield
    for run in all_runs():
        if run.supervisor_is_alive() and (pid := observe(run).pid) is not None:
            kill_and_wait(pid)
        kill_run_processes(run)


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


CUT_SMALL = {
    "model.depth": "2",
    "model.sequence_len": "64",
    "data.stories": "300",
    "train.num_iterations": "100000",
    "train.micro_batch_size": "4",
    "train.global_batch_tokens": "256",
    "eval.every": "off",
    "sample.every": "off",
    "checkpoint.every": "off",
}
"""Of `stories`: each is taken only where it makes sense beside those before it."""
DIVERGING = "optim.matrix_lr=100 optim.embedding_lr=100 optim.unembedding_lr=100"


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("ended_runs")
def test_a_person_walks_through_all_that_the_cockpit_does_to_runs(
    runs: Runs, terminal: Terminal, other: Terminal
) -> None:
    """Start from the form, save, pause, set, zoom, sample from two checkpoints, fork, diagnose an alert, compare, stop: keys
    alone, and beside it a second cockpit that only looks."""
    see = terminal.wait_for
    terminal.start([*LLMCTL, "attach"], 120, 40)
    see(lambda s: "there are no runs yet" in s, "the list of runs")
    terminal.press("n")
    see(lambda s: "preset stories" in s and "parameters" in s, "the form and what the run will take")
    terminal.type("walk")
    terminal.press("Enter")
    for key, value in CUT_SMALL.items():
        terminal.type(f"/{key}")
        line = re.compile(
            rf"^  {re.escape(key)}(?: |$)", re.MULTILINE
        )  # what is sought, and what has the cursor
        see(lambda s, line=line: len(line.findall(s)) == 2, key)  # type: ignore[misc]
        terminal.press("Enter")
        terminal.type(value)
        terminal.press("Enter")
        terminal.press("Escape")
        see(lambda s: "searches all fields" in s, "all fields again")
    terminal.type("/train.num")
    terminal.press("Enter")
    see(lambda s: f"{len(CUT_SMALL)} changed" in s and "100000" in s, "what is otherwise than in the preset")
    terminal.press("Enter")
    see(lambda s: "running" in s and "/100,000" in s and "loss nats" in s, "the running cockpit")
    other.start([*LLMCTL, "attach", "walk", "--readonly"], 80, 24)

    run = find_run("walk")

    def saved() -> int:
        return len(list(run.checkpoints.glob("step-*/MANIFEST.json")))

    terminal.press("C")
    see(lambda s: saved() == 1 and "checkpoint saved" in s, "the first checkpoint")
    terminal.press("C")
    see(lambda _: saved() == 2, "the second checkpoint")
    terminal.press("P")
    see(lambda s: "paused" in s.splitlines()[0], "the pause")
    paused_at = observe(run).step
    other.wait_for(lambda s: "paused" in s.splitlines()[0], "the pause, in the other cockpit")

    terminal.press(":")
    see(lambda s: "Change a value of walk?" in s, "the question which value")
    terminal.type("checkpoint.keep_lst=7")
    terminal.press("Enter")
    see(lambda s: "checkpoint.keep_last" in s and "Change a value" not in s, "the value that was meant")
    terminal.press(":")
    see(lambda s: "Change a value of walk?" in s, "the question again")
    terminal.type("checkpoint.keep_last=7")
    terminal.press("Enter")
    for cockpit in (terminal, other):
        cockpit.press("7")
        cockpit.type("/keep_last")
        cockpit.press("Enter")
        cockpit.wait_for(lambda s: bool(re.search(r"keep_last +7", s)), "the new value")
    terminal.press("1")
    see(lambda s: "loss nats" in s, "the curves")

    before = terminal.screen().splitlines()[2:10]
    terminal.press("+", "+")
    see(lambda s: s.splitlines()[2:10] != before and "loss nats" in s, "the zoom")

    terminal.press("T")
    see(lambda s: "✎ walk@" in s and "nothing asked yet" in s, "the screen of talks")
    terminal.type("Once")
    see(lambda s: "› Once" in s, "the prompt")
    terminal.press("Enter")
    see(lambda s: "first token" in s, "an answer")
    terminal.press("Tab")  # escape would end the answer, were it still being written
    terminal.press("v")
    see(lambda s: "Who answers beside it" in s, "the checkpoints to choose from")
    terminal.press("j", "Enter")
    see(lambda s: " against walk@" in s and s.count("first token") == 2, "two answers beside each other")
    terminal.press("Escape")
    see(lambda s: "q detach" in s, "the cockpit")

    terminal.press("3")
    see(lambda s: "v verify" in s and "best" in s, "the checkpoints")
    other.press("3")
    other.wait_for(lambda s: "best" in s, "the checkpoints, in the other cockpit")
    terminal.press("p")
    other.wait_for(lambda s: "pinned" in s, "the pin, in the other cockpit")
    other.press("q")
    other.wait_for(lambda s: "EXIT=0" in s, "the end of the other cockpit")
    terminal.press("f")
    see(lambda s: "into a new run?" in s, "the question what is to be different")
    terminal.type(DIVERGING)
    terminal.press("Enter")
    see(
        lambda s: bool(re.search(r"alerts [1-9]", s)) and "paused" not in s.splitlines()[0],
        "an alert of the fork",
    )
    fork = next(other for other in all_runs() if other.path != run.path)
    terminal.press("8")
    see(lambda s: "likely cause" in s and "what to do" in s, "the diagnosis")

    terminal.press("5")
    see(lambda s: "2 runs" in s, "the list of runs")
    terminal.press("Down", "o")  # from the newest to the one before
    terminal.press("1")
    see(
        lambda s: "loss nats" in s and bool(re.search(r"walk(?![-@])", s.partition("\n")[2])),
        "the curves of both over each other",
    )

    terminal.press("5")
    see(lambda s: "2 runs" in s, "the list again")
    terminal.press("Enter")
    see(lambda s: "paused" in s.splitlines()[0], "the first run")
    terminal.press("!")
    see(lambda s: "Stop walk?" in s, "the question whether to stop")
    terminal.press("y")
    see(lambda s: "stopped" in s.splitlines()[0], "the end of the run")
    terminal.press("q")
    see(lambda s: "EXIT=0" in s, "the end of the cockpit")

    end = observe(run)
    assert (end.state, end.step) == ("stopped", paused_at)
    assert observe(fork).forked_from is not None
