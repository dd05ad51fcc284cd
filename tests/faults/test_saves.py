"""A checkpoint that was acknowledged is there and whole, whatever ends the process that saves."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.engine.checkpoint.test_checkpoint import ALONE, save
from tests.faults import saver_program
from tests.faults.conftest import rounds
from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.contract.errors import RefusedError, RunFailedError
from trainer_daemon.contract.events import CheckpointFailed, CheckpointSaved, Command, Event, TrainStep
from trainer_daemon.engine.checkpoint import store
from trainer_daemon.engine.checkpoint.files import choose_checkpoint, load_progress, load_tensors
from trainer_daemon.supervisor.detach import start_supervisor

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]


def kill_savers(folder: Path, count: int, *options: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tests.faults.saver_program", str(folder), str(count), "7", *options]
    return subprocess.run(program, capture_output=True, text=True, timeout=880)


@pytest.mark.parametrize("asynchronous", ["off", "on"])
def test_kill_9_at_random_moments_of_saving_loses_and_damages_nothing(
    tmp_path: Path, asynchronous: str
) -> None:
    """16: kill -9 at 100 random moments each; nothing published is invalid, nothing acknowledged is lost, at
    least two are always there, the best and every 50th stay, the disk holds a bounded number, the next start sweeps."""
    ended = kill_savers(tmp_path, rounds(15, 100), asynchronous)
    print(ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout


def test_retention_holds_over_a_thousand_saves_that_are_killed_now_and_then(tmp_path: Path) -> None:
    """30: after each of thirty kills at least two are there and whole, with the best and every 50th, and the disk holds a
    bounded number."""
    # in memory where there is room: a thousand saves of the smallest kind are a thousand times a disk's sync
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        ended = kill_savers(Path(folder), rounds(4, 30), "on", "--saves-a-round", "120")
    print(ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    _, _, saved, *_ = ended.stdout.split()
    assert int(saved) >= rounds(100, 1_000)


@pytest.mark.parametrize("point", saver_program.POINTS)
def test_kill_9_at_every_named_point_of_a_save_and_a_deletion(tmp_path: Path, point: str) -> None:
    """17 and 31: after a file, before the manifest, before the rename, before the folder is synced, in a deletion."""
    ended = kill_savers(tmp_path, 2, "on", point)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout


def test_the_watch_over_saves_would_see_a_checkpoint_that_is_published_before_it_is_whole(
    tmp_path: Path,
) -> None:
    """The negative control of the two above: what a save without the final rename leaves is found."""
    half = save(tmp_path, 10)
    (half / store.MANIFEST).unlink()
    assert "is none" in str(saver_program.broken_promise(tmp_path, 0))
    whole = save(tmp_path / "other", 10)
    assert "another step" in str(saver_program.broken_promise(whole.parent, 0))
    assert "was acknowledged" in str(saver_program.broken_promise(tmp_path / "empty", 3))


@pytest.mark.parametrize("damage", ["truncated", "deleted", "zeroed"])
def test_any_file_of_a_checkpoint_that_is_truncated_deleted_or_zeroed_is_found(
    tmp_path: Path, damage: str
) -> None:
    """21."""
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    files = sorted(newest.iterdir())
    assert len(files) == 7
    for file in files:
        whole = file.read_bytes()
        if damage == "deleted":
            file.unlink()
        else:
            file.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else bytes(len(whole)))
        path, refused = choose_checkpoint(tmp_path, ALONE)
        assert path is not None
        assert path.name == "step-00000010", file.name
        assert len(refused) == 1
        file.write_bytes(whole)
    assert choose_checkpoint(tmp_path, ALONE) == (newest, [])


class Canary:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self._file}",)


def forge_manifest(folder: Path, **changes: object) -> None:
    """A manifest whose own hash is right, as an attacker would write it; files that are there are listed with their hashes."""
    values = json.loads((folder / store.MANIFEST).read_bytes()) | changes
    if "files" not in changes:
        names = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name != store.MANIFEST]
        values["files"] = [
            {"path": p.name, "bytes": p.stat().st_size, "sha256": store.sha256_of(p)} for p in names
        ]
    values.pop("sha256")
    (folder / store.MANIFEST).write_text(json.dumps({**values, "sha256": store._hash_of(values)}))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "rank-0.safetensors", "training.json", "extra.pt"]
)
def test_a_forged_checkpoint_never_runs_code(home: Path, tmp_path: Path, name: str) -> None:
    """23: whatever file of it is a pickle, under a manifest whose hashes are right, the run refuses or ignores it."""
    spec = tiny_spec("train.num_iterations=4")
    run_tiny(spec, home, Recorder({2: [Command("r1", "stop", {})]}), tmp_path)
    canary = tmp_path / "canary"
    folder = tmp_path / "checkpoints" / "step-00000002"
    torch.save({"model": Canary(canary)}, folder / name)  # torch's own format, with a pickle inside
    torch.save(Canary(canary), folder / "x.metadata")
    forge_manifest(folder)
    if name == "extra.pt":
        assert run_tiny(spec, home, Recorder(), tmp_path)[0].reason == "completed"
    else:
        with pytest.raises(RunFailedError, match=name):
            run_tiny(spec, home, Recorder(), tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "", ".hidden", "a\x00b"])
def test_a_forged_manifest_cannot_point_outside_its_folder(tmp_path: Path, path: str) -> None:
    """23, paths."""
    folder = save(tmp_path, 10)
    forge_manifest(folder, files=[{"path": path, "bytes": 1, "sha256": "0" * 64}])
    with pytest.raises(RunFailedError, match="forged"):
        choose_checkpoint(tmp_path, ALONE)


def test_a_link_in_a_checkpoint_is_not_followed(tmp_path: Path) -> None:
    """23, links: even one to a file with the right content."""
    folder = save(tmp_path / "run", 10)
    outside = tmp_path / "outside"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(RunFailedError, match=r"model\.safetensors"):
        choose_checkpoint(tmp_path / "run", ALONE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system takes rights that this user lacks")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def test_a_folder_that_cannot_be_written_refuses_a_run_with_its_path(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """29, at the start."""
    monkeypatch.setenv("LLMCTL_HOME", str(small_disk))
    remount(small_disk, "ro")
    with pytest.raises(RefusedError, match=f"{small_disk}/runs/a: Read-only file system"):
        start_supervisor({"name": "a", "spec": {}})
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("asynchronous", ["off", "on"])
def test_a_folder_that_becomes_read_only_costs_the_saves_and_nothing_else(
    home: Path, small_disk: Path, asynchronous: str
) -> None:
    """29, while it trains: each save is told to have failed, training goes on; writable again, the next one is made."""

    class Remounts(Recorder):
        def emit(self, event: Event) -> None:
            super().emit(event)
            if isinstance(event, TrainStep) and event.step == 4:
                remount(small_disk, "ro")
            if isinstance(event, TrainStep) and event.step == 10:
                remount(small_disk, "rw")

    seen = Remounts()
    spec = tiny_spec("checkpoint.every=3", f"checkpoint.asynchronous={asynchronous}")
    checkpoints = small_disk / "checkpoints"
    finished, _ = run_tiny(spec, home, seen, small_disk)
    assert finished.reason == "completed"
    assert len(seen.of(TrainStep)) == 12
    assert [e.step for e in seen.of(CheckpointFailed)] == [6, 9]
    assert [e.step for e in seen.of(CheckpointSaved)] == [3, 12]
    assert all(check.ok for path in checkpoints.glob("step-*") for check in store.verify_checkpoint(path))


@pytest.mark.parametrize("asynchronous", ["off", "on"])
def test_a_full_disk_costs_the_saves_that_do_not_fit_and_nothing_else(
    home: Path, small_disk: Path, asynchronous: str
) -> None:
    """18: the save fails and is told, training goes on, the one before still verifies, nothing half is left; with room
    again the next one succeeds."""
    ballast = small_disk / "ballast"

    class FillsUp(Recorder):
        def emit(self, event: Event) -> None:
            super().emit(event)
            if isinstance(event, TrainStep) and event.step == 4:
                ballast.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 2**16))
            if isinstance(event, TrainStep) and event.step == 8:
                assert not list(small_disk.glob("checkpoints/.tmp-*"))
                ballast.unlink()

    seen = FillsUp()
    spec = tiny_spec("checkpoint.every=3", f"checkpoint.asynchronous={asynchronous}")
    checkpoints = small_disk / "checkpoints"
    finished, _ = run_tiny(spec, home, seen, small_disk)
    assert finished.reason == "completed"
    assert [e.step for e in seen.of(CheckpointFailed)] == [6]
    saved = [e.step for e in seen.of(CheckpointSaved)]
    assert saved[0] == 3
    assert saved[-1] == 12
    assert all(check.ok for path in checkpoints.glob("step-*") for check in store.verify_checkpoint(path))
    assert load_progress(checkpoints / "step-00000012").step == 12
    assert load_tensors(checkpoints / "step-00000012", "model", ALONE.device)
