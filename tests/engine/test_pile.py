"""The preset `pile-406m` on HDF5 as the original writes it, to a sample; a small model, everything else as it is."""

import shutil
from pathlib import Path

import pytest

from presets.loader import preset_tables
from tests.engine.data.conftest import TEST_DATA, needs_tables, needs_test_data
from tests.tiny import Recorder, run_tiny
from trainer_daemon.contract.events import Sampled
from trainer_daemon.contract.spec import build_spec


@needs_test_data
@needs_tables
@pytest.mark.slow
def test_the_pile_goes_from_hdf5_to_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TEST_DATA / "tiktoken_cache"))
    (tmp_path / "data" / "pile").mkdir(parents=True)
    for name in ("pile_train.h5", "pile_dev.h5"):
        shutil.copy(TEST_DATA / "fixtures" / name, tmp_path / "data" / "pile")
    small = ["model.depth=2", "model.aspect_ratio=16", "model.head_dim=16", "model.sequence_len=128"]
    few = ["num_iterations=6", "micro_batch_size=2", "global_batch_tokens=512"]
    short = [
        *(f"train.{x}" for x in few),
        "schedule.warmup_steps=1",
        "eval.tokens=512",
        "sample.max_tokens=5",
    ]
    spec = build_spec(
        preset_tables("pile-406m"), [*small, *short, "runtime.device=cpu", "runtime.threads_per_rank=1"]
    )
    seen = Recorder()
    finished, job = run_tiny(spec, tmp_path, seen, tmp_path)
    assert finished.reason == "completed"
    assert job.model.shape.padded_vocab_size == 50_304
    assert job.batches.epoch(0) == 0
    text = job.tokenizer.decode([i for i in job.held_out_rows.row(0).tolist() if i != job.tokenizer.bos_id])
    assert " the " in text
    losses = [loss for loss in seen.losses.values() if loss is not None]
    assert losses[-1] < losses[0]
    assert [e.prompt for e in seen.of(Sampled)] == list(spec.sample.prompts)
