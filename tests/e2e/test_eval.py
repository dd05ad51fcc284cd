"""`llmctl eval`: of the run in training, and of what it left."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Runs
from tests.engine.evals.test_core import EXAMPLES
from tests.supervisor.conftest import kind_is, state_is, wait_until_over, watch
from trainer_daemon.contract.events import PhaseChanged
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import send_command


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_same_is_measured_of_a_run_in_training_and_of_the_checkpoint_it_leaves(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cli.main import main

    for task, examples in EXAMPLES.items():
        file = tmp_path / "home" / "data" / "core" / task.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(example) + "\n" for example in examples))

    def measured(*arguments: str) -> dict[str, object]:
        capsys.readouterr()
        assert main(["eval", *arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        return {name: value for name, value in found.items() if name not in ("seconds", "checkpoint")}

    run = runs.train("a", "train.num_iterations=100000", "eval.every=off", "checkpoint.every=off")
    watch(run, kind_is("train_step"), 120)
    send_command(run, "pause")  # so that everything below is asked of one step
    watch(run, lambda r: isinstance(r.event, PhaseChanged) and r.event.phase == "paused", 120)
    live = measured("a")
    core = measured("a", "--task", "core")
    assert main(["eval", "a", "--tokens", "64"]) == 2
    assert "llmctl eval a@last" in capsys.readouterr().err
    assert main(["eval", "a", "--task", "hellaswag"]) == 6, "its examples are not there"
    send_command(run, "stop")
    watch(run, state_is("stopped"), 120)
    wait_until_over(run, runs.pid)

    stored = measured("a")
    assert stored["step"] == live["step"] == observe(run).step
    assert stored["val_bpb"] == pytest.approx(live["val_bpb"], rel=1e-12)
    again = measured(f"a@{stored['step']}", "--task", "core")
    for found in (core, again):
        for score in found["scores"]:  # type: ignore[attr-defined]  # JSON
            del score["seconds"]
    assert again == core
    assert len(core["scores"]) == len(EXAMPLES)  # type: ignore[arg-type]
    assert main(["eval", "a@last", "--task", "bpd"]) == 2
