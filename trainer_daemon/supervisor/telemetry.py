"""What a run tells: followed in its journal, folded into its status, published to whoever watches, and put on disk.

The journal is written by others and read here; a supervisor that dies takes nothing along, and its successor goes on behind
what state.json covers. Whoever watches waits for no disk: one that is busy takes a second to sync what is done in a moment on
another, so what is put there is put there by a thread of its own.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.events import Event, Finished
from trainer_daemon.contract.history import read_history, thin_history
from trainer_daemon.contract.journal import STREAMS, JournalReader, Record, Stream, sync_stream
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
        self._disk = ThreadPoolExecutor(1, "disk")
        self._storing: Future[None] | None = None
        """What the thread is about, or was last."""
        self._stored_cursors: dict[str, int] = {}
        self._synced_to: dict[Stream, str] = {}
        """The segment of each stream from which on the disk is behind."""
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
        """Tell watchers what there is, and have what is on disk freshened for those that come: what a slow disk is still about
        is not asked of it twice."""
        self._port.heartbeat(self.status.cursors)
        if self._storing is None or self._storing.done():
            self._wait_for_disk()
            self._storing = self._disk.submit(self._freshen, self._storable())

    def store(self) -> None:
        """Put the streams and then the state on disk, and wait until they are there."""
        self._wait_for_disk()
        self._storing = self._disk.submit(self._store, self._storable())
        self._wait_for_disk()

    def _storable(self) -> dict[str, Any] | None:
        """The state as it is now; None where memory holds events for a full disk, which may go with the machine."""
        is_ahead = any(reader.is_ahead_of_disk for reader in self._readers)
        return None if is_ahead else self.status.to_json()

    def _wait_for_disk(self) -> None:
        if self._storing is not None:
            self._storing.result()

    # What the thread does. A full or failing disk costs those who come late some seconds, never the run

    def _freshen(self, status: dict[str, Any] | None) -> None:
        with suppress(OSError):
            thin_history(self._run.journal, most=1)
        self._store(status)

    def _store(self, status: dict[str, Any] | None) -> None:
        if status is None or status["cursors"] == self._stored_cursors:
            return
        with suppress(OSError):
            for stream in STREAMS:  # first: the state must not cover what a crash undoes
                newest = sync_stream(self._run.journal, stream, self._synced_to.get(stream, ""))
                self._synced_to[stream] = newest
            write_json(self._run.state_file, status)
            self._stored_cursors = status["cursors"]

    def close(self) -> None:
        self._disk.shutdown()
        for reader in self._readers:
            reader.close()
