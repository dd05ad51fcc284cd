"""Saves checkpoints until it is killed, over and over: `saver_program.py FOLDER ROUNDS SEED auto|on|off [POINT]`.

It forks a child for each round, so that torch is imported once. A round is killed at a random moment after some saves, at
most `--saves-a-round`, or, with a POINT, kills itself there. After each the parent looks at what is on disk, as the next start of a run would, and ends with exit
code 1 and a sentence when a promise was broken.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import torch

from trainer_daemon.contract.errors import NotFoundError
from trainer_daemon.contract.spec import CheckpointSpec
from trainer_daemon.engine.checkpoint import files, store
from trainer_daemon.engine.checkpoint.files import Progress
from trainer_daemon.engine.checkpoint.saver import Saver
from trainer_daemon.engine.ranks import Ranks

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
LINEAGE = store.Lineage(spec_hash="a", tokenizer_hash="b", data_fingerprint="c", parent=None)
SAVE_SECONDS = 60.0
KEEP_LAST, KEEP_EVERY = 2, 50


def save_forever(folder: Path, asynchronous: Any, acknowledge: Callable[[int], object]) -> None:
    """What the main rank does, without training: weights that name their step, saved, scored and thinned out."""
    newest, _ = store.newest_good(folder)
    store.sweep(folder)
    step = store.read_manifest(newest).step if newest else 0
    rules = CheckpointSpec(keep_last=KEEP_LAST, keep_every=KEEP_EVERY, asynchronous=asynchronous)
    saver = Saver(folder, ALONE, rules)
    weights = torch.zeros(50_000)
    while True:
        step += 1
        weights.fill_(step)
        saver.begin(Progress(step=step), {"w": weights}, {"m": weights + 1}, {"spec.json": "{}"}, LINEAGE)
        saver.wait_for_copy()
        if saver.is_asynchronous:
            weights.fill_(-1)  # the next update; it must not reach the checkpoint
        result = saver.result(SAVE_SECONDS)
        assert result is not None
        assert result.error is None, result.error
        saver.settle()
        acknowledge(step)
        if step % 3 == 0:
            store.record_score(folder, step, 1 / (step % 7 + 1))


POINTS: dict[str, tuple[Any, str, Callable[[Path], bool], bool]] = {
    "after the model": (files, "save_file", lambda path: path.name == "model.safetensors", False),
    "before the manifest": (store, "write_durably", lambda path: path.name == store.MANIFEST, True),
    "before the rename": (Path, "rename", lambda path: path.name.startswith(".tmp-step"), True),
    "before the folder is synced": (store, "fsync_folder", lambda _: True, True),
    "before a deletion": (Path, "rename", lambda path: path.name.startswith("step"), True),
    "in the middle of a deletion": (
        shutil,
        "rmtree",
        lambda path: "discarded" in path.name and path.exists(),
        True,
    ),
}
"""What is called there, for which path, and whether death comes before or after it."""


def die_at(point: str) -> None:
    """Have this process kill itself the second time that it comes to a named point."""
    owner, name, is_there, is_before = POINTS[point]
    real = getattr(owner, name)
    visits = 0

    def fatal(*arguments: Any, **options: Any) -> Any:
        nonlocal visits
        path = next(a for a in arguments if isinstance(a, Path))
        visits += is_there(path)
        dies = visits == 2 and is_there(path)
        if dies and is_before:
            if name == "rmtree":  # some of it is gone already
                next(path.iterdir()).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, fatal)


def one_round(folder: Path, asynchronous: str, wanted: int, chance: random.Random, point: str | None) -> int:
    """Save in a child, so often at least, and kill it; the last step that it acknowledged, 0 when it did not come that far."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        if point:
            die_at(point)
        try:
            save_forever(folder, asynchronous, lambda step: os.write(writing, b"%d\n" % step))
        except BaseException as e:  # noqa: BLE001  # a forked child must not run on into the parent's code
            os.write(2, f"the saver fell: {type(e).__name__}: {e}\n".encode())
        os._exit(1)
    os.close(writing)
    last, seen_at = 0, time.monotonic()
    save_seconds = 0.01
    with os.fdopen(reading) as acknowledged:
        if point is None:
            for _ in range(wanted):
                last = int(acknowledged.readline() or 0)
                seen_at, save_seconds = time.monotonic(), time.monotonic() - seen_at
            time.sleep(chance.uniform(0, 2 * min(save_seconds, 1.0)))
            os.kill(child, signal.SIGKILL)
        for line in acknowledged:  # what it said before it died counts, read or not
            last = int(line)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"it was to be killed, but {status=}"
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    return last


def broken_promise(folder: Path, acknowledged: int) -> str | None:
    """What a run that starts now would have to complain about."""
    for path in store.checkpoint_folders(folder):
        try:
            bad = [check.path for check in store.verify_checkpoint(path) if not check.ok]
        except NotFoundError as e:
            return f"a published checkpoint is none: {e}"
        if bad:
            return f"{path.name} is published and damaged: {bad}"
        step = store.read_manifest(path).step
        weights = files.load_tensors(path, "model", ALONE.device)["w"]
        if not bool((weights == step).all()):
            return f"{path.name} holds the weights of another step"
    steps = [info.step for info in store.list_checkpoints(folder)]
    if acknowledged and (not steps or max(steps) < acknowledged):
        return f"step {acknowledged} was acknowledged, there are {steps}"
    if acknowledged >= KEEP_LAST and len(steps) < KEEP_LAST:
        return f"fewer than {KEEP_LAST} are left: {steps}"
    missing = [s for s in range(KEEP_EVERY, max(steps, default=0), KEEP_EVERY) if s not in steps]
    if missing:
        return f"kept for good and gone: {missing}"
    at_most = (
        KEEP_LAST + 3 + max(steps, default=0) // KEEP_EVERY
    )  # two bests, and what a kill left to be thinned out
    if len(steps) > at_most:
        return f"{len(steps)} are on disk, at most {at_most} should be"
    return None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("rounds", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("asynchronous")
    parser.add_argument("point", nargs="?")
    parser.add_argument("--saves-a-round", type=int, default=3)
    asked = parser.parse_args()
    folder, count, point = asked.folder, asked.rounds, asked.point
    torch.set_num_threads(1)
    chance = random.Random(asked.seed)
    best_acknowledged, best_score = 0, inf
    for number in range(count):
        wanted = chance.randint(1, asked.saves_a_round)
        best_acknowledged = max(
            best_acknowledged, one_round(folder, asked.asynchronous, wanted, chance, point)
        )
        if problem := broken_promise(folder, best_acknowledged):
            print(f"round {number}: {problem}")
            return 1
        scores = [info.val_bpb for info in store.list_checkpoints(folder) if info.val_bpb is not None]
        if min(scores, default=inf) > best_score:
            print(f"round {number}: the best, {best_score}, is gone; there are {scores}")
            return 1
        best_score = min(scores, default=inf)
        point = None  # the round after it goes on from what was left
    store.sweep(folder)
    left = [p.name for p in folder.iterdir() if not p.name.startswith("step-")]
    if left:
        print(f"left behind: {left}")
        return 1
    print(f"{count} kills, {best_acknowledged} steps saved, {len(store.checkpoint_folders(folder))} on disk")
    return 0


if __name__ == "__main__":
    sys.exit(main())
