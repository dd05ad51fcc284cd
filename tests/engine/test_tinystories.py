"""The preset `tinystories` on stories of others, from their text to a sample; a narrower model, everything else as it is."""

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
def test_tinystories_goes_from_text_to_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TEST_DATA / "tiktoken_cache"))
    shutil.copytree(TEST_DATA / "raw" / "tinystories", tmp_path / "data" / "tinystories")
    few = ["num_iterations=4", "micro_batch_size=2", "global_batch_tokens=512"]
    short = [*(f"train.{x}" for x in few), "eval.tokens=512", "sample.max_tokens=5", "runtime.device=cpu"]
    narrow = [
        "model.aspect_ratio=16",
        "model.head_dim=32",
    ]  # the tables of 50,257 ids are most of a model this small
    spec = build_spec(preset_tables("tinystories"), [*short, *narrow, "runtime.threads_per_rank=1"])
    seen = Recorder()
    finished, job = run_tiny(spec, tmp_path, seen, tmp_path)
    assert finished.reason == "completed"
    held_out = job.tokenizer.decode(job.held_out_rows.row(0).tolist())
    assert held_out in (tmp_path / "data" / "tinystories" / "val_794k.txt").read_text().replace(
        "\n<|endoftext|>\n", ""
    )
    losses = [loss for loss in seen.losses.values() if loss is not None]
    assert losses[-1] < losses[0]
    assert [e.prompt for e in seen.of(Sampled)] == list(spec.sample.prompts)
