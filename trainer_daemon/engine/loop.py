"""The training loop, to be read aloud. Every rank runs it; each duty says who takes part.

It does not know that it is watched: it is handed a job whose `emit` takes events and whose `commands` gives requests. All ranks turn at the same step boundary, because the wish to turn rides on the reduce that every step makes.
"""

from dataclasses import asdict
from math import isfinite

import torch

from trainer_daemon.contract.events import Finished, Notice, TrainStep
from trainer_daemon.engine import duties
from trainer_daemon.engine.job import Job
from trainer_daemon.engine.optim import schedule
from trainer_daemon.engine.step_meter import StepMeter

MAX_SKIPPED_STEPS = 3
"""Steps in a row whose loss or gradient is not finite before the run is given up."""


def train(job: Job) -> Finished:
    """Train until the plan's last step, a stop, or a loss that stays not finite. Returns the run's last word."""
    plan, ranks, progress = job.plan, job.ranks, job.progress
    skipped_in_a_row = 0
    attention_wanted = False
    meter = StepMeter(ranks.device)
    job.enter("running")

    while True:
        # once in a while: save. All ranks take part; it comes first, so that nothing below can cost the work, and is
        # written while they go on.
        if duties.save_is_due(job):
            duties.save(job)
        # once in a while: held-out loss. All ranks take part.
        if progress.step == 0 or duties.is_due(job, job.spec.eval.every):
            duties.evaluate(job)
        # once in a while: let the model write. The main rank only; the others meet it again at the next reduce.
        if duties.is_due(job, job.spec.sample.every):
            duties.write_scheduled_samples(job)
        if progress.step >= plan.total_steps:
            duties.settle_save(job, wait=True)
            if job.saved_step == progress.step:
                return Finished("completed", progress.step, f"all {plan.total_steps} steps done")
            return Finished(
                "failed", progress.step, "all steps done, but the last checkpoint could not be written"
            )
        # when someone asked for something: obey. All ranks take part.
        if attention_wanted and (last_word := duties.obey(job)):
            return last_word

        # one optimizer step over the global batch
        meter.start()
        loss_sum = torch.zeros((), device=ranks.device)
        for micro_step, (inputs, targets) in enumerate(
            job.batches.micro_batches(progress.samples_seen), start=1
        ):
            meter.end_of("data")
            with job.sync_gradients(is_last=micro_step == plan.grad_accum_steps):
                loss = job.replica(inputs, targets) / plan.grad_accum_steps
                job.gradients.backward(loss)
            loss_sum += loss.detach()  # stays on the device, which works on while the next rows are read
            meter.end_of("compute")
        grad_norm = job.gradients.finish()
        meter.end_of("compute")

        # the one exchange of a step: the loss over all ranks, whose gradient overflowed, and who wants to turn
        loss_total, overflows, wishes = ranks.sum(
            float(loss_sum), float(not isfinite(grad_norm)), float(job.wants_attention())
        )
        loss_nats, attention_wanted = loss_total / ranks.world_size, wishes > 0
        meter.end_of("wait")
        learning_rate_scale = schedule.learning_rate_scale(progress.step, plan.total_steps, job.spec.schedule)
        is_finite = isfinite(loss_nats) and not overflows
        scale_was_lowered = job.gradients.adapt(is_finite=is_finite)
        if is_finite:
            job.saver.wait_for_copy()
            meter.end_of("wait")
            job.optimizer.step(
                learning_rate_scale=learning_rate_scale,
                muon_momentum=schedule.muon_momentum(progress.step, plan.total_steps, job.spec.schedule),
                weight_decay_scale=schedule.weight_decay_scale(progress.step, plan.total_steps),
            )
        job.model.zero_grad()
        meter.end_of("optimizer")
        cost = meter.finish()

        progress.step += 1
        progress.samples_seen += job.batches.global_rows
        progress.tokens += plan.global_batch_tokens
        progress.loss_nats = loss_nats if is_finite else None
        job.emit(
            TrainStep(
                step=progress.step,
                loss_nats=loss_nats,
                grad_norm=grad_norm,
                learning_rate_scale=learning_rate_scale,
                learning_rates=job.learning_rates(learning_rate_scale),
                tokens=progress.tokens,
                tokens_per_second=plan.global_batch_tokens / cost.step_seconds,
                mfu=job.mfu(cost.step_seconds),
                epoch=job.batches.epoch(progress.samples_seen),
                **asdict(cost),
            )
        )

        # a step that is not finite changed nothing on any rank: the sum above is the same on all of them
        skipped_in_a_row = 0 if is_finite or scale_was_lowered else skipped_in_a_row + 1
        if scale_was_lowered:
            job.emit(Notice("info", f"step {progress.step} overflowed fp16 and was skipped on all ranks"))
        elif skipped_in_a_row:
            job.emit(
                Notice(
                    "warning",
                    f"step {progress.step} was skipped on all ranks: its loss or gradient is not finite",
                )
            )
        if skipped_in_a_row == MAX_SKIPPED_STEPS:
            advice = "lower optim.matrix_lr and optim.embedding_lr, or use runtime.precision=fp32"
            return Finished(
                "failed", progress.step, f"not finite for {MAX_SKIPPED_STEPS} steps in a row; {advice}"
            )
