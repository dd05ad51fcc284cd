"""Text from the model in training: asked for by a command, written at a step boundary, read back as events."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer_daemon.contract.generation import Generation, Piece
    from trainer_daemon.contract.rundir import RunDir

LIVE_SECONDS = 600.0
"""Longest wait for the model in training: it writes at a step boundary, behind whatever was asked before."""
NOT_LIVE = ("messages", "logprobs")
"""Of a request: what a run in training neither takes nor reports."""


def find_live_run(reference: str) -> "RunDir":
    """Raises NotFoundError for no run, RefusedError for one that is not training."""
    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.rundir import find_run

    run = find_run(reference)
    if not run.supervisor_is_alive():
        raise RefusedError(f"{run.name} is not training now; leave out --live to ask its newest checkpoint")
    return run


class LiveText:
    """One text of the model in training, to be iterated over once."""

    def __init__(self, run: "RunDir", request: "Generation") -> None:
        """Raises SpecError for a request with what a training run does not offer."""
        from trainer_daemon.contract.errors import SpecError

        if request.logprobs is not None:
            raise SpecError(
                f"--logprobs: the model in training does not report them; save a checkpoint: llmctl save {run.name}"
            )
        self._run = run
        self._request = request
        self.step = 0
        """Whose weights wrote it; known at the end, as is the next."""
        self.pause_seconds = 0.0
        """What the training waited."""

    def __iter__(self) -> "Iterator[Piece]":
        """Raises what the supervisor refuses with, and RefusedError when the sample failed or the run ended first."""
        from cli.following import check_outcome, follow, outcome
        from trainer_daemon.contract.errors import RefusedError
        from trainer_daemon.contract.events import CommandDone, SampleChunk, Sampled
        from trainer_daemon.contract.generation import Piece
        from trainer_daemon.contract.status import observe
        from trainer_daemon.link.client import send_command

        run, status = self._run, observe(self._run)
        arguments = {name: value for name, value in asdict(self._request).items() if name not in NOT_LIVE}
        request_id = send_command(run, "sample", arguments)
        for record in follow(run, status, until=time.monotonic() + LIVE_SECONDS):
            match record.event if record is not None else None:
                case SampleChunk(request_id=asked, text=text) if asked == request_id:
                    yield Piece(text, 0, done=False, finish_reason=None)
                case Sampled(request_id=asked) as done if asked == request_id:
                    self.step, self.pause_seconds = done.step, done.seconds
                    yield Piece(
                        "", done.tokens, done=True, finish_reason=done.finish_reason, forgotten=done.forgotten
                    )
                    return
                case CommandDone(request_id=asked, ok=False, message=message) if asked == request_id:
                    raise RefusedError(f"{run.name}: {message}; see: llmctl events {run.name}")
                case _:
                    pass
        check_outcome(run, status)
        raise RefusedError(f"{outcome(run, status)}, before it could sample")
