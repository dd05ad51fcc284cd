"""The training loop, to be read aloud. Every rank runs it; each duty says who takes part.

It does not know that it is watched: it is handed a job whose `emit` takes events and whose `commands` gives requests.
All ranks turn at the same step boundary, because the wish to turn rides on the reduce that every step makes.
"""

from math import isfinite

import torch

from trainer_daemon.contract.events import Finished, Notice, TrainStep
from trainer_daemon.engine import benchmark, commands, duties, expert_use, replicas, trouble
from trainer_daemon.engine.job import Job
from trainer_daemon.engine.optim import schedule
from trainer_daemon.engine.step_meter import StepMeter


def train(job: Job) -> Finished:
    """Train until the plan's last step, a stop, or a loss that stays not finite. Returns the run's last word."""
    plan, ranks, progress = job.plan, job.ranks, job.progress
    attention_wanted = job.live is not None  # are the first rows there?
    meter = StepMeter(ranks.device)
    job.enter("running")

    while True:
        # on request: are all replicas the same? Before a save, which would keep what is wrong. All ranks.
        if replicas.replica_check_is_due(job) and (last_word := replicas.check_replicas(job)[1]):
            return last_word
        # once in a while: save. All ranks take part; it comes first, so that nothing below can cost the work, and is
        # written while they go on.
        if duties.save_is_due(job):
            duties.save(job)
        # once in a while: held-out loss. All ranks take part.
        if duties.evaluation_is_due(job):
            duties.evaluate(job)
        # once in a while: CORE's tasks. All ranks take part.
        if benchmark.is_due(job):
            benchmark.evaluate(job)
        # once in a while: let the model write. The main rank only; the others meet it again at the next reduce.
        if duties.samples_are_due(job):
            duties.write_scheduled_samples(job)
        if progress.step >= plan.total_steps:
            duties.settle_save(job, wait=True)
            if job.saved_step == progress.step:
                return Finished("completed", progress.step, f"all {plan.total_steps} steps done")
            return Finished(
                "failed", progress.step, "all steps done, but the last checkpoint could not be written"
            )
        # when someone asked for something, or the next rows are still being made: obey, wait. All ranks take part.
        if attention_wanted and (last_word := commands.obey(job)):
            return last_word

        # one optimizer step over the global batch
        meter.start()
        loss_sum = torch.zeros((), device=ranks.device)
        for micro_step, (inputs, targets, weight) in enumerate(
            job.batches.micro_batches(progress.samples_seen), start=1
        ):
            meter.end_of("data")
            with job.sync_gradients(is_last=micro_step == plan.grad_accum_steps):
                loss = job.replica(inputs, targets) * weight
                meter.end_of("forward")
                job.gradients.backward(loss)
            loss_sum += loss.detach()  # stays on the device, which works on while the next rows are read
            job.emit.release()  # the news of the step before: from here on the device has work to do meanwhile
            meter.end_of("compute")
        # did anyone ask for something? Looked for before the host waits for the device.
        wants_attention = job.wants_attention()
        rank_grad_norm = job.gradients.finish()
        meter.end_of("compute")

        # the one exchange of a step: the loss over all ranks, a gradient norm that all agree on, who wants to turn, and
        # what is due by the main rank's clock
        loss_total, grad_norm, wishes, gone_off = ranks.sum(
            float(loss_sum),
            rank_grad_norm / ranks.world_size,
            float(wants_attention),
            duties.timers_gone_off(job),
        )
        loss_nats, attention_wanted = loss_total / ranks.world_size, wishes > 0
        job.timers.agree(gone_off)
        meter.end_of("wait")
        learning_rate_scale = schedule.learning_rate_scale(progress.step, plan.total_steps, job.spec.schedule)
        # is this step sound? All ranks find the same, and one that is left out changes nothing on any of them.
        scale_was_lowered = job.gradients.adapt(is_finite=isfinite(loss_nats) and isfinite(grad_norm))
        verdict = job.health.judge(loss_nats, grad_norm, is_answered=scale_was_lowered)
        if verdict.is_news:
            trouble.record_doubt(job, verdict, loss_nats, float(loss_sum), grad_norm)
        if not verdict.is_left_out:
            job.saver.wait_for_copy()
            meter.end_of("wait")
            job.optimizer.step(
                learning_rate_scale=learning_rate_scale,
                muon_momentum=schedule.muon_momentum(
                    progress.step, plan.total_steps, job.spec.schedule, job.spec.optimizer
                ),
                weight_decay_scale=schedule.weight_decay_scale(
                    progress.step, plan.total_steps, job.spec.schedule
                ),
            )
        job.model.zero_grad()
        meter.end_of("optimizer")
        cost = meter.finish()

        progress.step += 1
        ranks.flight.step = progress.step
        progress.samples_seen += job.batches.global_rows
        progress.tokens += plan.global_batch_tokens
        progress.loss_nats = loss_nats if isfinite(loss_nats) else None
        job.emit.step_is_done(
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
                was_skipped=verdict.is_left_out,
                **cost._asdict(),
            )
        )

        if scale_was_lowered:
            job.emit(Notice("info", f"step {progress.step} overflowed fp16 and was skipped on all ranks"))
        # every ten steps: how evenly are a mixture's experts used? All ranks.
        expert_use.tell(job)
        # every fifty steps: is one rank slower than the others? All ranks.
        trouble.compare_pace(job, cost)
        # what stays not finite is in the parameters or in the data: back to a checkpoint, and past that data. All ranks.
        if job.health.must_roll_back and not trouble.roll_back(job):
            return trouble.give_up(job)
