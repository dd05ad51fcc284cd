"""Real run folders with training curves as a run would have left them."""

import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.workers import end_workers
from trainer_daemon.contract.events import (
    AttemptStarted,
    CheckpointSaved,
    Evaluated,
    Event,
    Finished,
    PhaseChanged,
    RunPlanned,
    Sampled,
    StateChanged,
    TrainStep,
)
from trainer_daemon.contract.journal import JournalWriter, Stream
from trainer_daemon.contract.rundir import RunDir, create_run
from trainer_daemon.contract.spec import RunSpec

BATCH_TOKENS = 16_384
FLOOR = 0.62
STORIES = (
    " a small fox named Pip. Pip lived near the old mill and liked to count the boats.",
    " a girl called Mara who found a blue key under the stairs. She showed it to her brother.",
    " the rain came early, so Tom and Lily stayed inside and built a tall tower of blocks.",
)


@dataclass
class WrittenRun:
    """A run folder and its three journals, held as a supervisor and rank 0 hold them."""

    run: RunDir
    lock: int
    total_steps: int
    writers: dict[Stream, JournalWriter] = field(default_factory=dict)
    noise: random.Random = field(default_factory=lambda: random.Random(7))

    def tell(self, stream: Stream, *events: Event) -> None:
        if stream not in self.writers:
            self.writers[stream] = JournalWriter(self.run.journal, stream, attempt=1)
        for event in events:
            self.writers[stream].append(event)

    def begin(self) -> None:
        self.tell("daemon", StateChanged("starting", "launching 2 ranks", pid=os.getpid(), attempt=1))
        self.tell(
            "train",
            AttemptStarted(1, 2, "cpu", "AMD EPYC 7B13", "fp32", 1, "2.13.0"),
            PhaseChanged("preparing", 0),
        )
        self.plan()

    def plan(self) -> None:
        self.tell(
            "train",
            RunPlanned(
                total_steps=self.total_steps,
                total_tokens=self.total_steps * BATCH_TOKENS,
                global_batch_tokens=BATCH_TOKENS,
                grad_accum_steps=1,
                vocab_size=4096,
                parameters=11_534_336,
                scaling_parameters=9_437_184,
                flops_per_token=62_914_560,
                peak_flops=2.1e11,
                peak_flops_source="measured",
                train_rows=120_000,
                held_out_rows=1_200,
                bits_per_byte_floor=FLOOR,
            ),
            PhaseChanged("running", 0),
        )
        self.tell("daemon", StateChanged("running", "", pid=os.getpid(), attempt=1))

    def train(self, first: int, last: int, *, every: int = 0) -> None:
        """Steps first..last; every so often a checkpoint, then an evaluation, then a sample."""
        for step in range(first, last + 1):
            self.tell("train", self.step(step))
            if every and step % every == 0:
                self.save(step)
                bpb = (
                    FLOOR
                    + 0.16
                    + 2.6 * math.exp(-step / (0.18 * self.total_steps))
                    + self.noise.gauss(0, 0.004)
                )
                self.tell("train", Evaluated(step, bpb, bpb * 2.4, tokens=65_536, seconds=1.3))
                story = STORIES[step // every % len(STORIES)]
                self.tell(
                    "train",
                    Sampled(step, "Once upon a time there was", story, 24, "length", 0.0, None, 0, 0.4, None),
                )

    def step(self, step: int) -> TrainStep:
        share = step / self.total_steps
        rate = min(1.0, step / (0.04 * self.total_steps), max(0.05, (1 - share) / 0.65))
        spike = 3.0 if self.noise.random() < 0.004 else 0.0
        seconds = 0.82 + abs(self.noise.gauss(0, 0.02)) + 0.1 * spike
        return TrainStep(
            step=step,
            loss_nats=1.45
            + 6.9 * math.exp(-share / 0.07)
            + 0.9 * math.exp(-share / 0.5)
            + self.noise.gauss(0, 0.09),
            grad_norm=0.24 + 2.4 * math.exp(-share / 0.05) + abs(self.noise.gauss(0, 0.04)) + spike,
            learning_rate_scale=rate,
            step_seconds=seconds,
            tokens=step * BATCH_TOKENS,
            tokens_per_second=BATCH_TOKENS / seconds,
            mfu=62_914_560 * BATCH_TOKENS / seconds / 4.2e12,
            epoch=share,
            learning_rates={"matrix": 0.02 * rate, "embedding": 0.3 * rate},
            data_seconds=0.02 * seconds,
            compute_seconds=0.71 * seconds,
            wait_seconds=0.03 * seconds,
            optimizer_seconds=0.24 * seconds,
            memory_bytes=2_140_000_000,
            peak_memory_bytes=3_870_000_000,
        )

    def save(self, step: int) -> None:
        path = f"step-{step:08d}"
        (self.run.checkpoints / path).mkdir()
        self.tell("train", CheckpointSaved(step, path, 138_412_032, 1.9 + 4 / step, 0.8))

    def end(self, state: str = "completed", reason: str = "all steps done", step: int | None = None) -> None:
        """The last words; the lock is let go of as a dying supervisor would."""
        words = {"completed": "completed", "stopped": "stopped"}.get(state, "failed")
        self.tell("train", Finished(words, self.total_steps if step is None else step, reason))  # type: ignore[arg-type]
        self.tell("daemon", StateChanged(state, reason, pid=os.getpid(), attempt=1))  # type: ignore[arg-type]
        self.die()

    def die(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def close(self) -> None:
        self.die()
        while self.writers:
            self.writers.popitem()[1].close()


class Runs:
    """Writes runs, and lets go of them all."""

    def __init__(self) -> None:
        self.written: list[WrittenRun] = []

    def create(self, name: str, total_steps: int = 400) -> WrittenRun:
        run, lock = create_run(name, RunSpec())
        self.written.append(WrittenRun(run, lock, total_steps))
        return self.written[-1]

    def completed(self, name: str = "fox", total_steps: int = 400) -> RunDir:
        written = self.create(name, total_steps)
        written.begin()
        written.train(1, total_steps, every=total_steps // 8)
        written.end()
        written.close()
        return written.run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    every = Runs()
    yield every
    for written in every.written:
        written.close()
    end_workers(tmp_path / "home")
