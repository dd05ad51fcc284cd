"""What the cockpit and the CLI hold: `Link` asks, `Feed` listens.

A feed gives every record of every stream exactly once, in order within its stream, whether the run is live, ended or
changes between the two while one watches; what one poll gives is in order between the streams too. A long history comes
in many polls, stream by stream: who wants it in order reads it from the journal first. It keeps one number a stream, the last record it gave; attaching late, a
message that was dropped and a supervisor that came back are then the same thing: records after that number are missing,
and are fetched.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec
import zmq

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.errors import (
    RefusedError,
    WaitTimeoutError,
    error_from,
)
from trainer_daemon.contract.events import State
from trainer_daemon.contract.journal import (
    STREAMS,
    JournalReader,
    Record,
    Stream,
    decode_line,
    in_order_of_time,
)
from trainer_daemon.contract.rundir import RunDir, recorded_sockets
from trainer_daemon.contract.wire import (
    HEARTBEAT_SECONDS,
    VERSION,
    Operation,
    Reply,
    Request,
    decode_envelope,
    decode_header,
    decode_reply,
    encode_request,
)
from trainer_daemon.link.far import FarRun
from trainer_daemon.link.ways import UnixWay, Way

LinkState = Literal["live", "disk", "lost"]
"""live: the supervisor is heard. disk: there is none, the files are read. lost: there is one that is not heard."""

ANSWER_SECONDS = 2.0
MOST_PATIENCE_SECONDS = 60.0
"""Longest wait for a range until it is asked for again; a connection that breaks begins anew."""
TRIES = 3
KILL_SECONDS = 15.0
SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS
GREETING_SECONDS = 1.0
"""How long a new connection may take to be greeted before the files are read instead."""
LOOK_SECONDS = 0.05
"""How often files and locks are looked at while nothing comes."""
CALM_AFTER_SECONDS, CALM_LOOK_SECONDS = 2.0, 0.5
"""A supervisor that had nothing to tell for so long, of a paused run or one of long steps, is looked for so much more seldom. What it
tells is heard at once all the same."""
WATCH_QUEUE_MESSAGES = 10_000


class Link(Closing):
    """Asks one run's supervisor. For one thread."""

    def __init__(self, way: Way, name: str) -> None:
        """`name`: the run's, for messages."""
        self._way = way
        self._name = name
        self._context = zmq.Context()

    @classmethod
    def to(cls, run: RunDir) -> Self:
        """Raises RefusedError when someone else could enter the folder of its sockets."""
        return cls(way_to(run), run.name)

    def request(
        self,
        op: Operation,
        args: dict[str, Any] | None = None,
        *,
        timeout_seconds: float = ANSWER_SECONDS,
        tries: int = TRIES,
    ) -> dict[str, Any]:
        """The supervisor's answer. Asks again, under the same id, when none comes in time.

        Raises SpecError for a request that is too large, RefusedError when no supervisor is there or it speaks another protocol, WaitTimeoutError when it does not
        answer, and whatever error the supervisor answers with.
        """
        request_id = uuid.uuid4().hex
        message = encode_request(Request(VERSION, request_id, op, args or {}))
        for _ in range(tries):
            if not self._way.answers_calls():
                raise RefusedError(
                    f"{self._name} has no supervisor to talk to; see: llmctl status {self._name}"
                )
            # a fresh socket each time: what became of the last one's message cannot be known
            with self._context.socket(zmq.DEALER) as dealer:
                dealer.setsockopt(zmq.LINGER, 0)
                self._way.connect(dealer, "ctl")
                dealer.send(message, zmq.NOBLOCK)
                deadline = time.monotonic() + timeout_seconds
                while dealer.poll(max(0, round((deadline - time.monotonic()) * 1000))):
                    reply = understand_reply(dealer.recv(zmq.NOBLOCK), self._name)
                    if reply is not None and reply.id == request_id:
                        return result_of(reply)
        raise WaitTimeoutError(
            f"the supervisor of {self._name} did not answer within {tries} x {timeout_seconds:g} s"
        )

    def close(self) -> None:
        self._context.term()


