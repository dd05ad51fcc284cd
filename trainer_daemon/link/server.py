"""The supervisor's two sockets: XPUB `ev` tells, ROUTER `ctl` answers.

Unix sockets in a folder that only the owner can enter, so whoever connects is the user. On request they listen on a TCP
address too, where CURVE keys say who connects (`link.keys`) and encrypt what passes. Still, whatever arrives is
bounded in size, decoded into typed structs or dropped, and never raises: bytes from a confused client must not end the
process that watches a training run.
"""

import resource
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import zmq

from trainer_daemon.contract.errors import LlmctlError, RefusedError
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.output import say
from trainer_daemon.contract.rundir import RunDir, record_sockets, socket_folder
from trainer_daemon.contract.wire import (
    MAX_REQUEST_BYTES,
    TOPIC_EVENT,
    TOPIC_HEARTBEAT,
    VERSION,
    Envelope,
    Header,
    Reply,
    Request,
    decode_envelope,
    decode_request,
    encode,
)
from trainer_daemon.link.keys import KeyPair, allowed_keys, own_keys
from trainer_daemon.link.ways import Place, SocketName

QUEUE_MESSAGES = 1000
"""For each watcher; one that falls further behind misses messages and fetches them by `range`."""
QUEUE_ANSWERS = 16
"""For each client; one that asks and never reads must not fill our memory."""
BURST = 100
"""Messages taken from one socket before the loop has its turn again."""
LAST_WORDS_MILLISECONDS = 200
"""How long closing may wait for the last answer to leave."""
HANDSHAKE_MILLISECONDS = 5000


