"""A new run that begins where another one was: what it may change, and that it goes on as the other did."""

import pytest

from cli.fork import check_fork
from cli.references import find_checkpoint
from tests.cli.conftest import Llmctl, add_checkpoint, completed_run
from tests.e2e.conftest import Runs, runs
from tests.supervisor.conftest import state_is, watch
from tests.tiny import TINY
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import Evaluated, Forked, TrainStep
from trainer_daemon.contract.journal import read_all
from trainer_daemon.contract.rundir import RunDir, find_run
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.contract.status import observe
from trainer_daemon.engine.checkpoint.store import sha256_of

__all__ = ["runs"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.depth=3", "keeps the shapes"),
        ("model.aspect_ratio=32", "keeps the shapes"),
        ("tokenizer.vocab_size=500", "keeps the shapes"),
        ("tokenizer.train_bytes=5000", "keeps its tokenizer"),
        ("runtime.precision=bf16", "runtime.precision"),
        ("train.num_iterations=10", "train.num_iterations=20"),
    ],
)
def test_what_a_checkpoint_cannot_follow_is_refused(llmctl: Llmctl, override: str, told: str) -> None:
    add_checkpoint(completed_run(), 10)
    before = build_spec(TINY)
    with pytest.raises(SpecError, match=told):
        check_fork(before, build_spec(TINY, [override]), find_checkpoint("done@10")[1])


@pytest.mark.parametrize(
    "override", ["model.sequence_len=64", "optim.matrix_lr=0.01", "train.global_batch_tokens=512", "seed=7"]
)
def test_what_only_decides_how_it_goes_on_may_change(llmctl: Llmctl, override: str) -> None:
    add_checkpoint(completed_run(), 10)
    check_fork(build_spec(TINY), build_spec(TINY, [override]), find_checkpoint("done@10")[1])


def test_a_damaged_checkpoint_is_not_forked(llmctl: Llmctl) -> None:
    path = add_checkpoint(completed_run(), 2)
    (path / "model.safetensors").write_bytes(b"damaged __")
    refused = llmctl("fork", "done@2", "--detach")
    assert refused.code == 6
    assert "model.safetensors" in refused.err
    assert not (find_run("done").path.parent / "done-2").exists()


def final_hashes(run: RunDir) -> list[str]:
    last = max(run.checkpoints.glob("step-*"))
    return [
        sha256_of(last / name) for name in ("model.safetensors", "optimizer.safetensors", "training.json")
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_fork_without_changes_ends_as_the_other_run_did_and_one_with_changes_does_not(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    from cli.main import main

    origin = runs.train("origin")
    watch(origin, state_is("completed"), 120)
    assert main(["fork", "origin@5", "--detach", "--name", "same"]) == 0
    assert main(["fork", "origin@5", "--detach", "--set", "optim.matrix_lr=0.01"]) == 0
    same, other = find_run("same"), find_run("origin-2")
    for run in (same, other):
        records = watch(run, state_is("completed", "failed"), 120)
        steps = [r.event.step for r in records if isinstance(r.event, TrainStep)]
        assert steps == list(range(6, 13))
        (forked,) = [r.event for r in records if isinstance(r.event, Forked)]
        manifest = sha256_of(origin.checkpoints / "step-00000005" / "MANIFEST.json")
        assert forked == Forked("origin", 5, manifest)
        assert observe(run).forked_from == "origin@5"
    assert final_hashes(same) == final_hashes(origin)
    assert final_hashes(other) != final_hashes(origin)
    scores = [
        [r.event.val_bpb for r in read_all(run.journal) if isinstance(r.event, Evaluated)][-1]
        for run in (origin, same)
    ]
    assert scores[0] == scores[1]