def way_to(run: RunDir) -> Way:
    """To the sockets of the run's supervisor. Raises RefusedError when someone else could enter their folder."""
    return run.guide.way if isinstance(run, FarRun) else UnixWay(recorded_sockets(run))


def understand_reply(data: bytes, name: str) -> Reply | None:
    """The reply, or None for what is not one. Raises RefusedError when it is of another major version."""
    try:
        check_version(decode_envelope(data).version, name)
        return decode_reply(data)
    except msgspec.MsgspecError:
        return None


def check_version(theirs: tuple[int, int], name: str) -> None:
    """Raises RefusedError for another major version, naming both."""
    if theirs[0] != VERSION[0]:
        raise RefusedError(
            f"{name} speaks protocol {'.'.join(map(str, theirs))}, this llmctl {'.'.join(map(str, VERSION))}: "
            "use the llmctl that started the run"
        )


def result_of(reply: Reply) -> dict[str, Any]:
    """What was answered; raises the error that was."""
    if not reply.ok:
        raise error_from(reply.exit_code, reply.error or "the daemon refused without a reason")
    return reply.result


def send_command(
    run: RunDir,
    name: str,
    arguments: dict[str, Any] | None = None,
    request_id: str | None = None,
    *,
    expected_state: State | None = None,
    deadline: float | None = None,
) -> str:
    """Have the ranks do something at their next step boundary; returns the request id that `CommandDone` will carry.

    The same request id is executed once, however often it is sent. It is refused when the run is not in `expected_state`,
    and lapses when its turn has not come by `deadline`, seconds since 1970. Raises what `Link.request` raises.
    """
    request_id = request_id or uuid.uuid4().hex
    wanted: dict[str, Any] = {"request_id": request_id, "name": name, "arguments": arguments or {}}
    if expected_state is not None:
        wanted["expected_state"] = expected_state
    if deadline is not None:
        wanted["deadline"] = deadline
    with Link.to(run) as link:
        link.request("command", wanted)
    return request_id


def supervisor_listens(run: RunDir) -> bool:
    """Whether there is a supervisor that can be asked. Raises RefusedError as `Link.to` does."""
    return way_to(run).answers_calls()


def request_kill(run: RunDir) -> None:
    """End every process of the run at once. Raises what `Link.request` raises."""
    with Link.to(run) as link:
        link.request("kill", timeout_seconds=KILL_SECONDS, tries=2)


def request_log(run: RunDir, source: str, offset: int) -> tuple[str, int, int]:
    """(text, offset of what follows it, size): from the supervisor, or from the file when there is none."""
    if run.supervisor_is_alive():
        with suppress(RefusedError, WaitTimeoutError), Link.to(run) as link:
            part = link.request("log", {"source": source, "offset": offset}, tries=1)
            return part["text"], part["offset"], part["size"]
    return run.read_log(source, offset)


