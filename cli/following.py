"""Following a run from the command line: its records as they come, and the lines that tell it without a cockpit."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from cli.printing import command_name, duration, number, percent, say

if TYPE_CHECKING:
    from trainer_daemon.contract.journal import Record
    from trainer_daemon.contract.rundir import RunDir
    from trainer_daemon.contract.status import RunStatus

POLL_SECONDS = 0.25
LINE_SECONDS = 5.0
"""A step is told this often; evaluations, samples, checkpoints and states always."""


def follow(run: "RunDir", status: "RunStatus", *, until: float | None = None) -> "Iterator[Record | None]":
    """Every record after those that `status` covers, folded into it, until the run is over and its processes are gone.

    They come in the order of time: a live feed alone would give a long history stream by stream. Gives None now and then while nothing comes. At the end `status` is what the locks say too, so a run that died is
    `crashed`. Raises WaitTimeoutError when the monotonic time `until` is reached first.
    """
    from trainer_daemon.contract.errors import WaitTimeoutError
    from trainer_daemon.contract.journal import read_all
    from trainer_daemon.contract.status import observe
    from trainer_daemon.link.client import Feed

    for record in read_all(run.journal, dict(status.cursors)):
        status.apply(record)
        yield record
    with Feed(run, after=status.cursors) as feed:
        while True:
            # looked at before reading: what is read afterwards then includes the last words
            is_alive = run.supervisor_is_alive() or run.ranks_are_alive()
            records = feed.poll(POLL_SECONDS if is_alive else 0)
            for record in records:
                status.apply(record)
                yield record
            if not records:
                if not is_alive:
                    break
                yield None
            if until is not None and time.monotonic() >= until:
                raise WaitTimeoutError(
                    f"{run.name} is {status.state} at step {status.step}; the time to wait is over"
                )
    final = observe(run)
    status.state, status.error, status.eta_seconds = final.state, final.error, final.eta_seconds


@contextmanager
def wish_to_end() -> Iterator[Callable[[], signal.Signals | None]]:
    """Within it SIGTERM and SIGUSR1 do not end this process; the function says which came last, once.

    They come from whoever ends a whole job and waits for its first process alone: SLURM, a container's runtime, systemd.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield lambda: signal.Signals(came.pop()) if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save_and_stop(run: "RunDir", why: str) -> None:
    """Ask for it without waiting; one that ends already, or cannot be asked any more, needs no asking."""
    from trainer_daemon.contract.errors import LlmctlError
    from trainer_daemon.link.client import send_command

    say(f"{why}: {run.name} saves and stops")
    try:
        send_command(run, "stop")
    except LlmctlError as e:
        say(f"it was not asked: {e}")


def outcome(run: "RunDir", status: "RunStatus") -> str:
    """How a run that is over ended, in one line."""
    took = f" after {duration(status.training_seconds)}" if status.training_seconds else ""
    best = f", best val_bpb {number(status.min_val_bpb, 4)}" if status.min_val_bpb is not None else ""
    return f"{run.name} {status.state} at step {status.step}{took}{best}"


def check_outcome(run: "RunDir", status: "RunStatus") -> None:
    """Raises RunFailedError when a run that is over failed or crashed."""
    from trainer_daemon.contract.errors import RunFailedError

    if status.state in {"failed", "crashed"}:
        why = status.error["message"] if status.error else f"see: llmctl logs {run.name}"
        raise RunFailedError(f"{run.name} {status.state} at step {status.step}: {why}")


class ProgressLines:
    """Tells a run in lines: a step every few seconds, and what happens in between."""

    def __init__(self, tell: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._tell, self._warn = tell, warn
        self._told_at = float("-inf")
        self._sampled_step: int | None = None

    def take(self, record: "Record", status: "RunStatus") -> None:
        """Tell this record if it is worth a line. `status` has it folded in."""
        from trainer_daemon.contract import events
        from trainer_daemon.contract.text import printable

        match record.event:
            case events.PrepareProgress(what, done, total, unit) if self._is_due(done == total):
                self._tell(printable(f"preparing: {what} {done:,}{f' of {total:,}' if total else ''} {unit}"))
            case events.RunPlanned() as e:
                self._tell(
                    f"{e.parameters:,} parameters, {e.total_steps:,} steps of {e.global_batch_tokens:,} tokens"
                )
            case events.Resumed(step=step, checkpoint=checkpoint):
                self._tell(f"going on from step {step}, checkpoint {printable(checkpoint)}")
            case events.TrainStep() as e if self._is_due(e.step in (1, status.total_steps)):
                self._tell(step_line(status))
            case events.Evaluated() as e:
                best = " (best so far)" if e.val_bpb == status.min_val_bpb else ""
                self._tell(f"step {e.step}: val_bpb {e.val_bpb:.4f}{best}")
            case events.CoreScored() as e:
                self._tell(f"step {e.step}: {e.in_words()}")
            case events.Sampled(step=step, prompt=prompt, text=text, request_id=None) if (
                step != self._sampled_step
            ):
                self._sampled_step = step
                self._tell(f"step {step} writes: {printable(prompt + text)}")
            case events.CheckpointSaved() as e:
                self._tell(f"step {e.step}: checkpoint saved in {e.seconds:.1f}s")
            case events.CheckpointFailed(step, error):
                self._warn(printable(f"step {step}: no checkpoint: {error}"))
            case events.ReplicasCompared(difference=None) as e:
                self._tell(e.in_words())
            case events.Alert() as e:
                self._warn(printable(e.in_words()))
            case events.Notice(level, text):
                (self._tell if level == "info" else self._warn)(printable(f"{level}: {text}"))
            case events.Stalled() as e:
                self._warn(f"{e.in_words()}; see: {command_name()} logs {status.name}")
            case events.RankExited(is_root_cause=True, rank=rank, message=message):
                self._warn(printable(f"rank {rank} ended: {message}"))
            case events.StateChanged(state=state, reason=reason):
                self._tell(printable(f"{state}: {reason}" if reason else state))
            case _:
                pass

    def _is_due(self, always: bool) -> bool:
        now = time.monotonic()
        if not always and now - self._told_at < LINE_SECONDS:
            return False
        self._told_at = now
        return True


def step_line(status: "RunStatus") -> str:
    """Where a run is: `step 120/500  loss 3.2104  val_bpb 1.402  41,200 tok/s  ETA 1m32s`."""
    of = f"/{status.total_steps}" if status.total_steps else ""
    parts = [f"step {status.step}{of}", f"loss {number(status.loss_nats, 4)}"]
    if status.val_bpb is not None:
        parts.append(f"val_bpb {number(status.val_bpb, 4)}")
    parts.append(f"{number(status.tokens_per_second, 0)} tok/s")
    if status.mfu is not None:
        parts.append(f"mfu {percent(status.mfu)}")
    parts.append(f"ETA {duration(status.eta_seconds)}")
    return "  ".join(parts)
