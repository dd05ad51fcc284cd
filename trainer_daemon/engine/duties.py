"""What the loop does once in a while: save, evaluate, sample, obey. Each says which ranks must call it.

A duty that fails is an event, not the end of a run. Commands are read by the main rank alone and announced to the
others before anything is done about them, so no rank ever acts on its own.
"""

import sys
import time
from math import isfinite, nan

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import (
    CheckpointFailed,
    CheckpointSaved,
    Command,
    CommandDone,
    Evaluated,
    Finished,
    Notice,
    SampleChunk,
    Sampled,
    from_fields,
    to_fields,
)
from trainer_daemon.engine.checkpoint import store
from trainer_daemon.engine.checkpoint.files import SaveFailedError, save_checkpoint
from trainer_daemon.engine.evals.bpb import bits_per_byte, held_out_sums
from trainer_daemon.engine.inference.generate import TextStream, generate
from trainer_daemon.engine.job import Job

PAUSE_POLL_SECONDS = 0.5
"""While paused, the main rank tells the others this often that it still is: no exchange ever nears its timeout."""
CHUNK_SECONDS = 0.1
"""A sample that someone watches is sent on this often."""


def is_due(job: Job, every: int) -> bool:
    """Whether a duty with this interval falls on the present step; it always does after the last one."""
    step = job.progress.step
    return step > 0 and (step % every == 0 or step == job.plan.total_steps)


def save_is_due(job: Job) -> bool:
    """Whether the present step is to be saved and is not on disk already."""
    every, step = job.spec.checkpoint.every, job.progress.step
    due = is_due(job, every) if every else step == job.plan.total_steps
    return due and step != job.saved_step


def save(job: Job) -> bool:
    """Publish a checkpoint of the present step. All ranks. False when it failed, which an event says."""
    step = job.progress.step
    if step == job.saved_step:
        return True
    with job.phase("saving"):
        started = time.perf_counter()
        job.progress.optimizer_steps = job.optimizer.steps_taken
        job.progress.loss_scale = job.gradients.loss_scale
        try:
            path = save_checkpoint(
                job.checkpoints,
                job.ranks,
                job.progress,
                job.model.state_dict(),
                job.optimizer.state_tensors(),
                texts={
                    "spec.json": job.spec.model_dump_json(indent=1),
                    "tokenizer.json": job.tokenizer.to_json(),
                },
                lineage=job.lineage,
            )
        except SaveFailedError as e:
            job.emit(CheckpointFailed(step, str(e)))
            return False
        job.saved_step = step
        if job.ranks.is_main:
            size = sum(file.stat().st_size for file in path.iterdir())
            seconds = time.perf_counter() - started
            job.emit(CheckpointSaved(step, path.name, size, job.progress.loss_nats, seconds))
            try:
                store.retain(job.checkpoints, job.spec.checkpoint.keep_last)
            except OSError as e:
                job.emit(Notice("warning", f"old checkpoints could not be deleted: {e}"))
    return True


def evaluate(job: Job) -> bool:
    """Held-out loss in bits per byte. All ranks. False when it failed, which an event says."""
    progress, ranks = job.progress, job.ranks
    with job.phase("evaluating"):
        started = time.perf_counter()
        job.model.eval()
        try:
            sums = held_out_sums(
                job.token_losses,
                job.held_out_rows,
                job.token_bytes,
                max_tokens=job.spec.eval.tokens,
                batch_rows=job.plan.micro_batch_size,
                rank=ranks.rank,
                world_size=ranks.world_size,
            )
        except RuntimeError as e:  # torch's out-of-memory and kernel errors
            print(f"evaluation at step {progress.step} failed: {e}", file=sys.stderr, flush=True)
            sums = (nan, nan, nan)  # a rank that failed still joins the sum, and so every rank learns of it
        finally:
            job.model.train()
        nats_sum, bytes_sum, tokens = ranks.sum(*sums)
        if not isfinite(nats_sum) or not bytes_sum:
            job.emit(
                Notice("error", f"evaluation at step {progress.step} gave no number; the ranks' logs say why")
            )
            return False
        result = bits_per_byte(nats_sum, bytes_sum, tokens)
        progress.min_val_bpb = min(result.val_bpb, progress.min_val_bpb or result.val_bpb)
        seconds = time.perf_counter() - started
        job.emit(Evaluated(progress.step, result.val_bpb, result.loss_nats, result.tokens, seconds))
        if ranks.is_main and progress.step == job.saved_step:
            store.record_score(job.checkpoints, progress.step, result.val_bpb)
    return True