class Feed(Closing):
    """Every record of a run, as it comes. For one thread."""

    def __init__(self, run: RunDir, after: dict[str, int] | None = None) -> None:
        """`after`: per stream, the last record that the caller has already."""
        self._run = run
        self._cursors: dict[Stream, int] = {s: (after or {}).get(s, 0) for s in STREAMS}
        self._known: dict[Stream, int] = dict(self._cursors)
        """Per stream, the newest record that is said to exist."""
        self._context = zmq.Context()
        self._connection: _Connection | None = None
        self._readers: list[JournalReader] = []
        self._next_look = 0.0
        self._came_at = time.monotonic()
        """When there was a record last."""
        self._state: LinkState = "disk"
        self._woken, self._waker = os.pipe()
        """A pipe: to its second end is written to end a wait."""
        self._waking = threading.Lock()
        self._is_interrupted = False

    @property
    def link_state(self) -> LinkState:
        return self._state

    def poll(self, timeout_seconds: float) -> list[Record]:
        """What is new, ordered by wall time between streams: as soon as there is something, or nothing when the time is over.

        Raises RefusedError when the supervisor speaks another protocol, or someone else could enter the folder of its
        sockets.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            # first what is queued: who has not polled for a while must not take that for silence
            found = self._take_messages(self._connection) if self._connection else []
            self._look_who_is_there()
            pause = min(self._look_seconds, max(0.0, deadline - time.monotonic()))
            if self._state == "live":
                self._close_files()
                found = found or self._wait(pause)
            else:
                found = found or self._read_files() or self._wait(pause)
            if found:
                self._came_at = time.monotonic()
            if found or self._is_interrupted or time.monotonic() >= deadline:
                return list(in_order_of_time([r for r in found if r.stream == s] for s in STREAMS))

    def interrupt(self) -> None:
        """Nobody wants to wait for records any more: a poll under way ends now, later ones at once. For any thread."""
        with self._waking:
            if not self._is_interrupted:
                self._is_interrupted = True
                os.write(self._waker, b"!")

    def close(self) -> None:
        with self._waking:
            self._is_interrupted = True  # nothing is to be written to what is closed
            os.close(self._woken)
            os.close(self._waker)
        self._disconnect()
        self._close_files()
        self._context.term()

    @property
    def _look_seconds(self) -> float:
        is_calm = self._state == "live" and time.monotonic() - self._came_at > CALM_AFTER_SECONDS
        return CALM_LOOK_SECONDS if is_calm else LOOK_SECONDS

    def _look_who_is_there(self) -> None:
        now = time.monotonic()
        connection = self._connection
        if connection is None or now - connection.heard_at > self._look_seconds:
            if now < self._next_look:
                return
            self._next_look = now + self._look_seconds
            if not self._run.supervisor_is_alive():
                self._disconnect()
                self._state = "disk"
                return
            # a supervisor that has gone silent may have made its sockets anew, elsewhere
            if (
                connection is not None
                and now >= connection.trusted_until
                and connection.way != way_to(self._run)
            ):
                self._disconnect()
                connection = None
            if connection is None:
                connection = self._connect()
        if connection is not None:
            self._state = "live" if now < connection.trusted_until else "lost"

    def _connect(self) -> "_Connection | None":
        way = way_to(self._run)
        if not way.answers_calls():  # it has the lock and not yet its sockets
            self._state = "lost"
            return None
        self._connection = _Connection(self._context, way, self._run.name)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wait(self, seconds: float) -> list[Record]:
        """Until something is heard, or the files are due for another look."""
        if self._connection is None:
            time.sleep(seconds)
            return []
        self._connection.wait(seconds, self._woken)
        return self._take_messages(self._connection)

    def _take_messages(self, connection: "_Connection") -> list[Record]:
        found: list[Record] = []

        def take_cursors(cursors: dict[str, int]) -> None:
            for stream in STREAMS:
                self._known[stream] = max(self._known[stream], cursors.get(stream, 0))

        def take_line(stream: Stream, line: bytes) -> None:
            record = decode_line(line, stream)
            # one that does not follow waits: what is before it is fetched, and it along with that
            if record is not None and record.seq == self._cursors[stream] + 1:
                self._cursors[stream] = record.seq
                found.append(record)

        def take_range(stream: Stream, lines: list[bytes]) -> None:
            for line in lines:
                record = decode_line(line, stream)
                if record is not None and record.seq > self._cursors[stream]:
                    self._cursors[stream] = record.seq
                    found.append(record)
            if not lines:  # the journal cannot give what was announced: do not ask in a circle
                self._known[stream] = self._cursors[stream]

        connection.receive(take_cursors, take_line, take_range)
        for stream in STREAMS:
            if self._known[stream] > self._cursors[stream]:
                connection.ask_range(stream, self._cursors[stream])
        return found

    def _read_files(self) -> list[Record]:
        if not self._readers:
            self._readers = [JournalReader(self._run.journal, s, self._cursors[s]) for s in STREAMS]
        found: list[Record] = []
        for reader in self._readers:
            for record, _ in reader.poll():
                if record.seq > self._cursors[reader.stream]:
                    self._cursors[reader.stream] = record.seq
                    found.append(record)
        return found

    def _close_files(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers = []


@dataclass(frozen=True, slots=True)
class _Question:
    """A range request, and when it was made (monotonic)."""

    stream: Stream
    asked_at: float


class _Connection:
    """The two sockets of a feed, and what is known about the other end."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", way: Way, name: str) -> None:
        self.way = way
        self._name = name
        now = time.monotonic()
        self.heard_at = now
        self.trusted_until = now + GREETING_SECONDS
        # subscribe first and fetch then: what happens in between comes twice, and the second time is dropped
        self._events = context.socket(zmq.SUB)
        self._events.setsockopt(zmq.LINGER, 0)
        self._events.setsockopt(zmq.RCVHWM, WATCH_QUEUE_MESSAGES)
        self._events.setsockopt(zmq.SUBSCRIBE, b"")
        way.connect(self._events, "ev")
        self._control = context.socket(zmq.DEALER)
        self._control.setsockopt(zmq.LINGER, 0)
        way.connect(self._control, "ctl")
        self._asked: dict[str, _Question] = {}
        """Range requests under way, by their id. One that is asked again stays: whichever is answered first will do."""
        self._ask_again_at: dict[Stream, float] = {}
        self._patience_seconds: dict[Stream, float] = {}
        """Grows with what answers take: asking again what a busy supervisor or a slow link is about to answer delays it more."""

    def wait(self, seconds: float, woken: int) -> None:
        """Until something comes from the other end, or on the descriptor."""
        poller = zmq.Poller()
        poller.register(woken, zmq.POLLIN)
        poller.register(self._events, zmq.POLLIN)
        poller.register(self._control, zmq.POLLIN)
        poller.poll(round(seconds * 1000))

    def ask_range(self, stream: Stream, after: int) -> None:
        now = time.monotonic()
        if now < self._ask_again_at.get(stream, now):
            return
        request = Request(VERSION, uuid.uuid4().hex, "range", {"stream": stream, "after": after})
        patience = self._patience_seconds.get(stream, ANSWER_SECONDS)
        self._asked[request.id] = _Question(stream, now)
        self._ask_again_at[stream] = now + patience
        self._patience_seconds[stream] = min(2 * patience, MOST_PATIENCE_SECONDS)
        with suppress(zmq.Again):
            self._control.send(encode_request(request), zmq.NOBLOCK)

    def receive(
        self,
        take_cursors: Callable[[dict[str, int]], None],
        take_line: Callable[[Stream, bytes], None],
        take_range: Callable[[Stream, list[bytes]], None],
    ) -> None:
        """Hand over everything that has arrived. Raises RefusedError for another major version."""
        for _ in range(WATCH_QUEUE_MESSAGES):
            try:
                _, head, line = self._events.recv_multipart(zmq.NOBLOCK)
                header = decode_header(head)
            except zmq.Again:
                break
            except (ValueError, msgspec.MsgspecError):
                continue
            check_version(header.version, self._name)
            self._heard()
            take_cursors(header.cursors)
            if header.stream is not None:
                take_line(header.stream, line)
        for _ in range(WATCH_QUEUE_MESSAGES):
            try:
                data = self._control.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            reply = understand_reply(data, self._name)
            if reply is None:
                continue
            self._heard()
            if (question := self._asked.get(reply.id)) is not None:
                self._learn_from(question)
                take_range(question.stream, reply.result.get("lines", []))

    def _learn_from(self, answered: "_Question") -> None:
        """It need not be waited for any more, and the next one may take as long."""
        stream = answered.stream
        self._asked = {i: question for i, question in self._asked.items() if question.stream != stream}
        self._ask_again_at.pop(stream, None)
        taken = time.monotonic() - answered.asked_at
        self._patience_seconds[stream] = min(max(ANSWER_SECONDS, 2 * taken), MOST_PATIENCE_SECONDS)

    def _heard(self) -> None:
        self.heard_at = time.monotonic()
        self.trusted_until = self.heard_at + SILENCE_SECONDS

    def close(self) -> None:
        self._events.close()
        self._control.close()
