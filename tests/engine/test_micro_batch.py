"""The most rows that fit: decided before training, the same on all ranks, and without a trace in what is trained."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.parallel import in_parallel
from tests.tiny import ALONE, Recorder, build_tiny, run_tiny, tiny_spec
from trainer_daemon.contract.errors import RunFailedError, SpecError
from trainer_daemon.contract.estimate import rank_memory
from trainer_daemon.contract.events import Command, Notice, RunPlanned
from trainer_daemon.contract.scaling import TrainingPlan, training_plan
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.engine.loop import train
from trainer_daemon.engine.micro_batch import choose_micro_batch, out_of_memory_told, try_out
from trainer_daemon.engine.network import Network, build_network
from trainer_daemon.engine.ranks import Ranks

AUTO = "train.micro_batch_size=auto"
PLENTY = 1 << 50


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One corpus for the whole module."""
    return tmp_path_factory.mktemp("home")


def build_for(spec: RunSpec) -> Callable[[TrainingPlan], Network]:
    return lambda plan: build_network(spec, plan, "fp32", ALONE, lambda _: None)


def give_memory_for(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer on which half of the memory is just enough for so many rows."""
    plan = training_plan(tiny_spec(AUTO), 300, 1).in_portions_of(rows)
    enough = 2 * rank_memory(plan, "fp32", on_cpu=True).total + 2
    monkeypatch.setattr("trainer_daemon.engine.memory.computer_memory_bytes", lambda: enough)


def rows_and_notice(seen: Recorder) -> tuple[int | None, list[str]]:
    return seen.of(RunPlanned)[-1].micro_batch_size, [
        e.text for e in seen.of(Notice) if e.text.startswith("micro-batch")
    ]


def test_on_a_cpu_the_estimate_decides_says_so_and_keeps_the_global_batch(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_memory_for(4, monkeypatch)
    chosen, asked = Recorder(), Recorder()
    run_tiny(tiny_spec(AUTO), home, chosen, tmp_path / "auto")
    run_tiny(tiny_spec("train.micro_batch_size=4"), home, asked, tmp_path / "asked")
    rows, (notice,) = rows_and_notice(chosen)
    assert rows == 4
    assert "micro-batch: 4 rows, 2 a step" in notice
    assert "estimated" in notice
    assert chosen.losses == asked.losses


def test_a_resumed_run_keeps_its_rows_whatever_fits_by_then(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other portions round sums otherwise: the resumed run would not be the uninterrupted one."""
    give_memory_for(2, monkeypatch)
    run_tiny(tiny_spec(AUTO), home, Recorder({3: [Command("r1", "stop", {})]}), tmp_path)
    give_memory_for(8, monkeypatch)
    resumed = Recorder()
    build_tiny(tiny_spec(AUTO), home, resumed, tmp_path)
    assert rows_and_notice(resumed) == (2, [])


def test_a_model_of_which_no_row_fits_is_refused_with_what_to_change(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_daemon.engine.memory.computer_memory_bytes", lambda: 1 << 16)
    with pytest.raises(
        SpecError, match=r"train.micro_batch_size: not even one row .*activation_checkpointing"
    ):
        build_tiny(tiny_spec(AUTO), home, Recorder(), tmp_path)


def test_a_trial_leaves_no_trace_in_the_training_that_follows(home: Path, tmp_path: Path) -> None:
    untried, tried = Recorder(), Recorder()
    spec = tiny_spec()
    torch.manual_seed(7)
    _, expected = run_tiny(spec, home, untried, tmp_path / "untried")

    torch.manual_seed(7)
    before = torch.get_rng_state()
    auto = tiny_spec(AUTO)
    choice = try_out(training_plan(auto, 300, 1), PLENTY, ALONE, build_for(auto))
    assert torch.equal(torch.get_rng_state(), before)
    assert choice is not None
    assert choice.plan.micro_batch_size == 8  # the whole share
    job = build_tiny(spec, home, tried, tmp_path / "tried")
    train(job)
    assert tried.losses == untried.losses
    for (name, a), b in zip(
        expected.model.state_dict().items(), job.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    states = zip(
        expected.optimizer.state_tensors().items(), job.optimizer.state_tensors().values(), strict=True
    )
    assert all(torch.equal(a, b) for (_, a), b in states)


def test_a_trial_halves_the_rows_until_they_fit_and_knows_when_none_do() -> None:
    spec = tiny_spec(AUTO)
    plan = training_plan(spec, 300, 1)
    assert (
        try_out(plan, 0, ALONE, build_for(spec)) is None
    )  # however few rows, no memory at all is too little
    halved = try_out(plan.in_portions_of(4), PLENTY, ALONE, build_for(spec))
    assert halved is not None
    assert (halved.plan.micro_batch_size, halved.plan.grad_accum_steps) == (4, 2)


@pytest.mark.slow
def test_ranks_agree_when_one_of_them_runs_out_of_memory_in_backward(tmp_path: Path) -> None:
    """Composer's deadlock: the others wait in DDP's reduce for a rank that has fallen out of it."""
    in_parallel([sys.executable, "-m", "tests.engine.scarce_rank", str(tmp_path)], world_size=2)
    assert [(tmp_path / f"decided-{rank}").read_text() for rank in range(2)] == ["2 x 4", "2 x 4"]


def test_running_out_of_memory_later_ends_the_run_with_what_to_set() -> None:
    plan = training_plan(tiny_spec(), 300, 1)
    with pytest.raises(RunFailedError) as told, out_of_memory_told(ALONE, plan):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert "rank 0 ran out of memory with 4 rows of 32 tokens" in str(told.value)
    assert "--set train.micro_batch_size=2 or auto" in str(told.value)
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_told(ALONE, plan):
        torch.empty(2, 3) @ torch.empty(2, 3)  # another error stays what it is


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_most_rows_that_fit_are_found_by_trial() -> None:
    """d12 with 2^19 tokens a step does not fit in one portion into any GPU of today."""
    ranks = Ranks(0, 1, torch.device("cuda", 0))
    spec = tiny_spec(
        "runtime.device=cuda",
        "runtime.precision=bf16",
        "model.depth=12",
        "model.aspect_ratio=64",
        "model.head_dim=128",
        "model.sequence_len=2048",
        "train.global_batch_tokens=524288",
        AUTO,
    )
    plan = training_plan(spec, 32768, 1)

    def build(trial: TrainingPlan) -> Network:
        return build_network(spec, trial, "bf16", ranks, lambda _: None)

    choice = choose_micro_batch(plan, "bf16", "off", ranks, build)
    assert choice.plan.micro_batch_size < 256
    assert choice.plan.rows_per_rank == 256
    assert torch.cuda.memory_allocated() < 1 << 28  # the network of the trial is gone
