"""An exception on one of two ranks: the reader is shown its words, not those of the rank that fell with it."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Runs
from tests.supervisor.conftest import events, state_is, wait_until_over, watch
from trainer_daemon.contract.events import RankExited
from trainer_daemon.contract.status import observe

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]

CURSE = """
import os, sys
if os.environ.get("RANK") == "1" and "trainer_daemon" in sys.orig_argv:
    from trainer_daemon.engine.data.batches import Batches
    read = Batches.micro_batches
    def cursed(self, samples_seen):
        if samples_seen >= 24:
            raise ValueError("row 24 is cursed")
        return read(self, samples_seen)
    Batches.micro_batches = cursed
"""


def test_an_exception_on_one_rank_is_named_with_its_words_and_its_log(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10: the other rank only notices that its peer is gone, and may say so first."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CURSE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    run = runs.train("cursed", "runtime.nproc=2", "runtime.max_restarts=0")
    watch(run, state_is("failed", "completed"), 150)
    wait_until_over(run, runs.pid)
    status = observe(run)
    assert status.state == "failed"
    assert status.error is not None
    assert status.error["kind"] == "rank_exit"
    assert "rank 1: ValueError: row 24 is cursed" in status.error["message"]
    assert str(run.rank_log(1)) in status.error["message"]
    assert [e.rank for e in events(run, RankExited) if e.is_root_cause] == [1]
    assert "in cursed" in run.rank_log(1).read_text(), "the log has the line"
