"""What the loop does once in a while: save, evaluate, sample. Each says which ranks must call it.

A duty that fails is an event, not the end of a run.
"""

import time
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from math import isfinite, nan
from typing import Literal, Protocol

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import (
    CheckpointFailed,
    CheckpointSaved,
    Evaluated,
    Notice,
    SampleChunk,
    Sampled,
)
from trainer_daemon.contract.generation import Generation, Piece
from trainer_daemon.contract.output import say
from trainer_daemon.engine.checkpoint import store
from trainer_daemon.engine.checkpoint.saver import SaveResult
from trainer_daemon.engine.data.feed import STATE_FILE, live_state
from trainer_daemon.engine.evals.bpb import bits_per_byte, evaluated_rows, held_out_sums, token_losses
from trainer_daemon.engine.inference.batch import Batch, write
from trainer_daemon.engine.inference.decoder import Decoder
from trainer_daemon.engine.inference.uncached import UncachedDecoder, decoder_for
from trainer_daemon.engine.job import Job
from trainer_daemon.engine.timers import Duty

WORD_SECONDS = 10.0
"""While all wait for a save, the main rank gives the others a sign of life this often: no exchange ever nears its timeout."""
CHUNK_SECONDS = 0.1
"""A sample that someone watches is sent on this often."""


def save_is_due(job: Job) -> bool:
    """Whether the present step is to be saved and is neither on disk nor on its way there; the last one always is."""
    step = job.progress.step
    if job.health.skipped_in_a_row and step < job.plan.total_steps:  # a rollback must not find it
        return False
    due = _interval_is_over(job, "save", job.spec.checkpoint) or step == job.plan.total_steps
    return due and step not in (job.saved_step, job.saver.in_flight)


def evaluation_is_due(job: Job) -> bool:
    """Whether the present step is to be evaluated: by its intervals, before the first step and after the last."""
    return _is_scheduled(job.spec.eval) and (
        job.progress.step == 0 or _is_due(job, "evaluate", job.spec.eval)
    )


def samples_are_due(job: Job) -> bool:
    """Whether the spec's prompts are to be continued now: by their intervals, and after the last step."""
    return _is_scheduled(job.spec.sample) and _is_due(job, "sample", job.spec.sample)


class Intervals(Protocol):
    """The part of a spec section that says when a duty is due."""

    @property
    def every(self) -> int | Literal["off"]: ...
    @property
    def every_minutes(self) -> float | Literal["off"]: ...


def _is_scheduled(intervals: Intervals) -> bool:
    return not intervals.every == intervals.every_minutes == "off"


def _is_due(job: Job, duty: Duty, intervals: Intervals) -> bool:
    return _interval_is_over(job, duty, intervals) or job.progress.step == job.plan.total_steps


def _interval_is_over(job: Job, duty: Duty, intervals: Intervals) -> bool:
    by_steps = intervals.every != "off" and job.progress.step > 0 and job.progress.step % intervals.every == 0
    return by_steps or job.timers.is_due(duty)


def timers_gone_off(job: Job) -> float:
    """Which duties are due by this rank's clock, as the word that the main rank adds to the exchange; others add 0."""
    spec = job.spec
    minutes: dict[Duty, float | Literal["off"]] = {
        "save": spec.checkpoint.every_minutes,
        "evaluate": spec.eval.every_minutes,
        "sample": spec.sample.every_minutes,
    }
    return job.timers.gone_off(minutes) if job.ranks.is_main else 0.0


