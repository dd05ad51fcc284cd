"""What a resume may change takes effect, is journalled and stays; anything else is refused before a process starts."""

import json

import pytest

from tests.e2e.conftest import Runs
from tests.supervisor.conftest import kind_is, state_is, wait_until_over, watch
from trainer_daemon.contract.events import AttemptStarted, Evaluated, SettingChanged
from trainer_daemon.contract.journal import read_all
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import send_command


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_resume_changes_what_it_may_and_refuses_the_rest_with_both_values(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    from cli.main import main

    run = runs.train("a", "train.num_iterations=2000", "eval.every=2000", "tag=first")
    watch(run, kind_is("train_step"), 120)
    assert main(["resume", "a", "--set", "eval.every=5"]) == 6, "it trains; that is what `set` is for"
    send_command(run, "stop")
    watch(run, state_is("stopped"), 120)
    wait_until_over(run, runs.pid)
    capsys.readouterr()

    assert main(["resume", "a", "--set", "optim.matrix_lr=0.25"]) == 2
    assert "optim.matrix_lr is 0.25, a has 0.5" in capsys.readouterr().err
    by_hand = json.loads(run.spec_file.read_text())
    original = json.dumps(by_hand)
    by_hand["train"]["num_iterations"] = 3000
    run.spec_file.write_text(json.dumps(by_hand))
    assert main(["resume", "a"]) == 2
    assert "train.num_iterations is 3000, step-" in capsys.readouterr().err
    run.spec_file.write_text(original)
    assert observe(run).state == "stopped"

    changes = ["eval.every=5", "runtime.nproc=2", "train.micro_batch_size=2", "tag=second"]
    assert main(["resume", "a", *(f"--set={change}" for change in changes)]) == 0
    resumed = observe(run)
    assert resumed.pid is not None
    try:
        watch(
            run,
            lambda record: (
                isinstance(record.event, Evaluated) and record.attempt == 2 and record.event.step % 5 == 0
            ),
            120,
        )
    finally:
        send_command(run, "stop")
        watch(run, lambda record: record.attempt == 2 and state_is("stopped")(record), 120)
        wait_until_over(run, resumed.pid)
    told = {
        e.key: (e.before, e.value) for r in read_all(run.journal) if isinstance(e := r.event, SettingChanged)
    }
    assert told == {
        "eval.every": (2000, 5),
        "runtime.nproc": (1, 2),
        "train.micro_batch_size": (4, 2),
        "tag": ("first", "second"),
    }
    worlds = [r.event.world_size for r in read_all(run.journal) if isinstance(r.event, AttemptStarted)]
    assert worlds == [1, 2]
    assert observe(run).tag == "second"
