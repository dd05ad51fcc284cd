"""Naming, listing and checking what is on disk."""

import os
from pathlib import Path

import pytest

from cli.references import find_checkpoint, split_reference
from tests.cli.conftest import Llmctl, add_checkpoint, completed_run, failed_run
from trainer_daemon.contract.errors import NotFoundError, SpecError
from trainer_daemon.contract.rundir import DOOMED, Origin, RunDir, all_runs, create_run, hold_lock


@pytest.fixture
def run(home: Path) -> RunDir:
    made = completed_run()
    for step, bpb in ((10, 0.9), (20, 0.5), (30, None)):
        add_checkpoint(made, step, bpb)
    return made


def test_the_list_has_every_promised_field(llmctl: Llmctl, run: RunDir) -> None:
    listed = llmctl("checkpoints", "done", "--json").json()
    assert set(listed[0]) == {
        "step",
        "path",
        "bytes",
        "val_bpb",
        "loss_nats",
        "saved_at",
        "pinned",
        "best",
        "verified",
    }
    assert [(c["step"], c["val_bpb"], c["best"]) for c in listed] == [
        (10, 0.9, False),
        (20, 0.5, True),
        (30, None, False),
    ]
    assert all(Path(c["path"]).is_dir() for c in listed)
    assert llmctl("checkpoints", "done").out.splitlines()[2].split()[0] == "20"


@pytest.mark.parametrize(
    ("reference", "step"),
    [
        ("done", 30),
        ("done@last", 30),
        ("done@best", 20),
        ("done@10", 10),
        ("do@10", 10),
        ("@last", 30),
        ("@last@10", 10),
    ],
)
def test_a_checkpoint_has_many_names(run: RunDir, reference: str, step: int) -> None:
    found, info = find_checkpoint(reference)
    assert (found, info.step) == (run, step)


def test_a_checkpoint_is_also_its_folder(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.checkpoints)
    assert find_checkpoint("./step-00000010")[1].step == 10
    assert find_checkpoint(str(run.checkpoints / "step-00000020"))[1].best
    with pytest.raises(NotFoundError, match="not a checkpoint folder"):
        find_checkpoint(str(run.path))


def test_an_unknown_step_is_answered_with_the_nearest(run: RunDir) -> None:
    with pytest.raises(NotFoundError, match="the nearest is done@20, there are: 10, 20, 30"):
        find_checkpoint("done@23")


@pytest.mark.parametrize("reference", ["done@", "done@-1", "done@1e1", "done@²", "done@newest"])
def test_what_is_no_step_is_refused(run: RunDir, reference: str) -> None:
    with pytest.raises(SpecError, match="a step, last or best"):
        find_checkpoint(reference)


def test_best_needs_an_evaluation(home: Path) -> None:
    add_checkpoint(completed_run("unscored"), 5)
    with pytest.raises(NotFoundError, match="use unscored@5"):
        find_checkpoint("unscored@best")


def test_the_run_is_what_stands_before_the_last_at_sign() -> None:
    assert split_reference("a@5") == ("a", "5")
    assert split_reference("@last") == ("@last", None)
    assert split_reference("@last@best") == ("@last", "best")
    assert split_reference("a") == ("a", None)


def test_verify_holds_for_what_was_written(llmctl: Llmctl, run: RunDir) -> None:
    verified = llmctl("verify", "done", "--json")
    assert verified.code == 0
    assert verified.json()["ok"] is True
    assert [f["path"] for f in verified.json()["files"]] == [
        f"step-000000{step}/model.safetensors" for step in (10, 20, 30)
    ]
    assert len(llmctl("verify", "done@10", "--json").json()["files"]) == 1


def test_one_changed_byte_is_found_and_named(llmctl: Llmctl, run: RunDir) -> None:
    (run.checkpoints / "step-00000020" / "model.safetensors").write_bytes(b"weights 2O")
    broken = llmctl("verify", "done", "--json")
    assert broken.code == 4
    assert broken.json()["ok"] is False
    (bad,) = [f for f in broken.json()["files"] if not f["ok"]]
    assert bad["path"] == "step-00000020/model.safetensors"
    assert bad["expected"] != bad["actual"]
    assert "step-00000020/model.safetensors" in broken.err
    assert llmctl("verify", "done@10").code == 0


def test_a_missing_file_and_a_damaged_manifest_are_found(llmctl: Llmctl, run: RunDir) -> None:
    (run.checkpoints / "step-00000010" / "model.safetensors").unlink()
    assert "MISSING step-00000010/model.safetensors" in llmctl("verify", "done").out
    (run.checkpoints / "step-00000030" / "MANIFEST.json").write_text("{")
    damaged = llmctl("verify", "done")
    assert damaged.code == 4
    assert "DAMAGED step-00000030/MANIFEST.json" in damaged.out


def test_there_is_nothing_to_verify_in_a_run_without_checkpoints(llmctl: Llmctl) -> None:
    completed_run()
    assert llmctl("verify", "done").code == 3
    assert llmctl("checkpoints", "done", "--json").json() == []