class Server:
    """Both sockets of one run. The caller holds run.lock, and does so until after `close`."""

    def __init__(self, run: RunDir, place: Place | None = None) -> None:
        """`place`: the TCP address to listen on, too. Raises RefusedError when it cannot be listened on, when there are no
        keys for it, or when the socket folder is not ours."""
        _allow_many_files()
        self._run = run
        self._folder = socket_folder(run.path)
        self._context = zmq.Context()
        self._events = self._make(zmq.XPUB, QUEUE_MESSAGES)
        self._control = self._make(zmq.ROUTER, QUEUE_ANSWERS)
        self._sockets: dict[SocketName, zmq.Socket[bytes]] = {"ev": self._events, "ctl": self._control}
        self._bind()
        self._gate = self._context.socket(zmq.ROUTER)
        if place is not None:
            self._listen(place, own_keys())
        self._poller = zmq.Poller()
        self._poller.register(self._gate, zmq.POLLIN)
        self._poller.register(self._events, zmq.POLLIN)
        self._poller.register(self._control, zmq.POLLIN)
        self._cursors: dict[str, int] = {}

    def _make(self, kind: int, queue: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, LAST_WORDS_MILLISECONDS)
        socket.setsockopt(zmq.SNDHWM, queue)
        socket.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS)
        if kind == zmq.XPUB:
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # hear of every newcomer, to tell it at once what there is
        return socket

    def _bind(self) -> None:
        record_sockets(self._run, self._folder)
        for name, socket in self._sockets.items():
            # binding silently replaces what is there, even a living daemon's socket: the caller's lock says there is none
            socket.bind(f"ipc://{self._folder / name}")

    def _listen(self, place: Place, keys: KeyPair) -> None:
        self._gate.bind(
            "inproc://zeromq.zap.01"
        )  # before the first handshake: without it, every key would be let in
        for name, socket in self._sockets.items():
            socket.ipv6 = ":" in place.host
            socket.tcp_keepalive = 1
            socket.curve_secretkey = keys.secret
            socket.curve_server = 1
            try:
                socket.bind(place.endpoint(name))
            except zmq.ZMQError as e:
                raise RefusedError(f"cannot listen on {place.endpoint(name)}: {e}") from e
            socket.curve_server = 0  # what is bound from now on is a unix socket again

    def stay_reachable(self) -> None:
        """Bind the sockets anew when their files are gone: a logout removes $XDG_RUNTIME_DIR, a cleaner old files."""
        if all((self._folder / name).exists() for name in self._sockets):
            return
        # where no folder can be made or the disk is full, training goes on, and the next beat tries again
        with suppress(OSError, RefusedError, zmq.ZMQError):
            self._remove_files()
            folder = socket_folder(self._run.path)
            for name, socket in self._sockets.items():
                with suppress(zmq.ZMQError):  # it is not bound since the last try
                    socket.unbind(f"ipc://{self._folder / name}")
            self._folder = folder
            self._bind()

    def serve(self, timeout_seconds: float, answer: Callable[[Request], dict[str, Any]]) -> None:
        """Wait that long for requests and answer them; whatever `answer` raises is sent as the answer."""
        ready = dict(self._poller.poll(round(timeout_seconds * 1000)))
        if self._gate in ready:
            self._check_keys()
        if self._events in ready:
            self._greet_newcomers()
        if self._control in ready:
            for _ in range(BURST):
                try:
                    frames = self._control.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if len(frames) == 2 and (reply := _reply(frames[1], answer)) is not None:
                    with suppress(zmq.ZMQError):
                        self._control.send_multipart([frames[0], encode(reply)], zmq.NOBLOCK)

    def _check_keys(self) -> None:
        """Say who of those that want to connect by TCP is let in (ZeroMQ's RFC 27)."""
        allowed = set(allowed_keys().values())
        for _ in range(BURST):
            try:
                frames = self._gate.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            peer, _, version, request_id, _domain, _address, _identity, mechanism, *credentials = frames
            is_let_in = mechanism == b"CURVE" and credentials[0] in allowed
            verdict = (b"200", b"OK") if is_let_in else (b"400", b"this key is not let in")
            self._gate.send_multipart([peer, b"", version, request_id, *verdict, b"", b""])

    def _greet_newcomers(self) -> None:
        subscribed = False
        for _ in range(BURST):
            try:
                message = self._events.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            subscribed |= message[0][:1] == b"\x01"
        if subscribed:
            self.heartbeat(self._cursors)

    def publish(self, record: Record, line: bytes, cursors: dict[str, int]) -> None:
        """Send a journal line to all who watch; it never waits for one of them."""
        self._send(TOPIC_EVENT, Header(VERSION, cursors, record.stream, record.seq), line)

    def heartbeat(self, cursors: dict[str, int]) -> None:
        """Tell all who watch what there is."""
        self._send(TOPIC_HEARTBEAT, Header(VERSION, cursors, None, 0), b"")

    def _send(self, topic: bytes, header: Header, line: bytes) -> None:
        self._cursors = header.cursors
        with suppress(zmq.ZMQError):
            self._events.send_multipart([topic, encode(header), line], zmq.NOBLOCK)

    def close(self) -> None:
        for socket in (*self._sockets.values(), self._gate):
            socket.close()
        self._context.term()
        self._remove_files()

    def _remove_files(self) -> None:
        for name in self._sockets:
            (self._folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self._folder.rmdir()


def _allow_many_files() -> None:
    """libzmq ends the process that comes to its limit of open files with a connection: no limit but the machine's."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems name a hard limit that they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _reply(data: bytes, answer: Callable[[Request], dict[str, Any]]) -> Reply | None:
    """The answer to whatever came; None for what is not even a message of ours."""
    try:
        envelope: Envelope = decode_envelope(data)
    except msgspec.MsgspecError:
        return None

    def refuse(text: str, exit_code: int) -> Reply:
        return Reply(VERSION, envelope.id, ok=False, error=text, exit_code=exit_code)

    if envelope.version[0] != VERSION[0]:
        ours, theirs = ".".join(map(str, VERSION)), ".".join(map(str, envelope.version))
        return refuse(
            f"the daemon speaks protocol {ours}, this client {theirs}: use the llmctl that started the run", 6
        )
    try:
        return Reply(VERSION, envelope.id, ok=True, result=answer(decode_request(data)))
    except LlmctlError as e:
        return refuse(str(e), e.exit_code)
    except msgspec.MsgspecError as e:
        return refuse(f"the request is not understood: {e}", 2)
    except Exception as e:  # noqa: BLE001  # our bug, but not the end of the supervisor
        say(traceback.format_exc())
        return refuse(f"the daemon failed to answer: {type(e).__name__}: {e}; see its supervisor.log", 1)
