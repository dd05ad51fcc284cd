"""Whole runs of the classic family on HDF5: trained, resumed, sampled, evaluated, on one rank and on two."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.evals.test_core import EXAMPLES
from tests.parallel import in_parallel
from tests.tiny import Recorder, run_tiny
from tests.tiny_pile import tiny_pile_spec, write_tiny_pile
from trainer_daemon.contract.events import (
    CheckpointSaved,
    Command,
    CoreScored,
    Evaluated,
    RunPlanned,
    Sampled,
    TrainStep,
)
from trainer_daemon.contract.generation import Generation
from trainer_daemon.engine.evals.stored import measure_core, measure_held_out, open_examinee
from trainer_daemon.engine.inference.batch import Batch, write
from trainer_daemon.engine.inference.session import load_session

LAST = "step-00000012"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One corpus for the whole module."""
    made = tmp_path_factory.mktemp("home")
    write_tiny_pile(made)
    return made


@pytest.fixture(scope="module")
def whole(home: Path) -> tuple[Recorder, Path]:
    """A run from its beginning to its end, and its checkpoints."""
    seen = Recorder()
    finished, _ = run_tiny(tiny_pile_spec(), home, seen, home / "whole")
    assert (finished.reason, finished.step) == ("completed", 12)
    return seen, home / "whole" / "checkpoints"


def test_it_learns_and_reports_its_one_rate(whole: tuple[Recorder, Path]) -> None:
    seen, _ = whole
    (planned,) = seen.of(RunPlanned)
    assert planned.vocab_size == 265
    losses = [step.loss_nats or 0 for step in seen.of(TrainStep)]
    assert losses[0] == pytest.approx(5.6, abs=0.4)  # ln 265, and what PyTorch's initialisation adds
    assert losses[-1] < losses[0] - 1
    assert [set(step.learning_rates or {}) for step in seen.of(TrainStep)] == [{"adamw"}] * 12
    rates = [(step.learning_rates or {})["adamw"] for step in seen.of(TrainStep)]
    assert rates[:3] == pytest.approx([0.0015, 0.003, 0.003])
    lowest = 0.1 + 0.9 * 0.5 * (1 + math.cos(0.9 * math.pi))  # a step before its end
    assert rates[-1] == pytest.approx(0.003 * lowest)
    assert [e.step for e in seen.of(CheckpointSaved)] == [5, 10, 12]
    assert [e.prompt for e in seen.of(Sampled)] == ["Once", "Once"]


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    whole: tuple[Recorder, Path], home: Path, tmp_path: Path
) -> None:
    stop = Recorder({7: [Command("r1", "stop", {})]})
    stopped, _ = run_tiny(tiny_pile_spec(), home, stop, tmp_path)
    assert (stopped.reason, stopped.step) == ("stopped", 7)
    second = Recorder()
    run_tiny(tiny_pile_spec(), home, second, tmp_path)
    assert stop.losses | second.losses == whole[0].losses
    for file in ("model.safetensors", "optimizer.safetensors", "training.json"):
        assert (tmp_path / "checkpoints" / LAST / file).read_bytes() == (
            whole[1] / LAST / file
        ).read_bytes(), file


def test_its_checkpoint_writes_beyond_the_context_and_is_measured_as_the_run_was(
    whole: tuple[Recorder, Path], home: Path
) -> None:
    seen, checkpoints = whole
    session = load_session(checkpoints / LAST)
    batch = Batch(session.decoder, session.tokenizer, rows=2)
    pieces = list(write(batch, Generation(prompt="Once upon a time", max_tokens=100, temperature=0)))
    assert pieces[-1].finish_reason in ("length", "end")
    assert pieces[-1].tokens > 64 or pieces[-1].finish_reason == "end"
    examinee = open_examinee(checkpoints / LAST, torch.device("cpu"))
    measured = measure_held_out(examinee, home)
    assert measured.val_bpb == seen.of(Evaluated)[-1].val_bpb
    for task, examples in EXAMPLES.items():
        file = home / "data" / "core" / task.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    scored = measure_core(examinee, examinee.spec.eval, home, lambda _: None)
    assert isinstance(scored, CoreScored)
    assert scored.tasks == len(EXAMPLES)


@pytest.mark.parametrize(
    "overrides",
    [
        ["runtime.precision=bf16", "runtime.activation_checkpointing=block"],
        ["data.document_mask=true", "runtime.precision=bf16"],
        ["train.micro_batch_size=auto", "data.packing=bos-bestfit"],
    ],
)
def test_it_trains_in_every_way_that_the_first_family_does(
    overrides: list[str], home: Path, tmp_path: Path
) -> None:
    seen = Recorder()
    finished, _ = run_tiny(tiny_pile_spec(*overrides), home, seen, tmp_path)
    assert finished.reason == "completed"
    assert (seen.losses[12] or 9) < (seen.losses[1] or 0) - 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_train_what_one_trains(whole: tuple[Recorder, Path], home: Path, tmp_path: Path) -> None:
    in_parallel([sys.executable, "-m", "tests.engine.classic_ranks", str(home), str(tmp_path)], world_size=2)
    first, second = (load_file(tmp_path / f"replica-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = load_file(whole[1] / LAST / "model.safetensors")
    for name, tensor in alone.items():
        assert torch.dist(first[name], tensor) < 1e-3 * tensor.norm(), name
    state, one = (
        load_file(folder / LAST / "optimizer.safetensors") for folder in (tmp_path / "checkpoints", whole[1])
    )
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in one.items()}
