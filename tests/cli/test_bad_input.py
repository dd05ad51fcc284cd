"""What cannot be is refused by the name of its key, by the command that would start it, before torch is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import contextlib, io, json, sys
from cli.main import main
told = []
for override in json.load(sys.stdin):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(["run", "--preset", "d4", "--dry-run", "--set=runtime.nproc=1", f"--set={override}"])
    told.append({"code": code, "err": err.getvalue(), "torch": "torch" in sys.modules})
print(json.dumps(told))
"""

REFUSED = [
    # out of range, or not of its kind
    "model.depth=0",
    "model.depth=-4",
    "model.depth=2.5",
    "model.depth=deep",
    "model.aspect_ratio=0",
    "model.head_dim=33",
    "model.head_dim=0",
    "model.n_kv_head=0",
    "model.sequence_len=1",
    "model.window_pattern=SXL",
    "model.window_pattern=''",
    "model.window_pattern=ssl",
    "model.short_window_fraction=0",
    "model.short_window_fraction=1.5",
    "optim.embedding_lr=-0.1",
    "optim.unembedding_lr=0",
    "optim.matrix_lr=-5",
    "optim.matrix_lr=nan",
    "optim.scalar_lr=inf",
    "optim.weight_decay=-0.1",
    "schedule.warmup_steps=-1",
    "schedule.warmdown_ratio=1.5",
    "schedule.warmdown_ratio=-0.1",
    "schedule.final_lr_frac=2",
    "schedule.weight_decay=constant",
    "train.num_iterations=0",
    "train.num_iterations=-1",
    "train.target_flops=-1.0",
    "train.target_param_data_ratio=0",
    "train.micro_batch_size=0",
    "train.global_batch_tokens=-1",
    "train.grad_clip_norm=0",
    "eval.every=0",
    "eval.every=-1",
    "eval.every=sometimes",
    "eval.every_minutes=0",
    "eval.every_minutes=-5",
    "eval.tokens=0",
    "sample.every=0",
    "sample.every_minutes=inf",
    "sample.max_tokens=0",
    "sample.temperature=-1",
    "sample.top_k=0",
    "checkpoint.every=0",
    "checkpoint.every_minutes=nan",
    "checkpoint.keep_last=1",
    "runtime.nproc=0",
    "runtime.device=tpu",
    "runtime.precision=int8",
    "runtime.fp8_recipe=blockwise",
    "runtime.compile=fast",
    "runtime.threads_per_rank=0",
    "tokenizer.vocab_size=100",
    "tag='two words'",
    "seed=-1",
    # each in its range, and impossible with the others
    "model.n_kv_head=3",  # of 2 heads
    "train.global_batch_tokens=100000",  # no multiple of the rows of a batch
    "train.target_flops=1.0",  # not one step
    "train.target_param_data_ratio=0.001",
    "eval.tokens=100",  # less than one batch
    "eval.tokens=65535",
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All of them in one process: what one refusal imports, the next would show."""
    home: Path = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(REFUSED),
        capture_output=True,
        text=True,
        env=os.environ | {"LLMCTL_HOME": str(home)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(REFUSED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("override", REFUSED)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_key(
    answers: dict[str, Any], override: str
) -> None:
    key = override.partition("=")[0]
    answer = answers[override]
    assert answer["code"] == 2, answer
    assert key in answer["err"]
    assert len(answer["err"].strip().splitlines()) == 1
    assert not answer["torch"]


def test_the_last_value_that_can_be_is_taken(tmp_path: Path) -> None:
    """The negative control: d4's batch on a CPU is 32 rows of 2048 tokens."""
    taken = [
        "eval.tokens=65536",
        "schedule.warmdown_ratio=1",
        "model.short_window_fraction=1",
        "eval.every=off",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(taken),
        capture_output=True,
        text=True,
        env=os.environ | {"LLMCTL_HOME": str(tmp_path)},
        check=False,
    )
    assert [answer["code"] for answer in json.loads(done.stdout)] == [0] * len(taken)
