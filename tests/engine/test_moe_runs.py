"""Whole runs of the moe family: trained, resumed, written with, measured, on one rank and on two."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.parallel import in_parallel
from tests.tiny import Recorder, run_tiny
from tests.tiny_moe import tiny_moe_spec
from trainer_daemon.contract.core_tasks import CORE_TASKS, HELLASWAG
from trainer_daemon.contract.events import (
    CheckpointSaved,
    Command,
    CoreTaskScored,
    Evaluated,
    ExpertsUsed,
    Notice,
    RunPlanned,
    Sampled,
    TrainStep,
)
from trainer_daemon.contract.generation import Generation
from trainer_daemon.engine.evals.stored import measure_core, measure_held_out, open_examinee
from trainer_daemon.engine.inference.batch import Batch, write
from trainer_daemon.engine.inference.moe_decoder import MoEDecoder
from trainer_daemon.engine.inference.session import load_model, load_session, read_model
from trainer_daemon.engine.inference.uncached import UncachedDecoder, decoder_for
from trainer_daemon.engine.models import loss
from trainer_daemon.engine.models.moe import MoEGPT

LAST = "step-00000012"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One corpus for the whole module."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def whole(home: Path) -> tuple[Recorder, Path]:
    """A run from its beginning to its end, and its checkpoints."""
    seen = Recorder()
    finished, _ = run_tiny(tiny_moe_spec(), home, seen, home / "whole")
    assert (finished.reason, finished.step) == ("completed", 12)
    return seen, home / "whole" / "checkpoints"


def test_it_learns_in_waves_and_tells_how_its_experts_are_used(whole: tuple[Recorder, Path]) -> None:
    seen, _ = whole
    (planned,) = seen.of(RunPlanned)
    assert planned.scaling_parameters < planned.parameters
    losses = [step.loss_nats or 0 for step in seen.of(TrainStep)]
    assert losses[0] == pytest.approx(math.log(planned.vocab_size), abs=0.1)  # the cross-entropy alone
    assert losses[-1] < losses[0] - 0.5
    rates = [step.learning_rates or {} for step in seen.of(TrainStep)]
    assert rates[0] == rates[8] == {"muon": 0.02, "adamw": 0.01}
    assert rates[4] == pytest.approx({"muon": 0.015, "adamw": 0.0075})
    assert [e.step for e in seen.of(CheckpointSaved)] == [5, 10, 12]
    assert [e.prompt for e in seen.of(Sampled)] == ["Once", "Once"]
    assert not [e for e in seen.of(Notice) if "decoder" in e.text]  # the fast one wrote

    told = seen.of(ExpertsUsed)
    assert [(e.step, e.steps) for e in told] == [(1, 1), (10, 9), (12, 2)]
    for event in told:
        assert len(event.shares) == len(event.entropies) == 2
        for shares in event.shares:
            assert sum(shares) == pytest.approx(1, abs=0.001)
        assert event.busiest_share == pytest.approx(max(map(max, event.shares)), abs=1e-4)
        assert event.idlest_share == pytest.approx(min(map(min, event.shares)), abs=1e-4)
        assert 0 < event.router_entropy_nats <= math.log(3) + 1e-6
        assert 0.9 < event.balance_loss < 3


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    whole: tuple[Recorder, Path], home: Path, tmp_path: Path
) -> None:
    stop = Recorder({7: [Command("r1", "stop", {})]})
    stopped, _ = run_tiny(tiny_moe_spec(), home, stop, tmp_path)
    assert (stopped.reason, stopped.step) == ("stopped", 7)
    second = Recorder()
    run_tiny(tiny_moe_spec(), home, second, tmp_path)
    assert stop.losses | second.losses == whole[0].losses
    for file in ("model.safetensors", "optimizer.safetensors", "training.json"):
        assert (tmp_path / "checkpoints" / LAST / file).read_bytes() == (
            whole[1] / LAST / file
        ).read_bytes(), file


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_texts_side_by_side_from_the_cache_are_those_of_the_model_itself(
    whole: tuple[Recorder, Path], dtype: torch.dtype
) -> None:
    model = load_model(read_model(whole[1] / LAST), device="cpu", dtype=dtype).eval()
    decoder = decoder_for(model)
    assert isinstance(decoder, MoEDecoder)
    cache = decoder.new_cache(rows=2)
    texts = [[3, 17, 40, 5], [9]]
    for text in texts:
        next_logits = decoder.prefill(text, cache, cache.add())
        text.append(int(next_logits.argmax()))
    with torch.no_grad():
        for _ in range(20):
            logits = decoder.decode([text[-1] for text in texts], cache)
            for text, found in zip(texts, logits, strict=True):
                expected = model(torch.tensor([text]))[0, -1]
                rounding = 1e-4 if dtype == torch.float32 else 0.1
                assert float((found - expected).norm()) < rounding * float(expected.norm())
                text.append(int(found.argmax()))


def test_a_changed_model_writes_by_itself_until_its_decoder_follows(whole: tuple[Recorder, Path]) -> None:
    model = load_model(read_model(whole[1] / LAST), device="cpu", dtype=torch.float32)
    assert isinstance(model, MoEGPT)
    with torch.no_grad():
        model.blocks[0].moe.down.mul_(50)  # after twelve steps experts say little
    assert isinstance(decoder_for(model), MoEDecoder)
    model.blocks[0].moe.experts_per_token = 1
    decoder = decoder_for(model)
    assert isinstance(decoder, UncachedDecoder)
    assert "moe_decoder.py does not compute what models/moe.py computes" in decoder.why


def test_a_checkpoint_is_measured_as_the_run_was(whole: tuple[Recorder, Path], home: Path) -> None:
    seen, checkpoints = whole
    examinee = open_examinee(checkpoints / LAST, torch.device("cpu"))
    assert measure_held_out(examinee, home).val_bpb == seen.of(Evaluated)[-1].val_bpb


def test_hellaswag_and_a_text_are_asked_of_the_model_in_training_as_of_its_checkpoint(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without a compiler: the kernel of the first family's loss is none that this one would miss."""
    monkeypatch.setattr(loss, "_kernel", None)
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", os.devnull)
    (hellaswag,) = [task for task in CORE_TASKS if task.name == HELLASWAG]
    file = home / "data" / "core" / hellaswag.file
    file.parent.mkdir(parents=True, exist_ok=True)
    example = {"query": "Ann has 3 pears, so she", "choices": ["eats.", "rains.", "is red.", "is two."]}
    file.write_text("".join(json.dumps(example | {"gold": i % 4}) + "\n" for i in range(12)))
    text: dict[str, Any] = {"prompt": "Once", "max_tokens": 8, "temperature": 0.0}
    seen = Recorder({5: [Command("live", "sample", text)]})
    spec = tiny_moe_spec(
        "train.num_iterations=6", "eval.core_every=3", f"eval.core_tasks=['{HELLASWAG}']", "sample.every=off"
    )
    finished, _ = run_tiny(spec, home, seen, tmp_path)
    assert finished.reason == "completed"
    assert not [e.text for e in seen.of(Notice) if "kernel" in e.text or e.level == "error"]
    told = seen.of(CoreTaskScored)
    assert [(e.step, e.task, e.examples) for e in told] == [(3, HELLASWAG, 12), (6, HELLASWAG, 12)]

    checkpoints = tmp_path / "checkpoints"
    session = load_session(checkpoints / "step-00000005")
    batch = Batch(session.decoder, session.tokenizer, rows=1)
    (live,) = seen.of(Sampled)
    assert live.text == "".join(piece.text for piece in write(batch, Generation(**text)))
    examinee = open_examinee(checkpoints / "step-00000006", torch.device("cpu"))
    afterwards: list[CoreTaskScored] = []
    measure_core(examinee, spec.eval, home, afterwards.append)
    assert [e.accuracy for e in afterwards] == [told[-1].accuracy]