def save(job: Job, *, wait: bool = False) -> bool:
    """Begin a checkpoint of the present step, and with `wait` see it published. All ranks.

    One at a time: while an earlier one is being written the step is not saved, unless it is the last one or `wait` is
    set. False when there is no checkpoint, which an event says.
    """
    step = job.progress.step
    job.timers.restart("save")
    settle_save(job, wait=wait or step == job.plan.total_steps)
    if step == job.saved_step:
        return True
    if (earlier := job.saver.in_flight) is not None:
        job.emit(Notice("warning", f"step {step} was not saved: step {earlier} is still being written"))
        return False
    with job.phase("saving"):
        job.progress.optimizer_steps = job.optimizer.steps_taken
        job.progress.loss_scale = job.gradients.loss_scale
        job.saver.begin(
            job.progress,
            job.model.state_dict(),
            job.optimizer.state_tensors(),
            texts={
                "spec.json": job.spec.model_dump_json(indent=1),
                "tokenizer.json": job.tokenizer.to_json(),
                **({STATE_FILE: live_state(job.spec, job.live)} if job.live else {}),
            },
            lineage=job.lineage,
        )
        if job.saver.is_asynchronous and not wait:
            return True
        settle_save(job, wait=True)
        return job.saved_step == step


def settle_save(job: Job, *, wait: bool = False) -> None:
    """Hear from the main rank whether the save in flight has ended, and how; with `wait`, once it has. All ranks."""
    if job.saver.in_flight is None:
        return
    # said, so that nobody takes a long wait for a hang
    with job.phase("saving") if wait else nullcontext():
        while job.saver.in_flight is not None:
            result = job.saver.result(WORD_SECONDS if wait else 0) if job.ranks.is_main else None
            told = job.ranks.broadcast_json(asdict(result) if result else None)
            if told is not None:
                job.saver.settle()
                _count_save(job, SaveResult(**told))
            elif not wait:
                return


def finish_save(job: Job) -> None:
    """Wait for the save in flight and count it, without an exchange: after whatever ended the training. The main rank."""
    if job.saver.in_flight is None:
        return
    job.enter("saving")
    job.saver.close()
    if result := job.saver.result(0):
        job.saver.settle()
        _count_save(job, result)


def _count_save(job: Job, result: SaveResult) -> None:
    """Take in how a save ended: only now is it one."""
    if result.error is not None:
        job.emit(CheckpointFailed(result.step, result.error))
        return
    job.saved_step = result.step
    job.emit(
        CheckpointSaved(
            result.step,
            result.path,
            result.bytes,
            result.loss_nats,
            result.seconds,
            result.blocked_seconds,
        )
    )
    if result.retention_error is not None:
        job.emit(Notice("warning", f"old checkpoints could not be deleted: {result.retention_error}"))
    _record_score(job)


def _record_score(job: Job) -> None:
    """Note the last evaluation beside its checkpoint, once both are there. The main rank only."""
    if not job.ranks.is_main or job.last_score is None or job.last_score[0] != job.saved_step:
        return
    try:
        store.record_score(job.run.checkpoints, *job.last_score)
    except OSError as e:
        job.emit(Notice("warning", f"the score of step {job.saved_step} could not be noted beside it: {e}"))


