"""From a frozen spec to everything that the loop needs, in the order in which things can be wrong: the device, the data, the
plan, the checkpoint. All ranks assemble the same job.
"""

from pathlib import Path

import torch

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.estimate import Precision
from trainer_daemon.contract.events import (
    AttemptStarted,
    Notice,
    PhaseChanged,
    PrepareProgress,
    Resumed,
    RunPlanned,
)
from trainer_daemon.contract.rundir import begins_with
from trainer_daemon.contract.scaling import TrainingPlan, training_plan
from trainer_daemon.contract.settings import check_against_checkpoint
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.engine.checkpoint.files import (
    Progress,
    choose_checkpoint,
    load_progress,
    restore_generators,
)
from trainer_daemon.engine.checkpoint.saver import Saver
from trainer_daemon.engine.checkpoint.store import Lineage, Manifest, folder_name, read_manifest
from trainer_daemon.engine.data.batches import Batches
from trainer_daemon.engine.data.feed import Feed, open_feed
from trainer_daemon.engine.evals.core import open_core
from trainer_daemon.engine.flops import device_peak
from trainer_daemon.engine.health import Health
from trainer_daemon.engine.job import Job, Launch
from trainer_daemon.engine.micro_batch import settle_micro_batch
from trainer_daemon.engine.network import build_network, fuse_loss_or_tell, load_checkpoint
from trainer_daemon.engine.optim.gradients import Gradients, LossScale
from trainer_daemon.engine.outbox import Emit, Outbox
from trainer_daemon.engine.pace import Pace
from trainer_daemon.engine.precision import COMPUTE_DTYPES, choose_precision
from trainer_daemon.engine.ranks import Ranks

MAX_TOKENS_DROPPED = 0.4
"""Share of a corpus that packing may drop before the reader is told."""
MANY_EPOCHS = 4.0
"""Up to about here repeated text is nearly as good as new text (arXiv 2305.16264); beyond, the reader is told."""


class StoppedBeforeTrainingError(Exception):
    """Someone asked the run to stop while it was still being put together: there is nothing to save."""


def build_job(spec: RunSpec, ranks: Ranks, launch: Launch) -> Job:
    """Assemble an attempt, from the newest good checkpoint where there is one. All ranks.

    Raises SpecError when the spec cannot run on this data or these ranks, or not go on from its checkpoint, RunFailedError
    when checkpoints exist but none can be trusted, and StoppedBeforeTrainingError as soon as a stop is wanted during a long
    preparation.
    """
    emit = launch.emit
    if spec.eval.core_every != "off":
        open_core(spec.eval, launch.home)  # refused now rather than found out after hours
    precision = choose_precision(spec.runtime, ranks.device)
    emit(_attempt_started(launch.attempt, ranks, precision))

    # every rank prepares: whoever comes first does the work, the others wait on a file lock and find it done,
    # so that no exchange between ranks can time out over a large corpus
    emit(PhaseChanged("preparing", 0))

    def report(what: str, done: int, total: int | None, unit: str) -> None:
        emit(PrepareProgress(what, done, total, unit))
        if launch.commands.stop_wanted():
            raise StoppedBeforeTrainingError

    checkpoint, refused = choose_checkpoint(launch.run.checkpoints, ranks)
    for reason in refused:
        emit(Notice("warning", f"resume passed over a checkpoint: {reason}"))
    saved = load_progress(checkpoint) if checkpoint else Progress()
    feed = open_feed(
        spec,
        ranks,
        home=launch.home,
        window=launch.run.window,
        checkpoint=checkpoint,
        samples_seen=saved.samples_seen,
        progress=report,
    )
    try:
        return _assemble(spec, ranks, launch, precision, feed, checkpoint)
    except BaseException:
        feed.close()
        raise


