"""Two real ranks that are signalled and killed while torch compiles their model, with a compiler that waits to be hit."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Runs
from tests.e2e.test_whole_run import ranks_of, sequence_is_whole
from tests.faults.conftest import IS_FULL
from tests.supervisor.conftest import events, follow, state_is, wait_until, wait_until_over
from trainer_daemon.contract.events import CheckpointSaved, Notice, PhaseChanged, StateChanged, TrainStep
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import Feed

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not IS_FULL, reason="compiles for a minute; quick tests of the same: test_native.py"),
]

SECONDS = 500.0
COMPILER = shutil.which("g++")
WAITING_COMPILER = f"""\
#!/bin/sh
# Where $FOLDER/hold is: a library is half written, and this compiler is busy until that file is gone.
case "$*" in
  *" -o "*.so*)
    if [ -e "$FOLDER/hold" ]; then
      rest="${{*##* -o }}"
      printf half > "${{rest%% *}}"
      : > "$FOLDER/compiling"
      while [ -e "$FOLDER/hold" ]; do sleep 0.05; done
    fi ;;
esac
exec {COMPILER} "$@" -O0
"""


class Compiler:
    """Makes runs compile as fast as can be, and wait in the middle of it when a test wants that."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        (folder / "g++").write_text(WAITING_COMPILER)
        (folder / "g++").chmod(0o700)
        self._hold, self._compiling = folder / "hold", folder / "compiling"
        monkeypatch.setenv("FOLDER", str(folder))
        monkeypatch.setenv("CXX", str(folder / "g++"))
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "cache"))

    def hold_next_library(self) -> None:
        self._compiling.unlink(missing_ok=True)
        self._hold.touch()

    def wait_until_held(self) -> None:
        wait_until(self._compiling.exists, "nothing is compiled", SECONDS)

    def let_go(self) -> None:
        self._hold.unlink()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    if COMPILER is None:
        pytest.skip("no g++")
    return Compiler(tmp_path / "compiler", monkeypatch)


def come_to_the_first_step(feed: Feed, attempt: int) -> None:
    """Until this launch is about to compile its step."""

    def is_there(record: Record) -> bool:
        event = record.event
        assert not (isinstance(event, StateChanged) and event.state == "failed"), event
        return isinstance(event, PhaseChanged) and (event.phase, record.attempt) == ("running", attempt)

    follow(feed, is_there, SECONDS)


def test_ranks_killed_while_torch_compiles_start_again_and_a_sigterm_there_saves_and_ends(
    runs: Runs, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 and 14, inside compilation. The kill leaves half a library behind, which torch must not take for a whole one."""
    monkeypatch.setenv(
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "5"
    )  # who compiles does not heed the SIGTERM that follows a kill
    run = runs.train(
        "compiled",
        "runtime.nproc=2",
        "runtime.compile=default",
        "runtime.max_restarts=1",
        "train.num_iterations=4",
        "checkpoint.every=none",
        "eval.every=off",
        "sample.every=off",
        "model.depth=1",
        "model.aspect_ratio=32",
    )
    with Feed(run) as feed:
        come_to_the_first_step(feed, 1)
        compiler.hold_next_library()
        compiler.wait_until_held()
        ranks_of(run)[1].kill()
        follow(feed, state_is("starting", attempt=2), SECONDS)
        compiler.let_go()
        come_to_the_first_step(feed, 2)
        compiler.hold_next_library()
        compiler.wait_until_held()
        os.kill(ranks_of(run)[1].pid, signal.SIGTERM)
        compiler.let_go()
        follow(feed, state_is("stopped", "failed", "completed"), SECONDS)
    wait_until_over(run, runs.pid)
    status = observe(run)
    assert (status.state, status.restarts, status.step) == ("stopped", 1, 1), status.error
    assert [e.step for e in events(run, CheckpointSaved)] == [1]
    runs.resume(run)
    with Feed(run) as feed:
        follow(feed, state_is("completed", "failed", attempt=3), SECONDS)
    assert observe(run).state == "completed"
    assert [e.step for e in events(run, TrainStep)] == [1, 2, 3, 4]
    assert [n.text for n in events(run, Notice) if "eagerly" in n.text] == [], "it did compile"
    assert sequence_is_whole(run)
