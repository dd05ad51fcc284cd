"""What is exact about several ranks: a resume to the bit, the data when their number changes, and a step that one of them
spoils."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.poisoned_rank import NAN_GRADIENT_STEP, NAN_LOSS_STEP
from tests.engine.resumed_ranks import STOP_STEP
from tests.parallel import in_parallel
from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.contract.events import Resumed, TrainStep


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_one_rank_spoils_is_left_out_by_all_and_no_parameter_is_touched_by_it(tmp_path: Path) -> None:
    in_parallel([sys.executable, "-m", "tests.engine.poisoned_rank", str(tmp_path)], world_size=2)
    told = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    for rank in told:
        assert rank["reason"] == "completed"
        assert rank["updates"] == 8 - 2
        assert rank["evaluated"] == list(range(9)), "the main rank's clock counts, and no other"
        is_finite = [
            math.isfinite(a) and math.isfinite(b)
            for a, b in zip(rank["losses"], rank["grad_norms"], strict=True)
        ]
        assert [step for step, ok in enumerate(is_finite, 1) if not ok] == [NAN_LOSS_STEP, NAN_GRADIENT_STEP]
    first, second = (load_file(tmp_path / f"replica-{rank}.safetensors") for rank in (0, 1))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in first.values())
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def runs_of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("two")
    in_parallel([sys.executable, "-m", "tests.engine.resumed_ranks", str(home)], world_size=2)
    return home


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_ranks_that_were_stopped_end_with_the_bits_of_two_that_were_not(
    runs_of_two_ranks: Path, precision: str
) -> None:
    folder = runs_of_two_ranks / precision
    whole, first, second = (dict(losses) for losses in json.loads((folder / "losses.json").read_text()))
    assert sorted(first) == list(range(1, STOP_STEP + 1))
    assert first | second == whole
    for file in ("model.safetensors", "optimizer.safetensors", "training.json"):
        last = f"checkpoints/step-00000006/{file}"
        assert (folder / "whole" / last).read_bytes() == (folder / "parts" / last).read_bytes(), file


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_rank_goes_on_with_the_very_rows_that_two_would_have_drawn(
    runs_of_two_ranks: Path, precision: str
) -> None:
    folder, alone = runs_of_two_ranks / precision, Recorder()
    spec = tiny_spec("train.num_iterations=6", f"runtime.precision={precision}")
    run_tiny(spec, runs_of_two_ranks, alone, folder / "stopped")
    assert [e.step for e in alone.of(Resumed)] == [STOP_STEP]
    whole = dict(json.loads((folder / "losses.json").read_text())[0])
    rounding = 1e-5 if precision == "fp32" else 1e-2
    for step in alone.of(TrainStep):
        assert step.loss_nats == pytest.approx(whole[step.step], rel=rounding)
        assert step.tokens == step.step * 256
