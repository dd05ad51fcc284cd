"""What a run computes in: the choice, and fp16 with its loss scale, alone and on several ranks."""

import json
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from presets.loader import preset_tables
from tests.parallel import in_parallel
from tests.tiny import Recorder, build_tiny, run_tiny, tiny_spec
from trainer_daemon.contract.events import AttemptStarted, Command, Notice, TrainStep
from trainer_daemon.contract.hardware import DETERMINISTIC_ENVIRONMENT
from trainer_daemon.contract.scaling import model_shape
from trainer_daemon.contract.spec import RuntimeSpec, build_spec
from trainer_daemon.engine.loop import train
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.network import compile_mode
from trainer_daemon.engine.optim.gradients import LossScale
from trainer_daemon.engine.precision import choose_precision
from trainer_daemon.engine.ranks import join_ranks


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One corpus for the whole module."""
    return tmp_path_factory.mktemp("home")


FP16 = ("runtime.precision=fp16", "checkpoint.every=none")


def test_what_is_asked_for_is_taken() -> None:
    cpu = torch.device("cpu")
    assert choose_precision(RuntimeSpec(precision="fp16"), cpu) == "fp16"
    assert choose_precision(RuntimeSpec(), cpu) in ("fp32", "bf16")


def test_fp16_follows_fp32_and_keeps_its_tables_in_fp32(home: Path, tmp_path: Path) -> None:
    # small rates, so that rounding has no time to grow
    rates = ("optim.embedding_lr=0.3", "optim.matrix_lr=0.02", "optim.scalar_lr=0.005")
    single, half = Recorder(), Recorder()
    run_tiny(tiny_spec(*rates), home, single, tmp_path / "fp32")
    _, job = run_tiny(tiny_spec(*FP16, *rates), home, half, tmp_path / "fp16")
    assert half.losses != single.losses
    for step, loss in single.losses.items():
        assert half.losses[step] == pytest.approx(loss, rel=2e-3)
    assert {p.dtype for p in job.model.parameters()} == {torch.float32}


def test_an_overflow_skips_the_step_lowers_the_scale_and_ends_nothing(home: Path, tmp_path: Path) -> None:
    """Eight overflows in a row would end a run three times over, were they taken for a loss that is not finite."""
    seen = Recorder()
    job = build_tiny(tiny_spec(*FP16), home, seen, tmp_path)
    job.gradients.loss_scale = LossScale(2.0**34)
    finished = train(job)
    assert finished.reason == "completed"
    skipped = [
        e.step for e in seen.of(TrainStep) if e.grad_norm == float("inf") or e.grad_norm != e.grad_norm
    ]
    assert len(skipped) >= 8
    assert skipped == list(range(1, len(skipped) + 1))
    assert job.gradients.loss_scale == LossScale(2.0 ** (34 - len(skipped)), 12 - len(skipped))
    assert job.optimizer.steps_taken == 12 - len(skipped)
    assert len([e for e in seen.of(Notice) if "overflowed fp16" in e.text]) == len(skipped)


def test_a_resumed_fp16_run_repeats_the_uninterrupted_one_bit_for_bit(home: Path, tmp_path: Path) -> None:
    """The scale is part of the state: stopped among overflows, it goes on falling from where it was."""

    def start(folder: str, seen: Recorder) -> None:
        job = build_tiny(tiny_spec(*FP16), home, seen, tmp_path / folder)
        if not job.progress.step:
            job.gradients.loss_scale = LossScale(2.0**30)
        train(job)

    whole, first, second = Recorder(), Recorder({3: [Command("r1", "stop", {})]}), Recorder()
    start("whole", whole)
    start("parts", first)
    start("parts", second)
    assert first.losses | second.losses == whole.losses
    last = "checkpoints/step-00000012"
    for name in ("model.safetensors", "optimizer.safetensors"):
        a, b = load_file(tmp_path / "whole" / last / name), load_file(tmp_path / "parts" / last / name)
        assert all(torch.equal(a[key], b[key]) for key in a)
    told = [json.loads((tmp_path / run / last / "training.json").read_text()) for run in ("whole", "parts")]
    assert told[0]["loss_scale"] == told[1]["loss_scale"]
    assert told[0]["loss_scale"]["value"] < 2.0**30


@pytest.mark.slow
def test_an_overflow_on_one_rank_skips_the_step_on_all(home: Path, tmp_path: Path) -> None:
    in_parallel(
        [sys.executable, "-m", "tests.engine.overflowing_rank", str(home), str(tmp_path)], world_size=2
    )
    told = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in range(2)]
    assert told == [{"scale": 2.0**15, "updates": 4}] * 2
    first, second = (load_file(tmp_path / f"replica-{rank}.safetensors") for rank in range(2))
    assert all(bool(torch.isfinite(first[name]).all()) for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("asked", "on_cpu", "on_cuda"),
    [("auto", None, "default"), ("off", None, None), ("max-autotune", "max-autotune", "max-autotune")],
)
def test_a_model_is_compiled_where_that_helps_or_where_a_mode_is_named(
    asked: str, on_cpu: str | None, on_cuda: str | None
) -> None:
    runtime = RuntimeSpec.model_validate({"compile": asked})
    assert compile_mode(runtime, torch.device("cpu")) == on_cpu
    assert compile_mode(runtime, torch.device("cuda")) == on_cuda


@pytest.mark.slow
@pytest.mark.parametrize("document_start", [None, 5], ids=["documents together", "documents apart"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_step_of_a_preset_is_one_graph_with_the_same_gradients_and_no_warning(
    dtype: torch.dtype, document_start: int | None
) -> None:
    """Tracing is what finds a break or a reason to warn, so no code is generated here.

    Masks were once kept in a cache that the compiler saw through and warned of, and in bf16 each layer's attention
    broke the graph.
    """
    d4 = build_spec(preset_tables("d4"), ["model.depth=2", "model.head_dim=32", "model.sequence_len=300"])
    shape = model_shape(d4.model, vocab_size=128)
    assert shape.windows == (128, 300)
    inputs, targets = torch.randint(128, (2, 2, 300), generator=torch.Generator().manual_seed(0))
    gradients = []
    for is_compiled in (False, True):
        model = GPT(shape, compute_dtype=dtype, attention="blocked", document_start=document_start)
        model.init_weights(0)
        for block in model.blocks:  # otherwise they are the identity, and attention has no gradient
            torch.nn.init.eye_(block.attn.c_proj.weight)
        step = torch.compile(model, backend="aot_eager", fullgraph=True) if is_compiled else model
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
            step(inputs, targets).backward()
        weights = [block.attn.c_q.weight for block in model.blocks]
        gradients.append(torch.cat([w.grad for w in weights if w.grad is not None]))
    eager, compiled = gradients
    assert (compiled - eager).norm() < 0.02 * eager.norm()


def test_a_deterministic_run_asks_torch_and_its_libraries_for_it_and_says_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in DETERMINISTIC_ENVIRONMENT:
        monkeypatch.setenv(key, "something else")
    seen = Recorder()
    spec = tiny_spec("runtime.deterministic=true", "train.num_iterations=2")
    try:
        ranks = join_ranks(spec.runtime)
        finished, _ = run_tiny(spec, home, seen, tmp_path, ranks)
        assert {key: os.environ[key] for key in DETERMINISTIC_ENVIRONMENT} == DETERMINISTIC_ENVIRONMENT
    finally:
        torch.use_deterministic_algorithms(False)
    assert finished.reason == "completed"
    assert [e.deterministic for e in seen.of(AttemptStarted)] == [True]
    assert not join_ranks(RuntimeSpec(device="cpu", threads_per_rank=1)).world_size > 1
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_deterministic_run_on_a_gpu_repeats_itself_bit_for_bit(
    home: Path, tmp_path: Path, precision: str
) -> None:
    settings = ("runtime.device=cuda", "runtime.deterministic=true", "runtime.compile=off")
    spec = tiny_spec(*settings, f"runtime.precision={precision}", "checkpoint.every=none")
    first, second = Recorder(), Recorder()
    try:
        ranks = join_ranks(spec.runtime)
        finished, job = run_tiny(spec, home, first, tmp_path / "first", ranks)
        _, again = run_tiny(spec, home, second, tmp_path / "second", ranks)
    finally:
        torch.use_deterministic_algorithms(False)
    assert finished.reason == "completed"
    assert first.losses == second.losses
    for a, b in zip(job.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
