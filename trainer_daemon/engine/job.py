"""One attempt at a run, assembled: ranks, data, model, optimizer and how far they are.

`build_job` turns a frozen spec into everything the loop needs, in the order in which things can be wrong: the device,
the data, the plan, the checkpoint. All ranks build the same job; only the main rank's `emit` is heard.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.estimate import Precision
from trainer_daemon.contract.events import (
    AttemptStarted,
    AttentionChosen,
    Command,
    Event,
    Notice,
    Phase,
    PhaseChanged,
    PrepareProgress,
    Resumed,
    RunPlanned,
)
from trainer_daemon.contract.scaling import LearningRates, TrainingPlan, training_plan
from trainer_daemon.contract.settings import check_against_checkpoint
from trainer_daemon.contract.spec import RunSpec, RuntimeSpec
from trainer_daemon.engine.checkpoint.files import (
    Progress,
    choose_checkpoint,
    load_progress,
    load_tensors,
    restore_generators,
)
from trainer_daemon.engine.checkpoint.saver import Saver
from trainer_daemon.engine.checkpoint.store import Lineage, Manifest, folder_name, read_manifest
from trainer_daemon.engine.data.batches import Batches
from trainer_daemon.engine.data.feed import Feed, open_feed
from trainer_daemon.engine.data.live import LiveRows
from trainer_daemon.engine.data.rows import Rows
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.evals.core import open_core
from trainer_daemon.engine.flops import device_peak
from trainer_daemon.engine.health import Health
from trainer_daemon.engine.micro_batch import Network, choose_micro_batch
from trainer_daemon.engine.models.attention import choose_attention
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.models.loss import use_fused_kernel
from trainer_daemon.engine.native import NativeError
from trainer_daemon.engine.optim.gradients import Gradients, LossScale
from trainer_daemon.engine.optim.muon_adamw import MuonAdamW, build_optimizer
from trainer_daemon.engine.outbox import Outbox
from trainer_daemon.engine.pace import Pace
from trainer_daemon.engine.precision import COMPUTE_DTYPES, choose_precision
from trainer_daemon.engine.ranks import Ranks
from trainer_daemon.engine.timers import Timers

Emit = Callable[[Event], None]


class StoppedBeforeTrainingError(Exception):
    """Someone asked the run to stop while it was still being put together: there is nothing to save."""


MAX_TOKENS_DROPPED = 0.4
"""Share of a corpus that packing may drop before the reader is told."""
MANY_EPOCHS = 4.0
"""Up to about here repeated text is nearly as good as new text (arXiv 2305.16264); beyond, the reader is told."""


class Commands(Protocol):
    """Where requests come from; only the main rank has any."""

    def pending(self) -> bool: ...
    def next(self) -> Command | None: ...
    def wait(self, seconds: float) -> None:
        """Return when there may be a command, after `seconds` at the latest."""


@dataclass
class Job:
    """What the loop and its duties work on."""

    spec: RunSpec
    plan: TrainingPlan
    ranks: Ranks
    emit: Outbox
    commands: Commands
    terminated: Callable[[], bool]
    """Whether this process was asked to end by a signal."""
    model: GPT
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
    home: Path
    """$LLMCTL_HOME of this attempt."""
    checkpoints: Path
    settings_file: Path
    """Where the main rank notes what is changed while the run trains."""
    saver: Saver
    evidence: Path
    """Where records of what went wrong are written."""
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
            self.terminated()
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
def _by_group(rates: LearningRates) -> dict[str, float]:
    """Taken apart once and not in every step."""
    return asdict(rates)


def build_job(
    spec: RunSpec,
    ranks: Ranks,
    *,
    home: Path,
    checkpoints: Path,
    settings_file: Path,
    evidence: Path,
    window: Path,
    attempt: int,
    emit: Emit,
    commands: Commands,
    terminated: Callable[[], bool],
    stop_wanted: Callable[[], bool],
    is_forked_from: Callable[[Path], bool] = lambda _: False,
    rollbacks: int = 0,
) -> Job:
    """Assemble an attempt, from the newest good checkpoint where there is one. All ranks.

    `window` is where shards lie that come and go. `is_forked_from` tells a checkpoint that another run saved, whose
    hyper-parameters may be others; `rollbacks` are those of earlier launches, by the main rank's journal. Raises SpecError
    when the spec cannot run on this data or these ranks, or not go on from its checkpoint, RunFailedError when checkpoints exist but
    none can be trusted, and StoppedBeforeTrainingError as soon as `stop_wanted` during a long preparation.
    """
    if spec.eval.core_every != "off":
        open_core(spec.eval, home)  # refused now rather than found out after hours
    precision = choose_precision(spec.runtime, ranks.device)
    emit(
        AttemptStarted(
            attempt=attempt,
            world_size=ranks.world_size,
            device=ranks.device.type,
            device_name=torch.cuda.get_device_name(ranks.device)
            if ranks.device.type == "cuda"
            else ranks.device.type,
            precision=precision,
            threads_per_rank=torch.get_num_threads(),
            torch_version=str(torch.__version__),  # it is a kind of str
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
    )

    # every rank prepares: whoever comes first does the work, the others wait on a file lock and find it done,
    # so that no exchange between ranks can time out over a large corpus
    emit(PhaseChanged("preparing", 0))

    def report(what: str, done: int, total: int | None, unit: str) -> None:
        emit(PrepareProgress(what, done, total, unit))
        if stop_wanted():
            raise StoppedBeforeTrainingError

    checkpoint, refused = choose_checkpoint(checkpoints, ranks)
    for reason in refused:
        emit(Notice("warning", f"resume passed over a checkpoint: {reason}"))
    saved = load_progress(checkpoint) if checkpoint else None
    feed = open_feed(
        spec,
        ranks,
        home=home,
        window=window,
        checkpoint=checkpoint,
        samples_seen=saved.samples_seen if saved else 0,
        progress=report,
    )
    try:
        return _assemble(
            spec,
            ranks,
            feed,
            checkpoint,
            home=home,
            checkpoints=checkpoints,
            settings_file=settings_file,
            evidence=evidence,
            precision=precision,
            emit=emit,
            commands=commands,
            terminated=terminated,
            is_forked_from=is_forked_from,
            rollbacks=rollbacks,
        )
    except BaseException:
        feed.close()
        raise


def _assemble(
    spec: RunSpec,
    ranks: Ranks,
    feed: Feed,
    checkpoint: Path | None,
    *,
    home: Path,
    checkpoints: Path,
    settings_file: Path,
    evidence: Path,
    precision: Precision,
    emit: Emit,
    commands: Commands,
    terminated: Callable[[], bool],
    is_forked_from: Callable[[Path], bool],
    rollbacks: int,
) -> Job:
    """`build_job` once the data is open."""
    if feed.train.tokens_dropped > MAX_TOKENS_DROPPED:
        dropped = f"{feed.train.tokens_dropped:.0%} of the training tokens fit in no row of {spec.model.sequence_len}"
        emit(
            Notice("warning", f"{dropped}; keep them with data.packing=concat or a longer model.sequence_len")
        )

    emit(PhaseChanged("building", 0))
    if ranks.device.type == "cpu":
        fuse_loss_or_tell(home, emit)
    plan = training_plan(spec, feed.tokenizer.vocab_size, ranks.world_size)
    saved_rows = load_progress(checkpoint).micro_batch_size if checkpoint else None
    document_start = feed.tokenizer.bos_id if spec.data.document_mask else None
    plan = settle_micro_batch(spec, plan, precision, ranks, emit, saved_rows, document_start)
    network = build_network(spec, plan, precision, ranks, emit, document_start)
    model, optimizer = network.model, network.optimizer
    peak_flops, peak_source = None, "the main rank's to know"
    if ranks.is_main:  # it alone reports, and several probes at once would slow each other
        peak_flops, peak_source = device_peak(
            ranks.device, COMPUTE_DTYPES[precision], home / "cpu-peaks.json"
        )
    emit(
        RunPlanned(
            total_steps=plan.total_steps,
            total_tokens=plan.total_tokens,
            global_batch_tokens=plan.global_batch_tokens,
            grad_accum_steps=plan.grad_accum_steps,
            micro_batch_size=plan.micro_batch_size,
            vocab_size=feed.tokenizer.vocab_size,
            parameters=plan.parameters.total,
            scaling_parameters=plan.parameters.scaling,
            flops_per_token=plan.flops_per_token,
            peak_flops=peak_flops,
            peak_flops_source=peak_source,
            train_rows=None if feed.live else len(feed.train),
            held_out_rows=len(feed.held_out),
            bits_per_byte_floor=feed.bits_per_byte_floor,
        )
    )

    batches = Batches(
        feed.train,
        feed.order,
        global_rows=plan.global_batch_tokens // plan.shape.sequence_len,
        micro_batch_size=plan.micro_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device=ranks.device,
    )
    if (epochs := batches.epoch(plan.total_steps * batches.global_rows) or 0) > MANY_EPOCHS:
        emit(
            Notice(
                "warning",
                f"the run goes {epochs:.0f} times over its text; give it more, or train for fewer steps",
            )
        )

    lineage = Lineage(
        spec_hash=spec.content_hash(),
        tokenizer_hash=feed.tokenizer.content_hash,
        data_fingerprint=feed.fingerprint,
        parent=None,
    )
    progress = Progress()
    if checkpoint:
        if not is_forked_from(checkpoint):
            check_against_checkpoint(spec, checkpoint)
        lineage = check_lineage(read_manifest(checkpoint), lineage, ranks, emit)
        progress = load_checkpoint(checkpoint, model, optimizer, ranks)
        emit(Resumed(progress.step, checkpoint.name, progress.min_val_bpb))

    progress.micro_batch_size = plan.micro_batch_size
    loss_scale = (progress.loss_scale or LossScale()) if precision == "fp16" else None
    if checkpoint:  # last, since building a replica may draw random numbers
        restore_generators(checkpoint, ranks)

    return Job(
        spec=spec,
        plan=plan,
        ranks=ranks,
        emit=Outbox(emit, holds_steps=ranks.device.type != "cpu"),
        commands=commands,
        terminated=terminated,
        model=model,
        replica=network.replica,
        gradients=Gradients(model.parameters(), clip_norm=spec.train.grad_clip_norm, loss_scale=loss_scale),
        optimizer=optimizer,
        tokenizer=feed.tokenizer,
        token_bytes=torch.from_numpy(feed.tokenizer.token_byte_lengths()).to(ranks.device),
        batches=batches,
        held_out_rows=feed.held_out,
        live=feed.live,
        home=home,
        checkpoints=checkpoints,
        settings_file=settings_file,
        saver=Saver(checkpoints, ranks, spec.checkpoint),
        evidence=evidence,
        lineage=lineage,
        peak_flops=peak_flops,
        progress=progress,
        health=Health(
            progress, skip_spikes=spec.health.skip_spikes, rollbacks=ranks.broadcast_json(rollbacks)
        ),
        pace=Pace(),
        saved_step=progress.step if checkpoint else None,
    )


def settle_micro_batch(
    spec: RunSpec,
    plan: TrainingPlan,
    precision: Precision,
    ranks: Ranks,
    emit: Emit,
    saved_rows: int | None,
    document_start: int | None,
) -> TrainingPlan:
    """The plan in portions that fit, where the spec leaves that to the machine. All ranks.

    A resumed run keeps the rows of its checkpoint where they still divide a rank's share: other portions round sums
    otherwise. Raises SpecError when not even one row fits.
    """
    if spec.train.micro_batch_size != "auto":
        return plan
    if saved_rows and plan.rows_per_rank % saved_rows == 0:
        return plan.in_portions_of(saved_rows)
    choice = choose_micro_batch(
        plan,
        precision,
        spec.runtime.activation_checkpointing,
        ranks,
        build=lambda trial: build_network(spec, trial, precision, ranks, lambda _: None, document_start),
    )
    rows, times = choice.plan.micro_batch_size, choice.plan.grad_accum_steps
    emit(Notice("info", f"micro-batch: {rows} rows, {times} a step, are the most that fit: {choice.why}"))
    return choice.plan


def build_network(
    spec: RunSpec,
    plan: TrainingPlan,
    precision: Precision,
    ranks: Ranks,
    emit: Emit,
    document_start: int | None = None,
) -> Network:
    """A fresh model, its optimizer, and the model as it is trained; `document_start` as GPT takes it. All ranks."""
    dtype = COMPUTE_DTYPES[precision]
    attention = choose_attention(
        spec.runtime.attention,
        ranks.device,
        dtype,
        plan.shape.head_dim,
        masks_documents=document_start is not None,
    )
    emit(AttentionChosen(attention.kernel, attention.why))
    model = GPT(
        plan.shape,
        compute_dtype=dtype,
        device=ranks.device,
        recompute=spec.runtime.activation_checkpointing,
        attention=attention.kernel,
        document_start=document_start,
    )
    if precision == "fp8" and not model.train_in_fp8(spec.runtime.fp8_recipe):
        emit(Notice("warning", "fp8: no product of this model is wide enough; it trains in bf16"))
    model.init_weights(spec.seed)
    optimizer = build_optimizer(model, plan, spec.optim, ranks)  # it moves the parameters, so it comes first
    replica: nn.Module = model
    if mode := compile_mode(spec.runtime, ranks.device):
        replica = compiled_or_eager(replica, mode, emit)
    if ranks.world_size > 1:
        on_gpu = [ranks.device.index] if ranks.device.type == "cuda" else None
        replica = DistributedDataParallel(replica, device_ids=on_gpu, gradient_as_bucket_view=True)
    return Network(model, replica, optimizer)


def load_checkpoint(checkpoint: Path, model: GPT, optimizer: MuonAdamW, ranks: Ranks) -> Progress:
    """Put a checkpoint that was verified before into the model and the optimizer; returns how far it is."""
    progress = load_progress(checkpoint)
    model.load_state_dict(load_tensors(checkpoint, "model", ranks.device))
    # mapped from the file on the CPU: only this rank's part of it is read
    whole_state = load_tensors(checkpoint, "optimizer", torch.device("cpu"))
    optimizer.load_state_tensors(whole_state, progress.optimizer_steps)
    return progress


def check_lineage(saved: Manifest, now: Lineage, ranks: Ranks, emit: Emit) -> Lineage:
    """The lineage of a launch that goes on from a checkpoint. Raises SpecError when its token ids mean other text now."""
    name = folder_name(saved.step)
    if saved.lineage.tokenizer_hash != now.tokenizer_hash:
        raise SpecError(
            f"the text at data.source changed, and with it the tokenizer: {name} was trained with other token ids. "
            f"Restore the text as it was, or start a new run"
        )
    if saved.lineage.data_fingerprint != now.data_fingerprint:
        emit(
            Notice(
                "warning", f"the text at data.source changed since {name}: from here on other rows are drawn"
            )
        )
    if saved.world_size != ranks.world_size:
        ranks_then = f"{saved.world_size} rank{'s' if saved.world_size > 1 else ''}"
        emit(
            Notice(
                "info",
                f"{name} was saved by {ranks_then}: the same rows follow, but sums are rounded otherwise",
            )
        )
    return now.model_copy(update={"parent": name})


def fuse_loss_or_tell(home: Path, emit: Emit) -> None:
    """Compile the CPU's loss kernel, or say that the loss goes on in plain torch."""
    try:
        use_fused_kernel(home / "kernels")
    except NativeError as e:
        emit(
            Notice(
                "info", f"the loss runs without its compiled kernel, more slowly ({e}). See: llmctl doctor"
            )
        )


def compile_mode(runtime: RuntimeSpec, device: torch.device) -> str | None:
    """The mode for torch.compile; None to run eagerly."""
    if runtime.compile == "auto":
        return "default" if device.type == "cuda" else None
    return None if runtime.compile == "off" else runtime.compile


def compiled_or_eager(model: nn.Module, mode: str, emit: Emit) -> nn.Module:
    """The model compiled, or as it is, with a notice, where this machine has no working compiler."""
    # a constant of its own: a compilation kept on disk would answer for a compiler that is gone
    constant = float(time.time_ns() % 1_000_003)
    try:
        torch.compile(lambda x: x * constant, dynamic=False)(torch.zeros(8))
    except Exception as e:  # noqa: BLE001 - whatever the tool chain raises, eager is right and the reader is told
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        emit(
            Notice(
                "warning",
                f"torch.compile does not work here ({reason}); the run goes on eagerly. See: llmctl doctor",
            )
        )
        return model
    compiled: nn.Module = torch.compile(model, dynamic=False, mode=mode)  # type: ignore[assignment]  # typed as a plain callable
    return compiled