def _assemble(
    spec: RunSpec, ranks: Ranks, launch: Launch, precision: Precision, feed: Feed, checkpoint: Path | None
) -> Job:
    """`build_job` once the data is open."""
    emit = launch.emit
    _tell_what_packing_drops(spec, feed, emit)

    emit(PhaseChanged("building", 0))
    plan = training_plan(spec, feed.tokenizer.vocab_size, ranks.world_size)
    saved_rows = load_progress(checkpoint).micro_batch_size if checkpoint else None
    document_start = feed.tokenizer.bos_id if spec.data.document_mask else None
    plan = settle_micro_batch(spec, plan, precision, ranks, emit, saved_rows, document_start)
    network = build_network(spec, plan, precision, ranks, emit, document_start)
    if ranks.device.type == "cpu" and network.model.caps_logits:
        fuse_loss_or_tell(launch.home, emit)
    peak_flops, peak_source = None, "the main rank's to know"
    if ranks.is_main:  # it alone reports, and several probes at once would slow each other
        peaks_file = launch.home / "cpu-peaks.json"
        peak_flops, peak_source = device_peak(ranks.device, COMPUTE_DTYPES[precision], peaks_file)
    emit(_run_planned(plan, feed, peak_flops, peak_source))
    batches = _batches(plan, feed, ranks)
    _tell_of_many_epochs(plan, batches, emit)

    lineage, progress = _lineage_of(spec, feed), Progress()
    if checkpoint:
        if not begins_with(launch.run, checkpoint):  # a fork's hyper-parameters may be others
            check_against_checkpoint(spec, checkpoint)
        lineage = check_lineage(read_manifest(checkpoint), lineage, ranks, emit)
        progress = load_checkpoint(checkpoint, network.model, network.optimizer, ranks)
        emit(Resumed(progress.step, checkpoint.name, progress.min_val_bpb))
    progress.micro_batch_size = plan.micro_batch_size
    loss_scale = (progress.loss_scale or LossScale()) if precision == "fp16" else None
    parameters, clip_norm = network.model.parameters(), spec.train.grad_clip_norm
    rollbacks = ranks.broadcast_json(launch.rollbacks)
    if checkpoint:  # last, since building a replica may draw random numbers
        restore_generators(checkpoint, ranks)

    return Job(
        spec=spec,
        plan=plan,
        ranks=ranks,
        emit=Outbox(emit, holds_steps=ranks.device.type != "cpu"),
        commands=launch.commands,
        run=launch.run,
        home=launch.home,
        model=network.model,
        replica=network.replica,
        gradients=Gradients(parameters, clip_norm=clip_norm, loss_scale=loss_scale),
        optimizer=network.optimizer,
        tokenizer=feed.tokenizer,
        token_bytes=torch.from_numpy(feed.tokenizer.token_byte_lengths()).to(ranks.device),
        batches=batches,
        held_out_rows=feed.held_out,
        live=feed.live,
        saver=Saver(launch.run.checkpoints, ranks, spec.checkpoint),
        lineage=lineage,
        peak_flops=peak_flops,
        progress=progress,
        health=Health(progress, skip_spikes=spec.health.skip_spikes, rollbacks=rollbacks),
        pace=Pace(),
        saved_step=progress.step if checkpoint else None,
    )


def _attempt_started(attempt: int, ranks: Ranks, precision: Precision) -> AttemptStarted:
    device = ranks.device
    return AttemptStarted(
        attempt=attempt,
        world_size=ranks.world_size,
        device=device.type,
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=precision,
        threads_per_rank=torch.get_num_threads(),
        torch_version=str(torch.__version__),  # it is a kind of str
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def _run_planned(plan: TrainingPlan, feed: Feed, peak_flops: float | None, peak_source: str) -> RunPlanned:
    return RunPlanned(
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


def _batches(plan: TrainingPlan, feed: Feed, ranks: Ranks) -> Batches:
    return Batches(
        feed.train,
        feed.order,
        global_rows=plan.global_batch_tokens // plan.shape.sequence_len,
        micro_batch_size=plan.micro_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device=ranks.device,
    )


def _tell_what_packing_drops(spec: RunSpec, feed: Feed, emit: Emit) -> None:
    if feed.train.tokens_dropped > MAX_TOKENS_DROPPED:
        dropped = f"{feed.train.tokens_dropped:.0%} of the training tokens fit in no row of {spec.model.sequence_len}"
        advice = "keep them with data.packing=concat or a longer model.sequence_len"
        emit(Notice("warning", f"{dropped}; {advice}"))


def _tell_of_many_epochs(plan: TrainingPlan, batches: Batches, emit: Emit) -> None:
    epochs = batches.epoch(plan.total_steps * batches.global_rows) or 0
    if epochs > MANY_EPOCHS:
        advice = "give it more, or train for fewer steps"
        emit(Notice("warning", f"the run goes {epochs:.0f} times over its text; {advice}"))


def _lineage_of(spec: RunSpec, feed: Feed) -> Lineage:
    """The lineage of a launch that begins anew."""
    return Lineage(
        spec_hash=spec.content_hash(),
        tokenizer_hash=feed.tokenizer.content_hash,
        data_fingerprint=feed.fingerprint,
        parent=None,
    )


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