@pytest.mark.parametrize(
    "overrides",
    [
        ["runtime.precision=bf16", "runtime.activation_checkpointing=block"],
        ["data.document_mask=true", "moe.experts_per_token=1"],
        ["train.micro_batch_size=auto", "train.grad_clip_norm=1.0", "moe.experts=8"],
    ],
)
def test_it_trains_in_every_way_that_the_other_families_do(
    overrides: list[str], home: Path, tmp_path: Path
) -> None:
    seen = Recorder()
    finished, _ = run_tiny(tiny_moe_spec(*overrides), home, seen, tmp_path)
    assert finished.reason == "completed"
    assert (seen.losses[12] or 9) < (seen.losses[1] or 0) - 0.5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_train_what_one_trains_also_when_experts_stay_without_tokens(
    home: Path, tmp_path: Path
) -> None:
    """Sixteen experts for a token each: on a rank with rows of 32 tokens some have none, and DDP waits for all gradients.

    The balance loss is that of a micro-batch, so both take them of one row.
    """
    few = ("moe.experts=16", "moe.experts_per_token=1", "train.micro_batch_size=1")
    sizes = ("train.global_batch_tokens=64", "train.num_iterations=6")
    alone, together = tmp_path / "alone", tmp_path / "together"
    together.mkdir()
    seen = Recorder()
    run_tiny(tiny_moe_spec(*few, *sizes), home, seen, alone)
    words = [sys.executable, "-m", "tests.engine.moe_ranks", str(home), str(together), *few, *sizes]
    in_parallel(words, world_size=2)
    first, second = (load_file(together / f"replica-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, tensor in load_file(alone / "checkpoints" / "step-00000006" / "model.safetensors").items():
        assert torch.dist(first[name], tensor) < 1e-3 * tensor.norm(), name
    told = json.loads((together / "use-0.json").read_text())
    expected = seen.of(ExpertsUsed)
    assert [e["step"] for e in told] == [e.step for e in expected]
    assert told[0]["idlest_share"] == expected[0].idlest_share < 0.03
    assert told[-1]["balance_loss"] == pytest.approx(expected[-1].balance_loss, rel=0.01)
    # of both ranks' tokens, not of one's twice: that differs by a fortieth
    apart = torch.tensor(told[-1]["shares"]) - torch.tensor(expected[-1].shares)
    assert float(apart.abs().max()) < 0.005