def evaluate(job: Job) -> bool:
    """Held-out loss in bits per byte. All ranks. False when it failed, which an event says."""
    progress, ranks = job.progress, job.ranks
    job.timers.restart("evaluate")
    with job.phase("evaluating"):
        started = time.perf_counter()
        parts = evaluated_rows(
            job.held_out_rows,
            max_tokens=job.spec.eval.tokens,
            batch_rows=job.plan.micro_batch_size,
            world_size=ranks.world_size,
        )
        job.model.eval()
        error = ""
        try:
            sums = [
                total
                for part in parts
                for total in held_out_sums(
                    partial(token_losses, job.model),
                    job.held_out_rows,
                    job.token_bytes,
                    numbers=part,
                    batch_rows=job.plan.micro_batch_size,
                    rank=ranks.rank,
                    world_size=ranks.world_size,
                )
            ]
        except Exception as e:  # noqa: BLE001  # out of memory, or whatever a changed model raises: never the run's end
            error = f"{type(e).__name__}: {e}"
            say(f"evaluation at step {progress.step} failed: {error}")
            sums = [nan] * 6  # a rank that failed still joins the sum, and so every rank learns of it
        finally:
            job.model.train()
        totals = ranks.sum(*sums)
        in_whole_batches, in_the_rest = totals[:3], totals[3:]
        nats_sum, bytes_sum, tokens = (a + b for a, b in zip(in_whole_batches, in_the_rest, strict=True))
        if not isfinite(nats_sum) or not bytes_sum:
            fell = [str(rank) for rank, (failed,) in enumerate(ranks.exchange(float(bool(error)))) if failed]
            where = f"failed on rank {', '.join(fell)}" if fell else "gave no finite number"
            why = f": {error}" if error else f"; see: logs/rank-{fell[0]}.log" if fell else ""
            job.emit(Notice("error", f"evaluation at step {progress.step} {where}{why}"))
            return False
        result = bits_per_byte(nats_sum, bytes_sum, tokens)
        progress.min_val_bpb = min(result.val_bpb, progress.min_val_bpb or result.val_bpb)
        seconds = time.perf_counter() - started
        job.emit(
            Evaluated(
                progress.step,
                result.val_bpb,
                result.loss_nats,
                result.tokens,
                seconds,
                rows=sum(map(len, parts)),
                val_bpb_whole_batches=bits_per_byte(*in_whole_batches).val_bpb if parts[0] else None,
            )
        )
        job.last_score = progress.step, result.val_bpb
        _record_score(job)
    return True


def write_scheduled_samples(job: Job) -> None:
    """Continue the spec's prompts. All ranks call it, the main one writes; the others meet it again at the next exchange."""
    job.timers.restart("sample")
    if not job.ranks.is_main:
        return
    settings = job.spec.sample
    for prompt in settings.prompts:
        write_sample(
            job,
            Generation(
                prompt=prompt,
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                top_k=settings.top_k,
                seed=job.spec.seed,
            ),
        )


def write_sample(job: Job, request: Generation, request_id: str | None = None) -> str | None:
    """One sample from the model in training, sent on in chunks when someone asked for it. The main rank only.

    Returns why there is none, which is an event as well; None where there is one.
    """
    with job.phase("sampling"):
        started = last_sent = time.perf_counter()
        text, unsent, last = "", "", Piece("", 0, done=True, finish_reason="length")
        try:
            for last in write(Batch(_present_decoder(job), job.tokenizer, rows=1), request):
                unsent += last.text
                if request_id and unsent and time.perf_counter() - last_sent > CHUNK_SECONDS:
                    job.emit(SampleChunk(request_id, unsent))
                    text, unsent, last_sent = text + unsent, "", time.perf_counter()
        except Exception as e:  # noqa: BLE001  # whatever a changed model raises, a sample never costs the run
            reason = str(e) if isinstance(e, LlmctlError) else f"{type(e).__name__}: {e}"
            job.emit(Notice("error", f"sampling at step {job.progress.step} failed: {reason}"))
            return reason
        if request_id and unsent:
            job.emit(SampleChunk(request_id, unsent))
        job.emit(
            Sampled(
                step=job.progress.step,
                prompt=request.prompt,
                text=text + unsent,
                tokens=last.tokens,
                finish_reason=last.finish_reason or "length",
                temperature=request.temperature,
                top_k=request.top_k,
                seed=request.seed,
                seconds=time.perf_counter() - started,
                request_id=request_id,
                top_p=request.top_p,
                min_p=request.min_p,
                repetition_penalty=request.repetition_penalty,
                stop=request.stop,
                forgotten=last.forgotten,
            )
        )
    return None


def _present_decoder(job: Job) -> Decoder | UncachedDecoder:
    """What writes with the present weights; tells once when it is the slow one. The main rank only."""
    if job.decoder_is_behind:
        return UncachedDecoder(job.model)
    decoder = decoder_for(job.model)
    if isinstance(decoder, UncachedDecoder):
        job.decoder_is_behind = True
        job.emit(Notice("warning", decoder.why))
    return decoder