def test_a_pinned_checkpoint_is_listed_as_such_until_it_is_unpinned(llmctl: Llmctl, run: RunDir) -> None:
    assert llmctl("pin", "done@10").code == 0
    assert [c["pinned"] for c in llmctl("checkpoints", "done", "--json").json()] == [True, False, False]
    assert "pinned" in llmctl("checkpoints", "done").out
    assert llmctl("unpin", "done@10").code == 0
    assert not any(c["pinned"] for c in llmctl("checkpoints", "done", "--json").json())
    assert llmctl("pin", "done@15").code == 3


def test_prune_shows_what_would_go_and_deletes_it_when_told_to(llmctl: Llmctl, run: RunDir) -> None:
    """Kept are the newest two, the best (20) and the pinned (40)."""
    for step in (40, 50, 60, 70):
        add_checkpoint(run, step, 0.9)
    llmctl("pin", "done@40")
    asked = llmctl("prune", "done")
    assert asked.code == 6
    assert "--yes" in asked.err
    assert [line.split()[0] for line in asked.out.splitlines()[1:]] == ["10", "30", "50"]
    assert len(llmctl("checkpoints", "done", "--json").json()) == 7
    assert llmctl("prune", "done", "--yes").code == 0
    assert [c["step"] for c in llmctl("checkpoints", "done", "--json").json()] == [20, 40, 60, 70]
    nothing = llmctl("prune", "done", "--yes")
    assert (nothing.code, nothing.out) == (0, "")


def test_prune_never_deletes_the_newest_two_that_hold(llmctl: Llmctl, run: RunDir) -> None:
    """The sizes of a damaged checkpoint may be right; only its hashes tell."""
    for step in (40, 50):
        damaged = add_checkpoint(run, step)
        (damaged / "model.safetensors").write_bytes(b"weights __")
    assert llmctl("prune", "done", "--yes").code == 0
    assert [c["step"] for c in llmctl("checkpoints", "done", "--json").json()] == [20, 30, 40, 50]


def test_one_checkpoint_is_deleted_unless_it_is_pinned_or_a_resume_would_need_it(
    llmctl: Llmctl, run: RunDir
) -> None:
    llmctl("pin", "done@10")
    pinned = llmctl("discard", "done@10", "--yes")
    assert pinned.code == 6
    assert "llmctl unpin done@10" in pinned.err
    assert llmctl("discard", "done", "--yes").code == 2
    llmctl("unpin", "done@10")
    assert llmctl("discard", "done@10", "--yes").code == 0
    assert [c["step"] for c in llmctl("checkpoints", "done", "--json").json()] == [20, 30]
    assert llmctl("discard", "done@30", "--yes").code == 0, "nothing goes on from a completed run"

    failed = failed_run()
    for step in (10, 20):
        add_checkpoint(failed, step)
    newest = llmctl("discard", "broken@20", "--yes")
    assert newest.code == 6
    assert "a resume would go on from" in newest.err
    assert llmctl("discard", "broken@10", "--yes").code == 0


def test_a_deleted_run_is_gone_whole_and_its_fork_keeps_what_it_began_with(
    llmctl: Llmctl, run: RunDir
) -> None:
    origin = Origin(run.name, 20, str(run.checkpoints / "step-00000020"))
    _, lock = create_run("forked", run.read_spec(), origin)
    os.close(lock)
    killed = run.path.with_name(f"{DOOMED}killed")
    killed.mkdir()

    removed = llmctl("rm", "done", "--yes")

    assert removed.code == 0
    assert "done  completed     3        1.2500" in removed.out
    assert [p.name for p in run.path.parent.iterdir()] == ["forked"], (
        "nor is left what an earlier deletion had not done"
    )
    assert llmctl("status", "done").code == 3
    assert llmctl("verify", "forked@20").code == 0


def test_only_a_run_that_is_over_and_named_in_full_is_deleted(llmctl: Llmctl, run: RunDir) -> None:
    completed_run("older")
    going = completed_run("going")
    for lock, shared in (going.run_lock, False), (going.ranks_lock, True):
        held = hold_lock(lock, shared=shared)
        refused = llmctl("rm", "older", "going", "--yes")
        os.close(held)
        assert refused.code == 6
        assert "llmctl stop going" in refused.err
    assert llmctl("rm", "old", "--yes").code == 2
    assert llmctl("rm", "older", "nothing", "--yes").code == 3
    unasked = llmctl("rm", "older")
    assert (unasked.code, "--yes" in unasked.err) == (6, True)
    assert {r.name for r in all_runs()} == {"done", "older", "going"}
    assert llmctl("rm", "@last", "older", "older", "-y").code == 0
    assert [r.name for r in all_runs()] == ["done"]


def test_a_run_that_cannot_be_read_can_be_deleted(llmctl: Llmctl, run: RunDir) -> None:
    run.spec_file.write_text("{")
    run.state_file.unlink(missing_ok=True)
    removed = llmctl("rm", "done", "--yes")
    assert (removed.code, all_runs()) == (0, [])
    assert "unreadable" in removed.out


def test_a_run_that_is_only_a_link_is_left_alone(llmctl: Llmctl, run: RunDir) -> None:
    moved = run.path.rename(run.path.parent.parent / "elsewhere")
    run.path.symlink_to(moved)
    refused = llmctl("rm", "done", "--yes")
    assert (refused.code, str(moved) in refused.err) == (6, True)
    assert llmctl("verify", "done").code == 0
