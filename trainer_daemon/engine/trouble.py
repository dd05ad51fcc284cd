"""What the loop does about a step that is not sound: tell it, keep the evidence, go back. All ranks take part in each."""

from math import isfinite

import torch

from trainer_daemon.contract.alerts import RATES, alert
from trainer_daemon.contract.errors import RunFailedError
from trainer_daemon.contract.events import Finished, Notice, RanksPaced, Resumed
from trainer_daemon.contract.rundir import write_json
from trainer_daemon.engine import suspects
from trainer_daemon.engine.checkpoint.files import choose_checkpoint, restore_generators
from trainer_daemon.engine.duties import settle_save
from trainer_daemon.engine.health import MAX_ROLLBACKS, MAX_SKIPPED_STEPS, Verdict, in_words, median_of
from trainer_daemon.engine.job import Job
from trainer_daemon.engine.network import load_checkpoint
from trainer_daemon.engine.pace import WINDOW_STEPS
from trainer_daemon.engine.step_meter import StepCost

EARLY_STEPS = 100
"""A loss that is not finite by then has met the full learning rate too soon, as often as one that is too high."""


def record_doubt(
    job: Job, verdict: Verdict, loss_nats: float, rank_loss_nats: float, grad_norm: float
) -> None:
    """Tell what is wrong with this step, and keep what would explain it. All ranks, while the gradients are there."""
    doubt, step, progress = verdict.doubt, job.progress.step + 1, job.progress
    assert doubt is not None
    rank_losses = [losses[0] for losses in job.ranks.exchange(rank_loss_nats)]
    norms, rows = job.gradient_norms(), suspects.losses_by_row(job)
    if not job.ranks.is_main:
        return
    usual_loss, usual_norm = median_of(progress.usual_loss_nats), median_of(progress.usual_grad_norm)
    record = {
        "step": step,
        "doubt": doubt,
        "loss_nats": finite_or_none(loss_nats),
        "loss_nats_by_rank": [finite_or_none(loss) for loss in rank_losses],
        "usual_loss_nats": usual_loss,
        "grad_norm": finite_or_none(grad_norm),
        "usual_grad_norm": usual_norm,
        "gradient_norms": {name: finite_or_none(norm) for name, norm in norms.items()},
        "rows": job.batches.global_row_numbers(progress.samples_seen),
        "rows_by_rank": job.batches.global_rows // job.ranks.world_size,
        "worst_rows": suspects.with_text(job, rows),
    }
    name, family = f"step-{step:08d}-{doubt}.json", job.model.shape.family
    seen = in_words(
        doubt, loss_nats, usual_loss, grad_norm, usual_norm, rank_losses, norms
    ) + suspects.in_words(doubt, rows)
    if (factor := job.spec.schedule.learning_rate_factor) > 1:
        seen += f"; the learning rates are at {factor:g} times their plan (schedule.learning_rate_factor)"
    try:
        job.run.evidence.mkdir(parents=True, exist_ok=True)
        write_json(job.run.evidence / name, record)
    except OSError as e:
        job.emit(Notice("warning", f"the evidence of step {step} could not be written: {e}"))
        job.emit(alert(doubt, step, seen, family=family))
    else:
        job.emit(alert(doubt, step, seen, f"{job.run.evidence.name}/{name}", family=family))


def finite_or_none(value: float) -> float | None:
    """For JSON, which knows neither NaN nor infinity."""
    return value if isfinite(value) else None


def roll_back(job: Job) -> bool:
    """Go on from the newest checkpoint whose parameters are finite, behind the rows drawn since. All ranks.

    False, and nothing changed that matters any more, when there is none or it was done often enough.
    """
    if job.health.rollbacks == MAX_ROLLBACKS:
        return False
    settle_save(job, wait=True)
    failed_step, samples_seen = job.progress.step, job.progress.samples_seen
    before: int | None = None
    while True:
        try:
            checkpoint, _ = choose_checkpoint(job.run.checkpoints, job.ranks, before)
        except RunFailedError:  # there are some, and none is good
            return False
        if checkpoint is None:
            return False
        saved = load_checkpoint(checkpoint, job.model, job.optimizer, job.ranks)
        if job.parameters_are_finite():
            break
        before = saved.step
    restore_generators(checkpoint, job.ranks)
    job.progress.become(saved)
    job.progress.samples_seen = samples_seen
    job.progress.micro_batch_size = job.plan.micro_batch_size  # of this launch, not of the one that saved it
    job.saved_step = saved.step
    job.health.rolled_back()
    job.emit(Resumed(saved.step, checkpoint.name, saved.min_val_bpb))
    seen = (
        f"not finite for {MAX_SKIPPED_STEPS} steps in a row up to step {failed_step}; back to {checkpoint.name}, "
        f"rollback {job.health.rollbacks} of {MAX_ROLLBACKS}"
    )
    job.emit(alert("rolled_back", saved.step, seen))
    return True


def give_up(job: Job) -> Finished:
    """The last word of a run whose loss stays not finite, and that cannot go back to where it was finite."""
    rollbacks = job.health.rollbacks
    tried = (
        f"after {rollbacks} rollbacks of this run" if rollbacks else "with no good checkpoint to go back to"
    )
    factor = job.spec.schedule.learning_rate_factor
    rates = RATES[job.model.shape.family]["rates"]
    advice = f"lower {rates if factor <= 1 else f'schedule.learning_rate_factor, which is {factor:g}'}"
    if job.progress.step < EARLY_STEPS:
        advice += ", or raise schedule.warmup_steps"
    if job.model.compute_dtype != torch.float32:
        advice += ", or use runtime.precision=fp32"
    seen = f"not finite for {MAX_SKIPPED_STEPS} steps in a row, {tried}"
    return Finished("failed", job.progress.step, f"{seen}; {advice}", cause="nan")


def compare_pace(job: Job, cost: StepCost) -> None:
    """Tell every rank's pace, and of one that is slower than the others for long. All ranks."""
    if job.ranks.world_size == 1:
        return
    job.pace.note(cost.data_seconds, cost.forward_seconds)
    if job.pace.window_is_full():
        by_rank = job.ranks.exchange(*job.pace.take_medians())
        data, forward = (list(seconds) for seconds in zip(*by_rank, strict=True))
        job.emit(RanksPaced(job.progress.step, WINDOW_STEPS, data, forward))
        for slow in job.pace.compare(by_rank):
            job.emit(alert("slow_rank", job.progress.step, slow))