def write_scheduled_samples(job: Job) -> None:
    """Continue the spec's prompts. The main rank only."""
    if not job.ranks.is_main:
        return
    settings = job.spec.sample
    for prompt in settings.prompts:
        write_sample(job, prompt, settings.max_tokens, settings.temperature, settings.top_k, job.spec.seed)


def write_sample(
    job: Job,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    request_id: str | None = None,
) -> bool:
    """One sample from the model in training, sent on in chunks when someone asked for it. The main rank only."""
    with job.phase("sampling"):
        started = last_sent = time.perf_counter()
        stream = TextStream(job.tokenizer.decode_bytes)
        text, unsent, count = "", "", 0
        try:
            ids = [job.tokenizer.bos_id, *job.tokenizer.encode(prompt)]
            for token in generate(
                job.model,
                ids,
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                seed=seed,
                stop_ids={job.tokenizer.bos_id},
            ):
                count += 1
                unsent += stream.push(token)
                if request_id and unsent and time.perf_counter() - last_sent > CHUNK_SECONDS:
                    job.emit(SampleChunk(request_id, unsent))
                    text, unsent, last_sent = text + unsent, "", time.perf_counter()
        except (LlmctlError, RuntimeError) as e:  # RuntimeError: torch's out-of-memory and kernel errors
            job.emit(Notice("error", f"sampling at step {job.progress.step} failed: {e}"))
            return False
        unsent += stream.finish()
        if request_id and unsent:
            job.emit(SampleChunk(request_id, unsent))
        job.emit(
            Sampled(
                step=job.progress.step,
                prompt=prompt,
                text=text + unsent,
                tokens=count,
                finish_reason="end" if count < max_tokens else "length",
                temperature=temperature,
                top_k=top_k,
                seed=seed,
                seconds=time.perf_counter() - started,
                request_id=request_id,
            )
        )
    return True


def obey(job: Job) -> Finished | None:
    """Do what was asked for, at this step boundary. All ranks. Returns the run's last word when it was to stop.

    While paused the ranks stay here: they keep their memory, exchange a word now and then, and still save, sample and
    evaluate on request.
    """
    paused = False
    while True:
        if paused:
            job.commands.wait(PAUSE_POLL_SECONDS)
        command = _announce(job)
        if command is None:
            if paused:
                continue
            return None
        step = job.progress.step
        match command.name:
            case "stop":
                with job.phase("stopping"):
                    ok = save(job)
                message = f"stopped on request at step {step}" + (
                    "" if ok else "; its checkpoint could not be written"
                )
                job.emit(CommandDone(command.request_id, command.name, ok, message))
                return Finished("stopped", step, message)
            case "pause":
                paused = True
                job.enter("paused")
                ok, message = True, f"paused at step {step}"
            case "resume":
                ok, message = True, f"running on from step {step}" if paused else "it was not paused"
                paused = False
                job.enter("running")
            case "save":
                ok = save(job)
                message = f"checkpoint of step {step} saved" if ok else "the save failed; see the events"
            case "evaluate":
                ok = evaluate(job)
                message = f"evaluated step {step}" if ok else "the evaluation failed; see the events"
            case "sample":
                ok, message = _sample_on_request(job, command), "sampled"
        job.emit(CommandDone(command.request_id, command.name, ok, message))


def _announce(job: Job) -> Command | None:
    """The next command, on all ranks at once. A signal to end, on whichever rank, is a stop for all of them."""
    if job.ranks.sum(float(job.terminated()))[0]:
        return Command("signal", "stop", {})
    command = job.commands.next() if job.ranks.is_main else None
    fields = job.ranks.broadcast_json(to_fields(command) if command else None)
    announced = from_fields("command", fields) if fields else None
    return announced if isinstance(announced, Command) else None


def _sample_on_request(job: Job, command: Command) -> bool:
    """The main rank writes; the others meet it again in the next announcement."""
    if not job.ranks.is_main:
        return True
    a = command.arguments
    return write_sample(
        job,
        prompt=a["prompt"],
        max_tokens=a["max_tokens"],
        temperature=a["temperature"],
        top_k=a["top_k"],
        seed=a["seed"],
        request_id=command.request_id,
    )
