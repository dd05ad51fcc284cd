"""The commands of a run under way: written for the ranks, remembered, and each answered in the end.

What may be granted is decided by the tables of `supervisor.commands`. Here is what becomes of it: the ranks read the `control`
stream and answer with a `CommandDone`; for those that no rank will answer any more the supervisor does.
"""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import Command, CommandDone, CommandName, Event
from trainer_daemon.contract.journal import JournalReader, JournalWriter
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.supervisor.commands import Ledger


class Control(Closing):
    """The one writer of a run's `control` stream."""

    def __init__(self, run: RunDir, attempt: int, emit: Callable[[Event], object]) -> None:
        """Raises RefusedError when another process writes the stream."""
        self.journal = JournalWriter(run.journal, "control", attempt)
        self.ledger = Ledger()
        self.pause_wanted = False
        """Whether the ranks of this attempt were last asked to pause."""
        self._folder = run.journal
        self._emit = emit
        self._open: dict[str, str] = {}
        """Granted by this supervisor and not yet done: request id -> name."""
        self._recall(attempt)

    def _recall(self, attempt: int) -> None:
        """What earlier supervisors granted is not granted again."""
        with JournalReader(self._folder, "control") as reader:
            while batch := reader.poll():
                for record, _ in batch:
                    if not isinstance(record.event, Command):
                        continue
                    command = record.event
                    self.ledger.grant(command.request_id)
                    if record.attempt == attempt and command.name in ("pause", "resume"):
                        self.pause_wanted = command.name == "pause"

    def begin_attempt(self, attempt: int) -> int:
        """Ask new ranks for what the old ones were asked and still holds: a restart does not undo a pause. Returns the
        command that they begin behind."""
        self.journal.attempt = attempt
        after = self.journal.last_seq
        if self.pause_wanted:
            self.grant(uuid4().hex, "pause", {})
        return after

    def grant(
        self,
        request_id: str,
        name: CommandName,
        arguments: dict[str, Any],
        deadline: float | None = None,
    ) -> None:
        """Append the command for the ranks. Raises RefusedError when the disk does not take it."""
        if not self.journal.append(Command(request_id, name, arguments, deadline)):
            raise RefusedError(f"the command could not be written to {self._folder}: is the disk full?")
        self._open[request_id] = name
        self.ledger.grant(request_id)
        if name in ("pause", "resume"):
            self.pause_wanted = name == "pause"

    def join_stop(self, request_id: str) -> None:
        """One stop is enough for the ranks; whoever asks again hears how it went, too."""
        self._open[request_id] = "stop"
        self.ledger.grant(request_id)

    def hear(self, done: CommandDone) -> None:
        """Take in that the ranks answered."""
        self._open.pop(done.request_id, None)
        if done.name in ("pause", "resume") and not done.ok:  # it lapsed, so what was before holds
            self.pause_wanted = done.name == "resume"

    def refuse_stops(self, why: str) -> None:
        """Tell everyone who waits for a stop that there will be none."""
        for request_id in [r for r, name in self._open.items() if name == "stop"]:
            del self._open[request_id]
            self._emit(CommandDone(request_id, "stop", False, why))

    def settle(self, *, stop_ok: bool, stop_message: str) -> None:
        """Answer the commands that no rank will answer any more: someone may be waiting."""
        for request_id, name in self._open.items():
            if name == "stop":
                self._emit(CommandDone(request_id, name, stop_ok, stop_message))
            else:
                self._emit(CommandDone(request_id, name, False, "the ranks ended before it took effect"))
        self._open.clear()

    def close(self) -> None:
        self.journal.close()
