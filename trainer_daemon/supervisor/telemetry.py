"""What a run tells: followed in its journal, folded into its status, published to whoever watches, and put on disk.

The journal is written by others and read here; a supervisor that dies takes nothing along, and its successor goes on behind
what state.json covers.
"""

from collections.abc import Iterator
from contextlib import suppress

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.events import Event, Finished
from trainer_daemon.contract.history import read_history, thin_history
from trainer_daemon.contract.journal import STREAMS, JournalReader, Record
from trainer_daemon.contract.rundir import RunDir, write_json
from trainer_daemon.contract.status import fold_journal, load_snapshot
from trainer_daemon.supervisor.port import Port


class Telemetry(Closing):
    """Everything that one run's journal says, from all of its streams."""

    def __init__(self, run: RunDir, port: Port) -> None:
        self._run = run
        self._port = port
        self.status = fold_journal(run, load_snapshot(run))
        self._known_before = dict(self.status.cursors)
        self._stored_cursors: dict[str, int] = {}
        # watchers that come later fetch what is older, so only what is new is published
        self._readers = [JournalReader(run.journal, s, self._known_before.get(s, 0)) for s in STREAMS]

    def told_before(self) -> Iterator[Event | None]:
        """What happened under earlier supervisors, thinned; a second for a run of a million steps."""
        for record in read_history(self._run.journal):
            if record.seq <= self._known_before.get(record.stream, 0):
                yield record.event

    def last_word_of_ranks(self) -> Finished | None:
        """The ranks' last word, when nothing followed it."""
        last_seq = self.status.cursors.get("train", 0)
        with JournalReader(self._run.journal, "train", max(0, last_seq - 1)) as reader:
            events = [record.event for record, _ in reader.poll()]
        return events[-1] if events and isinstance(events[-1], Finished) else None

    def follow(self) -> Iterator[Record]:
        """What was appended since the last look; each record is taken in and published before it is given."""
        for reader in self._readers:
            while batch := reader.poll():
                for record, line in batch:
                    self.status.apply(record)
                    self._port.publish(record, line, self.status.cursors)
                    yield record

    def beat(self) -> None:
        """Tell watchers what there is, and keep what is on disk fresh for those that come."""
        self._port.heartbeat(self.status.cursors)
        with suppress(OSError):  # a disk that is full costs those who come late some seconds
            thin_history(self._run.journal, most=1)
        self.store()

    def store(self) -> None:
        """Put the streams and then the state on disk, in this order: the state must not cover what a crash undoes."""
        if self.status.cursors == self._stored_cursors or any(r.is_ahead_of_disk for r in self._readers):
            return
        # a full or failing disk costs the reader freshness, never the run
        with suppress(OSError):
            for reader in self._readers:
                reader.sync()
            write_json(self._run.state_file, self.status.to_json())
            self._stored_cursors = dict(self.status.cursors)

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
