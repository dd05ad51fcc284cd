"""One attempt at a run, assembled: what the loop and its duties work on.

Every rank holds the same job; only the main rank's `emit` is heard. `assembly` puts it together.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer_daemon.contract.events import Command, Phase, PhaseChanged
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.scaling import Rates, TrainingPlan
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.engine.checkpoint.files import Progress
from trainer_daemon.engine.checkpoint.saver import Saver
from trainer_daemon.engine.checkpoint.store import Lineage
from trainer_daemon.engine.data.batches import Batches
from trainer_daemon.engine.data.live import LiveRows
from trainer_daemon.engine.data.rows import Rows
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.health import Health
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.optim.gradients import Gradients
from trainer_daemon.engine.optim.muon_adamw import MuonAdamW
from trainer_daemon.engine.outbox import Emit, Outbox
from trainer_daemon.engine.pace import Pace
from trainer_daemon.engine.ranks import Ranks
from trainer_daemon.engine.timers import Timers


class Commands(Protocol):
    """Where requests come from. Only the main rank is given commands; a stop is seen by every rank for itself."""

    def pending(self) -> bool: ...
    def next(self) -> Command | None: ...
    def wait(self, seconds: float) -> None:
        """Return when there may be a command, after `seconds` at the latest."""

    def terminated(self) -> bool:
        """Whether this process was asked to end by a signal."""

    def stop_wanted(self) -> bool:
        """Whether a signal or a command asks for a stop. For the time before training, when ranks exchange nothing."""


@dataclass(frozen=True)
class Launch:
    """What an attempt is given from outside: where its run lies, and whom it tells and hears."""

    run: RunDir
    home: Path
    """$LLMCTL_HOME of this attempt."""
    attempt: int
    """Which launch of the run's ranks it is, from 1."""
    emit: Emit
    commands: Commands
    rollbacks: int = 0
    """Of earlier launches, by the main rank's journal; the others are told."""


@dataclass
class Job:
    """What the loop and its duties work on."""

    spec: RunSpec
    plan: TrainingPlan
    ranks: Ranks
    emit: Outbox
    commands: Commands
    run: RunDir
    home: Path
    """$LLMCTL_HOME of this attempt."""
    model: LanguageModel
    replica: nn.Module
    """The model as trained: under DDP when there are several ranks."""
    gradients: Gradients
    optimizer: MuonAdamW
    tokenizer: Tokenizer
    token_bytes: Tensor
    """(V,) bytes of each token, 0 for specials, on the device."""
    batches: Batches
    held_out_rows: Rows
    live: LiveRows | None
    """The training rows where they are still being made."""
    saver: Saver
    lineage: Lineage
    """What the manifests of this launch say about where they come from."""
    peak_flops: float | None
    """Of one rank's device; None where it is unknown, and on all ranks but the main one."""
    progress: Progress
    health: Health
    pace: Pace
    timers: Timers = field(default_factory=Timers)
    """What is due by the clock."""
    saved_step: int | None = None
    """The step of the newest checkpoint that this attempt wrote or began from."""
    replicas_equal_step: int | None = None
    """The step of the newest check that found all ranks' parameters equal, of this attempt."""
    last_score: tuple[int, float] | None = None
    """(step, val_bpb) of this attempt's last evaluation: its checkpoint may still be being written."""
    decoder_is_behind: bool = False
    """Whether a sample of this attempt found the fast decoder to compute another function than the model."""
    _phase: Phase = "building"

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Say that the ranks are in a phase, and at its end that they are back in the one before."""
        before = self._phase
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def enter(self, name: Phase) -> None:
        if name != self._phase:
            self._phase = name
            self.ranks.flight.enter(name)
            self.emit(PhaseChanged(name, self.progress.step))

    def close(self) -> None:
        """Tell what is still held, and let go of what works beside the training."""
        self.emit.release()
        if self.live is not None:
            self.live.close()

    def wants_attention(self) -> bool:
        """Whether this rank has a reason to stop at the next step boundary: a request, an ended save, rows that are not
        there, something to tell of those that make them."""
        next_samples = self.progress.samples_seen + self.batches.global_rows
        return (
            self.commands.terminated()
            or self.commands.pending()
            or self.saver.has_ended()
            or not self.batches.are_ready(next_samples)
            or (self.live is not None and self.live.has_notices())
        )

    def sync_gradients(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over the ranks once a step, with the last micro-batch; the others only add up."""
        if not isinstance(self.replica, DistributedDataParallel):
            return nullcontext()
        return self.ranks.flight.exchanging("gradients") if is_last else self.replica.no_sync()

    def gradient_norms(self) -> dict[str, float]:
        """Euclidean norm of each parameter's gradient, as long as there is one."""
        return {
            name: float(p.grad.float().norm())
            for name, p in self.model.named_parameters()
            if p.grad is not None
        }

    def parameters_are_finite(self) -> bool:
        """The same answer on all ranks."""
        return self.ranks.all_ok(all(bool(torch.isfinite(p).all()) for p in self.model.parameters()))

    def parameter_checksums(self) -> dict[str, int]:
        """A number below 2^52 for each parameter that any flipped bit changes; equal parameters have equal ones."""
        sums = []
        for parameter in self.model.parameters():
            bits = parameter.detach().view(torch.int32 if parameter.element_size() == 4 else torch.int16)
            sums.append(bits.sum(dtype=torch.int64))
        names = (name for name, _ in self.model.named_parameters())
        return {name: value % 2**52 for name, value in zip(names, torch.stack(sums).tolist(), strict=True)}

    def mfu(self, step_seconds: float) -> float | None:
        """Model FLOP/s of a step over the peak of all ranks' devices, a fraction; None where the peak is unknown."""
        if self.peak_flops is None:
            return None
        achieved = self.plan.flops_per_token * self.plan.global_batch_tokens / step_seconds
        return achieved / (self.peak_flops * self.ranks.world_size)

    def learning_rates(self, scale: float) -> dict[str, float]:
        """Each parameter group's rate at this multiplier of the peaks."""
        return {group: scale * peak for group, peak in _by_group(self.plan.learning_rates).items()}


@cache
def _by_group(rates: Rates) -> dict[str, float]:
    """Taken apart once and not in every step."""
    return asdict(rates)
