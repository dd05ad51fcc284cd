"""A checkpoint that is measured afterwards has the figures that its run reported."""

import json
from pathlib import Path

import pytest
import torch

from tests.engine.evals.test_core import EXAMPLES
from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import Command, CommandDone, CoreScored, CoreTaskScored, Evaluated
from trainer_daemon.engine.evals.stored import measure_core, measure_held_out, open_examinee

CPU = torch.device("cpu")
STEP_10 = "step-00000010"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """(a home with a tiny run's checkpoints and three of CORE's tasks, what the run reported)."""
    home = tmp_path_factory.mktemp("home")
    for task, examples in EXAMPLES.items():
        file = home / "data" / "core" / task.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    seen = Recorder({11: [Command("one", "evaluate", {"task": "hellaswag"})]})
    overrides = (
        "eval.every=5",
        "eval.core_every=5",
        "data.document_mask=true",
        "data.packing=concat",
        "eval.tokens=600",
    )
    run_tiny(tiny_spec(*overrides), home, seen, home)
    return home, seen


def test_the_held_out_loss_is_the_runs(trained: tuple[Path, Recorder]) -> None:
    home, seen = trained
    told = {e.step: e for e in seen.of(Evaluated)}[10]
    found = measure_held_out(open_examinee(home / "checkpoints" / STEP_10, CPU), home)
    assert (found.step, found.tokens, found.rows) == (10, told.tokens, told.rows)
    assert found.val_bpb == pytest.approx(told.val_bpb, rel=1e-12)
    assert found.val_loss_nats == pytest.approx(told.val_loss_nats, rel=1e-12)


def test_fewer_tokens_are_read_where_fewer_are_asked_for(trained: tuple[Path, Recorder]) -> None:
    home, _ = trained
    found = measure_held_out(open_examinee(home / "checkpoints" / STEP_10, CPU), home, tokens=64)
    assert found.rows == 2


def test_cores_tasks_are_the_runs(trained: tuple[Path, Recorder]) -> None:
    home, seen = trained
    told = {e.task: (e.accuracy, e.centred) for e in seen.of(CoreTaskScored) if e.step == 10}
    examinee = open_examinee(home / "checkpoints" / STEP_10, CPU)
    found: list[CoreTaskScored] = []
    scored = measure_core(examinee, examinee.spec.eval, home, found.append)
    assert {e.task: (e.accuracy, e.centred) for e in found} == told
    in_training = {e.step: e for e in seen.of(CoreScored)}[10]
    assert (scored.mean_centred, scored.missing) == (in_training.mean_centred, in_training.missing)


def test_a_task_whose_examples_are_not_there_is_refused_on_request_and_training_goes_on(
    trained: tuple[Path, Recorder],
) -> None:
    _, seen = trained
    (done,) = seen.of(CommandDone)
    assert (done.ok, done.message) == (False, "it was not measured; see the events")
    assert max(seen.losses) == 12


def test_text_that_is_not_prepared_here_is_said_and_not_made(
    trained: tuple[Path, Recorder], tmp_path: Path
) -> None:
    home, _ = trained
    with pytest.raises(SpecError, match="llmctl data prepare"):
        measure_held_out(open_examinee(home / "checkpoints" / STEP_10, CPU), tmp_path)
    assert not list(tmp_path.iterdir())
