"""`mirror`: a run's numbers, samples and alerts in TensorBoard's files, as they come.

It is one more watcher: it may begin late, be killed and be started again, and goes on where it was. A branch that a resume
cut off is purged, as the cockpit fades it. Weights & Biases takes the same files (`wandb sync`).
"""

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from cli.following import follow
from cli.printing import say
from cli.references import RunArgument

if TYPE_CHECKING:
    from types import TracebackType

    from tensorboardX.event_file_writer import EventsWriter

    from trainer_daemon.contract.events import Event
    from trainer_daemon.contract.journal import Record
    from trainer_daemon.contract.rundir import RunDir

FLUSH_SECONDS = 5.0
"""What was taken is on disk, and counted as taken, this often."""
CURSORS_FILE = "llmctl.json"
PROMPT_CHARACTERS = 60
"""Of a prompt, in the name of what it brought forth."""


def mirror(
    run: RunArgument,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="TensorBoard's --logdir; made when missing.")
    ],
) -> None:
    """Follow a run into files for TensorBoard, until it is over.

    Called again it goes on where it was. With `wandb sync FOLDER/RUN` they go to Weights & Biases. Needs the extra
    `tensorboard`.
    """
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.status import RunStatus

    found = find_run(run)
    with Mirror(found, folder / found.name) as kept:
        say(f"{found.name} goes to {kept.folder}; see: tensorboard --logdir {folder}")
        status = RunStatus(found.name, cursors=dict(kept.cursors))
        for record in follow(found, status):
            kept.take(record)
    say(f"{found.name} is {status.state}, and all of it is in {kept.folder}")


class Mirror:
    """A run in a folder of TensorBoard's. What was taken is flushed now and then, and when it is left."""

    def __init__(self, run: "RunDir", folder: Path) -> None:
        """Raises RefusedError where the folder holds another run of that name, or the library is missing."""
        self.folder = folder
        self.cursors: dict[str, int] = {}
        """Per stream, the last record that is there."""
        self._born = (
            run.spec_file.stat().st_mtime_ns
        )  # a frozen file: tells a run from one that had its name before
        self._read_cursors()
        self._file = _open_file(folder)
        self._flushed_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._flush()
        self._file.close()

    def take(self, record: "Record | None") -> None:
        """Write down what there is of it to be seen; None only passes the time."""
        if record is not None:
            if record.event is not None:
                self._write(record.event, record.wall)
            self.cursors[record.stream] = record.seq
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self._flush()

    def _write(self, event: "Event", wall: float) -> None:
        from tensorboardX.proto.event_pb2 import Event as Entry
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import text as text_summary

        from trainer_daemon.contract.events import Resumed

        if isinstance(event, Resumed):  # what came from the next step on is to be forgotten
            start = SessionLog(status=SessionLog.START)
            self._file.write_event(Entry(wall_time=wall, step=event.step + 1, session_log=start))
            return
        seen = Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in numbers(event).items()])
        for tag, text in words(event).items():
            seen.MergeFrom(text_summary(tag, text))
        if seen.value:
            step: int = event.step  # type: ignore[attr-defined]  # whatever measures or says something has one
            self._file.write_event(Entry(wall_time=wall, step=step, summary=seen))

    def _flush(self) -> None:
        from trainer_daemon.contract.rundir import write_json

        self._file.flush()
        # afterwards: what is written twice is drawn once, what is left out never
        write_json(self.folder / CURSORS_FILE, {"born": self._born, "cursors": self.cursors})
        self._flushed_at = time.monotonic()

    def _read_cursors(self) -> None:
        from trainer_daemon.contract.errors import RefusedError

        try:
            kept = json.loads((self.folder / CURSORS_FILE).read_bytes())
        except FileNotFoundError:
            return
        if kept["born"] != self._born:
            raise RefusedError(
                f"{self.folder} holds another run of that name; remove it, or name another folder"
            )
        self.cursors.update(kept["cursors"])


def _open_file(folder: Path) -> "EventsWriter":
    """A file of its own for each time that it is called. Not the library's usual writer, whose flush leaves out what its
    thread has not come to."""
    from trainer_daemon.contract.errors import RefusedError

    try:
        from tensorboardX.event_file_writer import EventsWriter
    except ModuleNotFoundError as e:
        raise RefusedError(
            "TensorBoard's files are written by tensorboardX, which is not here: pip install 'llmctl[tensorboard]'"
        ) from e
    folder.mkdir(parents=True, exist_ok=True)
    return EventsWriter(str(folder / "events"), f".{time.time_ns()}")  # the library names them by the second


def numbers(event: "Event") -> dict[str, float]:
    """What an event measured at its step, by tag."""
    from trainer_daemon.contract.events import (
        CheckpointSaved,
        CoreScored,
        CoreTaskScored,
        Evaluated,
        ExpertsUsed,
        TrainStep,
        to_fields,
    )

    match event:
        case CoreTaskScored(task=task, centred=centred):
            return {f"core_task/{task}": centred}
        case TrainStep() | Evaluated() | CoreScored() | ExpertsUsed() | CheckpointSaved():
            return dict(_flat(event.kind(), to_fields(event)))
        case _:
            return {}


def _flat(prefix: str, fields: dict[str, Any]) -> "dict[str, float]":
    flat: dict[str, float] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(f"{prefix}/{name}", value)
        elif isinstance(value, (int, float)) and name != "step":
            flat[f"{prefix}/{name}"] = float(value)
    return flat


def words(event: "Event") -> dict[str, str]:
    """What an event said at its step, by tag: a scheduled sample under its prompt, so that one sees it grow."""
    from trainer_daemon.contract.events import Alert, Sampled

    match event:
        case Sampled(prompt=prompt, text=text, request_id=None):
            name = re.sub(r"[^\w-]+", "_", prompt)[:PROMPT_CHARACTERS]
            return {f"sample/{name}": _as_it_stands(prompt + text)}
        case Alert(name=name):
            return {f"alert/{name}": event.in_words()}
        case _:
            return {}


def _as_it_stands(text: str) -> str:
    """In the Markdown that TensorBoard makes of every text, one that is not Markdown: an indented block."""
    return "".join(f"    {line}\n" for line in text.splitlines())
