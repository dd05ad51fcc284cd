"""A checkpoint exists when its manifest does, and is trusted only by its hashes."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer_daemon.contract.errors import NotFoundError, RunFailedError
from trainer_daemon.engine.checkpoint import store
from trainer_daemon.engine.checkpoint.files import (
    Progress,
    SaveFailedError,
    Snapshot,
    choose_checkpoint,
    generator_states,
    load_progress,
    load_tensors,
    restore_generators,
    write_checkpoint,
)
from trainer_daemon.engine.ranks import Ranks

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def save(folder: Path, step: int, value: float = 1.0) -> Path:
    return write_checkpoint(
        folder,
        Snapshot(
            Progress(step=step, samples_seen=step * 8, tokens=step * 100, loss_nats=2.5),
            model={"w": torch.full((3, 5), value)},
            optimizer={"w.momentum": torch.full((3, 5), -value)},
            generators=[generator_states(ALONE.device)],
            texts={"spec.json": "{}", "tokenizer.json": "{}"},
            lineage=store.Lineage(spec_hash="a", tokenizer_hash="b", data_fingerprint="c", parent=None),
        ),
    )


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(7)
    path = save(tmp_path, 40, value=0.1)
    drawn_after_saving = torch.rand(4)

    assert load_progress(path) == Progress(step=40, samples_seen=320, tokens=4000, loss_nats=2.5)
    assert torch.equal(load_tensors(path, "model", ALONE.device)["w"], torch.full((3, 5), 0.1))
    assert torch.equal(load_tensors(path, "optimizer", ALONE.device)["w.momentum"], torch.full((3, 5), -0.1))
    restore_generators(path, ALONE)
    assert torch.equal(torch.rand(4), drawn_after_saving)


def test_listing_says_which_is_best_and_how_large(tmp_path: Path) -> None:
    for step, bpb in ((10, 0.9), (20, 0.5), (30, 0.7)):
        save(tmp_path, step)
        store.record_score(tmp_path, step, bpb)
    infos = store.list_checkpoints(tmp_path)
    assert [(c.step, c.val_bpb, c.best) for c in infos] == [
        (10, 0.9, False),
        (20, 0.5, True),
        (30, 0.7, False),
    ]
    on_disk = sum(
        f.stat().st_size for f in infos[0].path.iterdir() if f.name not in {store.MANIFEST, store.SCORE}
    )
    assert infos[0].bytes == on_disk


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    names = [store.MANIFEST, *(check.path for check in store.verify_checkpoint(path))]
    chance = random.Random(0)
    for attempt in range(60):
        file = path / names[attempt % len(names)]
        whole = file.read_bytes()
        position = chance.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[position] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        assert store.newest_good(tmp_path) == (None, [f"step-00000010 is damaged ({file.name})"])
        file.write_bytes(whole)
    assert all(c.ok for c in store.verify_checkpoint(path))


def test_a_missing_file_and_a_link_in_its_place_are_both_found(tmp_path: Path) -> None:
    path = save(tmp_path / "run", 10)
    elsewhere = tmp_path / "elsewhere"
    (path / "model.safetensors").rename(elsewhere)
    assert [(c.path, c.actual) for c in store.verify_checkpoint(path) if not c.ok] == [
        ("model.safetensors", None)
    ]
    (path / "model.safetensors").symlink_to(elsewhere)
    assert [c.path for c in store.verify_checkpoint(path) if not c.ok] == ["model.safetensors"]


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(tmp_path: Path) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    (newest / "optimizer.safetensors").write_bytes(b"")
    path, refused = choose_checkpoint(tmp_path, ALONE)
    assert path is not None
    assert path.name == "step-00000010"
    assert refused == ["step-00000020 is damaged (optimizer.safetensors)"]


@pytest.mark.parametrize("damage", ["model", "manifest is garbage", "manifest is gone"])
def test_when_no_checkpoint_can_be_trusted_nothing_is_trained_from_scratch(
    tmp_path: Path, damage: str
) -> None:
    path = save(tmp_path, 10)
    if damage == "model":
        (path / "model.safetensors").write_bytes(b"x")
    elif damage == "manifest is garbage":
        (path / store.MANIFEST).write_bytes(bytes(100))
    else:
        (path / store.MANIFEST).unlink()
    left = sorted(p.name for p in path.iterdir())
    with pytest.raises(RunFailedError, match="no checkpoint of this run can be trusted: step-00000010"):
        choose_checkpoint(tmp_path, ALONE)
    assert sorted(p.name for p in path.iterdir()) == left


def test_a_run_without_checkpoints_begins_at_the_beginning(tmp_path: Path) -> None:
    assert choose_checkpoint(tmp_path, ALONE) == (None, [])


def forge(path: Path, **changes: Any) -> None:
    """Rewrite a manifest as someone would who knows how to make its hash right."""
    values = json.loads((path / store.MANIFEST).read_text()) | changes
    values.pop("sha256")
    (path / store.MANIFEST).write_text(json.dumps({**values, "sha256": store._hash_of(values)}))


def test_a_forged_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    forge(path, files=[{"path": "../../etc/passwd", "bytes": 1, "sha256": "0"}])
    with pytest.raises(NotFoundError, match=r"forged \(MANIFEST.json: files.0.path\)"):
        store.verify_checkpoint(path)


@pytest.mark.parametrize("changes", [{"format": 2}, {"step": None}, {"lineage": {}}])
def test_a_manifest_of_another_version_is_refused_and_not_a_crash(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = save(tmp_path, 10)
    forge(path, **changes)
    assert store.list_checkpoints(tmp_path) == []
    with pytest.raises(NotFoundError, match="another version"):
        store.verify_checkpoint(path)


def test_retention_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step, bpb in ((10, 0.4), (20, 0.9), (30, 0.8), (40, 0.7)):
        save(tmp_path, step)
        store.record_score(tmp_path, step, bpb)
    assert store.retain(tmp_path, keep_last=2, keep_every=None) == [20]
    assert [c.step for c in store.list_checkpoints(tmp_path)] == [10, 30, 40]


def test_of_equally_good_checkpoints_only_the_newest_is_kept_as_the_best(tmp_path: Path) -> None:
    """All of them once were, and a run on a plateau filled its disk."""
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, step)
        store.record_score(tmp_path, step, 0.5 if step < 40 else 0.6)
    assert [c.step for c in store.list_checkpoints(tmp_path) if c.best] == [30]
    assert store.retain(tmp_path, keep_last=2, keep_every=None) == [10, 20]


def test_retention_keeps_every_mth_and_the_pinned_until_they_are_unpinned(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50, 60):
        save(tmp_path, step)
    store.pin(tmp_path / "step-00000010")
    assert store.retain(tmp_path, keep_last=2, keep_every=20) == [30]
    assert [(c.step, c.pinned) for c in store.list_checkpoints(tmp_path)] == [
        (10, True),
        (20, False),
        (40, False),
        (50, False),
        (60, False),
    ]
    assert all(c.ok for c in store.verify_checkpoint(tmp_path / "step-00000010"))
    store.unpin(tmp_path / "step-00000010")
    assert store.retain(tmp_path, keep_last=2, keep_every=20) == [10]


def test_damaged_checkpoints_are_neither_deleted_nor_counted_among_those_to_keep(tmp_path: Path) -> None:
    """A run whose two newest are damaged once had its last good one deleted as the third newest."""
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    (tmp_path / "step-00000030" / "model.safetensors").write_bytes(b"short")
    (tmp_path / "step-00000040" / store.MANIFEST).unlink()
    assert store.retain(tmp_path, keep_last=2, keep_every=None) == []
    save(tmp_path, 50)
    assert store.retain(tmp_path, keep_last=2, keep_every=None) == [10]
    assert len(store.checkpoint_folders(tmp_path)) == 4


def test_what_an_interrupted_save_or_deletion_left_is_swept_and_never_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10)
    half_saved = store.temporary_folder(tmp_path, 20)
    half_saved.mkdir()
    (half_saved / "model.safetensors").write_bytes(b"half")
    doomed = save(tmp_path, 5)
    with monkeypatch.context() as killed_in_between:
        killed_in_between.setattr(shutil, "rmtree", lambda *_, **__: None)
        store.discard(doomed)
    assert [c.step for c in store.list_checkpoints(tmp_path)] == [10]
    store.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010"]


def test_a_save_that_cannot_be_written_leaves_the_earlier_ones_and_no_draft(tmp_path: Path) -> None:
    save(tmp_path, 10)
    store.temporary_folder(tmp_path, 20).write_text("in the way")  # mkdir of the draft fails, also for root
    with pytest.raises(SaveFailedError, match="checkpoint of step 20 abandoned"):
        save(tmp_path, 20)
    assert [c.step for c in store.list_checkpoints(tmp_path)] == [10]
    assert all(c.ok for c in store.verify_checkpoint(tmp_path / "step-00000010"))
