"""Text from a stored checkpoint through a real worker process."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.contract.errors import NotFoundError, RunFailedError, SpecError
from trainer_daemon.contract.events import Sampled
from trainer_daemon.contract.rundir import socket_folder
from trainer_daemon.link.inference import Worker, open_worker


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """A checkpoint, and what its run reported."""
    home = tmp_path_factory.mktemp("trained")
    seen = Recorder()
    run_tiny(tiny_spec("sample.max_tokens=12"), home, seen)
    return home / "checkpoints/step-00000012", seen


@pytest.fixture
def checkpoint(trained: tuple[Path, Recorder]) -> Iterator[Path]:
    """The checkpoint; whatever worker serves it at the end is ended."""
    yield trained[0]
    for process in workers_of(trained[0]):
        process.kill()
        process.wait(10)


def workers_of(checkpoint: Path) -> list[psutil.Process]:
    return [
        p
        for p in psutil.process_iter(["cmdline"])
        if {"infer", str(checkpoint)} <= set(p.info["cmdline"] or [])
    ]


def text_of(
    worker: Worker, prompt: str, *, max_tokens: int = 12, temperature: float = 0.0, seed: int = 0
) -> str:
    pieces = worker.generate(prompt, max_tokens=max_tokens, temperature=temperature, top_k=None, seed=seed)
    return "".join(piece.text for piece in pieces)


def test_a_stored_checkpoint_writes_what_the_model_in_training_wrote(
    checkpoint: Path, trained: tuple[Path, Recorder]
) -> None:
    in_training = trained[1].of(Sampled)[-1]
    with open_worker(checkpoint) as worker:
        assert text_of(worker, in_training.prompt) == in_training.text
        assert len(workers_of(checkpoint)) == 1


def test_one_worker_serves_all_who_ask_and_a_seed_repeats_its_text(checkpoint: Path) -> None:
    with open_worker(checkpoint) as first, open_worker(checkpoint) as second:
        assert text_of(first, "One", temperature=1.0, seed=3) == text_of(
            second, "One", temperature=1.0, seed=3
        )
        texts = [w.generate("A", max_tokens=20, temperature=0.0, top_k=None, seed=0) for w in (first, second)]
        in_turns = zip(*texts, strict=True)
        assert all(a == b for a, b in in_turns)
        assert len(workers_of(checkpoint)) == 1


def test_a_text_that_is_left_early_does_not_run_into_the_next_one(checkpoint: Path) -> None:
    with open_worker(checkpoint) as worker:
        expected = text_of(worker, "Two")
        abandoned = worker.generate("One", max_tokens=10_000, temperature=1.0, top_k=None, seed=1)
        next(abandoned)
        abandoned.close()
        assert text_of(worker, "Two") == expected


def test_a_worker_that_nobody_asks_ends_and_a_killed_one_is_replaced(checkpoint: Path) -> None:
    with open_worker(checkpoint, idle_seconds=0.2):
        (process,) = workers_of(checkpoint)
        process.wait(20)
    with open_worker(checkpoint) as worker:
        (process,) = workers_of(checkpoint)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    with open_worker(checkpoint) as worker:
        assert text_of(worker, "One")


def test_bad_requests_are_answered_in_a_sentence_and_the_worker_lives(checkpoint: Path) -> None:
    with open_worker(checkpoint) as worker:
        with pytest.raises(SpecError, match="max_tokens"):
            text_of(worker, "One", max_tokens=0)
        with pytest.raises(SpecError, match=r"the request is 9\d,\d{3} bytes"):
            text_of(worker, "数" * 30_000)
        assert text_of(worker, "One")


def test_a_damaged_checkpoint_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    damaged = tmp_path / checkpoint.name
    damaged.mkdir()
    for file in checkpoint.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    whole = bytearray((damaged / "model.safetensors").read_bytes())
    whole[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(whole)
    with pytest.raises(RunFailedError, match=r"damaged \(model.safetensors\)"):
        open_worker(damaged)
    assert psutil.wait_procs(workers_of(damaged), timeout=10)[1] == []
    with pytest.raises(NotFoundError):
        open_worker(tmp_path / "nowhere")
    assert socket_folder(damaged).stat().st_mode & 0o077 == 0
