"""How often a run went back to a checkpoint is counted over its launches, by whoever launches it."""

from pathlib import Path

import pytest

from tests.engine.test_ranks import new_run
from trainer_daemon.contract.alerts import alert
from trainer_daemon.contract.journal import JournalWriter
from trainer_daemon.contract.rundir import write_json
from trainer_daemon.contract.status import fold_journal, load_snapshot
from trainer_daemon.processes.rank import rollbacks_before


def test_rollbacks_are_those_that_the_supervisor_counted_and_those_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    run = new_run("a")
    assert rollbacks_before(run) == 0
    with JournalWriter(run.journal, "train", 1) as journal:
        journal.append(alert("rolled_back", 5, "not finite"))
        journal.append(alert("loss_spike", 9, "a spike"))
        assert rollbacks_before(run) == 1, "nobody has counted yet"
        write_json(run.state_file, fold_journal(run, load_snapshot(run)).to_json())
        journal.append(alert("rolled_back", 5, "not finite"))
    assert rollbacks_before(run) == 2
    run.state_file.write_text("{damaged")
    assert rollbacks_before(run) == 2
