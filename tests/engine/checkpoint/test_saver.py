"""A save beside the training: what was copied is what is written, and it counts once it is whole."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.engine.checkpoint.test_checkpoint import ALONE
from tests.tiny import Recorder, build_tiny, run_tiny, tiny_spec
from trainer_daemon.contract.events import (
    CheckpointFailed,
    CheckpointSaved,
    Command,
    CommandDone,
    Evaluated,
    Event,
    Notice,
    TrainStep,
)
from trainer_daemon.contract.spec import CheckpointSpec
from trainer_daemon.engine import duties
from trainer_daemon.engine.checkpoint import store
from trainer_daemon.engine.checkpoint.files import Progress, load_tensors
from trainer_daemon.engine.checkpoint.saver import Saver
from trainer_daemon.engine.loop import train

LINEAGE = store.Lineage(spec_hash="a", tokenizer_hash="b", data_fingerprint="c", parent=None)
END_SECONDS = 60.0


@contextmanager
def slow_disk() -> Iterator[threading.Event]:
    """fsync takes until the event is set, as on a disk that others keep busy."""
    may_go_on = threading.Event()
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        if threading.current_thread().name == "checkpoint writer":
            assert may_go_on.wait(END_SECONDS)
        real_fsync(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        try:
            yield may_go_on
        finally:
            may_go_on.set()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_what_changes_after_the_copy_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    weights, momentum, progress = torch.full((1000,), 1.0), torch.full((), 2.0), Progress(step=7, tokens=70)
    saver = Saver(tmp_path, ALONE, CheckpointSpec(asynchronous="on"))
    with slow_disk() as may_go_on:
        saver.begin(progress, {"w": weights}, {"m": momentum}, {}, LINEAGE)
        saver.wait_for_copy()
        weights.zero_(), momentum.zero_()
        progress.step, progress.tokens = 8, 80
        assert saver.in_flight == 7
        assert not saver.has_ended()
        assert store.list_checkpoints(tmp_path) == [], "nobody may see it before it is whole"
        may_go_on.set()
        result = saver.result(END_SECONDS)
    assert result is not None
    assert (result.step, result.path, result.error) == (7, "step-00000007", None)
    path = tmp_path / result.path
    assert all(check.ok for check in store.verify_checkpoint(path))
    assert store.read_manifest(path).tokens == 70
    assert torch.equal(load_tensors(path, "model", ALONE.device)["w"], torch.full((1000,), 1.0))
    assert load_tensors(path, "optimizer", ALONE.device)["m"].item() == 2.0


class SlowDiskOf(Recorder):
    """Holds the disk up from the beginning, and lets it go on when a step is done."""

    def __init__(
        self, may_go_on: threading.Event, after_step: int, commands: dict[int, list[Command]]
    ) -> None:
        super().__init__(commands)
        self._may_go_on, self._after_step = may_go_on, after_step

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, TrainStep) and event.step == self._after_step:
            self._may_go_on.set()


def run_on_slow_disk(
    home: Path, folder: Path, until_step: int, commands: dict[int, list[Command]] | None = None
) -> Recorder:
    spec = tiny_spec("checkpoint.asynchronous=on", "checkpoint.every=4")
    with slow_disk() as may_go_on:
        seen = SlowDiskOf(may_go_on, until_step, commands or {})
        finished, _ = run_tiny(spec, home, seen, folder)
    assert finished.reason == "completed"
    return seen


def test_training_goes_on_beside_a_slow_save_which_counts_once_it_is_whole(
    home: Path, tmp_path: Path
) -> None:
    """27 of the reference: one in flight, those that fall due meanwhile are told, the last one is never left out."""
    seen = run_on_slow_disk(home, tmp_path, until_step=10)
    kinds = [(type(e).__name__, getattr(e, "step", None)) for e in seen.events]
    (told,) = [e.text for e in seen.of(Notice) if "was not saved" in e.text]
    assert "step 8 was not saved: step 4 is still being written" in told
    assert kinds.index(("TrainStep", 10)) < kinds.index(("CheckpointSaved", 4))
    assert [e.step for e in seen.of(CheckpointSaved)] == [4, 12]
    saved = seen.of(CheckpointSaved)[0]
    assert saved.blocked_seconds is not None
    assert saved.blocked_seconds < saved.seconds
    assert [c.step for c in store.list_checkpoints(tmp_path / "checkpoints")] == [4, 12]


def test_an_asynchronous_run_saves_the_same_bytes_as_a_synchronous_one(home: Path, tmp_path: Path) -> None:
    run_on_slow_disk(home, tmp_path / "beside", until_step=6)
    run_tiny(tiny_spec("checkpoint.every=4"), home, Recorder(), tmp_path / "between")
    for step in ("step-00000004", "step-00000012"):
        for name in ("model", "optimizer"):
            file = f"checkpoints/{step}/{name}.safetensors"
            assert (tmp_path / "beside" / file).read_bytes() == (tmp_path / "between" / file).read_bytes()


def test_an_evaluation_beside_a_save_is_noted_in_the_checkpoint_when_it_is_there(
    home: Path, tmp_path: Path
) -> None:
    spec = tiny_spec("checkpoint.asynchronous=on", "checkpoint.every=6", "checkpoint.keep_last=2")
    with slow_disk() as may_go_on:
        seen = SlowDiskOf(may_go_on, 8, {})
        run_tiny(spec, home, seen, tmp_path)
    scores = {e.step: e.val_bpb for e in seen.of(Evaluated)}
    assert {c.step: c.val_bpb for c in store.list_checkpoints(tmp_path / "checkpoints")} == {
        6: scores[6],
        12: scores[12],
    }


def test_a_save_that_is_asked_for_waits_for_the_one_in_flight_and_is_done_when_it_says_so(
    home: Path, tmp_path: Path
) -> None:
    seen = run_on_slow_disk(home, tmp_path, until_step=5, commands={5: [Command("a", "save", {})]})
    kinds = [(type(e).__name__, getattr(e, "step", None)) for e in seen.events]
    done = [type(e).__name__ for e in seen.events].index("CommandDone")
    assert kinds.index(("CheckpointSaved", 4)) < kinds.index(("CheckpointSaved", 5)) < done


def test_a_save_that_fails_beside_the_training_is_told_and_the_next_one_is_made(
    home: Path, tmp_path: Path
) -> None:
    class InTheWay(Recorder):
        def emit(self, event: Event) -> None:
            super().emit(event)
            if isinstance(event, TrainStep) and event.step == 3:
                store.temporary_folder(checkpoints, 4).touch()

    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    seen = InTheWay()
    finished, _ = run_tiny(
        tiny_spec("checkpoint.asynchronous=on", "checkpoint.every=4"), home, seen, tmp_path
    )
    assert finished.reason == "completed"
    assert [e.step for e in seen.of(CheckpointFailed)] == [4]
    assert seen.of(CheckpointSaved)[-1].step == 12


def test_whatever_ends_the_training_the_save_in_flight_is_brought_home(home: Path, tmp_path: Path) -> None:
    """A trainer that left with a save in flight reported success and had no checkpoint (VeOmni#1162)."""

    class Stumbles(Recorder):
        def emit(self, event: Event) -> None:
            super().emit(event)
            if isinstance(event, TrainStep) and event.step == 5:
                raise RuntimeError("a rank stumbles")

    seen = Stumbles()
    job = build_tiny(tiny_spec("checkpoint.asynchronous=on", "checkpoint.every=4"), home, seen, tmp_path)
    with slow_disk() as may_go_on:
        with pytest.raises(RuntimeError, match="stumbles"):
            train(job)
        assert seen.of(CheckpointSaved) == []
        may_go_on.set()
        duties.finish_save(job)
    assert [e.step for e in seen.of(CheckpointSaved)] == [4]
    assert all(check.ok for check in store.verify_checkpoint(tmp_path / "checkpoints" / "step-00000004"))


def test_a_save_is_not_begun_on_a_disk_that_cannot_hold_it(home: Path, tmp_path: Path) -> None:
    import shutil

    class Nearly(Recorder):
        """The disk is full from the fourth step to the eighth."""

        def emit(self, event: Event) -> None:
            super().emit(event)
            if isinstance(event, TrainStep) and event.step == 4:
                patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
            if isinstance(event, TrainStep) and event.step == 8:
                patch.undo()

    patch = pytest.MonkeyPatch()
    seen = Nearly()
    stop = Command("a", "stop", {"even_unsaved": False})
    seen._commands = {6: [stop]}
    finished, _ = run_tiny(tiny_spec(), home, seen, tmp_path)
    assert finished.reason == "completed", "a stop that cannot save is not obeyed"
    assert [e.step for e in seen.of(CheckpointFailed)] == [5, 6]
    assert all("free some space" in e.error for e in seen.of(CheckpointFailed))
    assert [(e.name, e.ok) for e in seen.of(CommandDone)] == [("stop", False)]
    assert [e.step for e in seen.of(CheckpointSaved)] == [10, 12]
    assert not list(tmp_path.glob("checkpoints/.tmp-*"))
