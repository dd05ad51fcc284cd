"""Asking stored checkpoints for text: the worker's socket and the client that CLI, cockpit and HTTP face share.

One worker a home serves all who ask, whichever checkpoints they ask for: it is started by the first one, loads a
checkpoint when it is first wanted, writes all texts of a checkpoint together, and ends by itself when nobody has asked
for a while. Text streams back in pieces; whoever closes the iterator early, or dies, frees the place of his text.

    $LLMCTL_HOME/inference/   worker.lock (held while it lives)  starter.lock (one starter, or one leaver, at a time)
                              sockets (where its socket is: the runtime folder of whoever started it)  worker.log
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol
from uuid import uuid4

import msgspec
import zmq

from trainer_daemon.contract import wire
from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.detach import start_detached
from trainer_daemon.contract.errors import (
    LlmctlError,
    NotFoundError,
    RefusedError,
    SpecError,
    WaitTimeoutError,
    error_from,
)
from trainer_daemon.contract.generation import Generation, Piece
from trainer_daemon.contract.rundir import (
    check_socket_folder,
    hold_lock,
    home,
    is_locked,
    socket_folder,
    write_durably,
)

IDLE_SECONDS = 120.0
"""A worker that nobody has asked for so long ends."""
START_TIMEOUT_SECONDS = 120.0
"""Longest wait for a worker to come up, and for it to load a checkpoint."""
SILENCE_TIMEOUT_SECONDS = 120.0
"""Longest wait for the next piece of a text: others may be before it."""
LOOK_SECONDS = 1.0
"""How often one who waits looks whether the worker still lives, and the worker whether it is to stop."""
LOADING_POLL_SECONDS = 0.02
KEPT_CHECKPOINTS = 4
"""Loaded at once; the one asked for longest ago makes way, unless it is writing."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that the worker has in memory."""

    step: int
    context: int
    """Tokens that the model can read at once."""
    vocab_size: int
    device: str
    """Where it computes and in which arithmetic, in words."""
    load_seconds: float
    """From the disk, hashes included."""
    is_chat: bool = False
    """Trained on conversations: it answers messages. Others continue a prompt."""
    notices: tuple[str, ...] = ()
    """What its reader should know, in sentences: why it is not written on a GPU, why it is slow."""


class Writer(Protocol):
    """A loaded checkpoint that writes. Raises LlmctlError for a request that it cannot serve."""

    @property
    def loaded(self) -> Loaded: ...
    @property
    def is_idle(self) -> bool: ...
    def begin(self, request: Generation) -> int: ...
    def cancel(self, ticket: int) -> None: ...
    def step(self) -> list[tuple[int, Piece]]: ...
    def abandon(self) -> list[int]: ...


Load = Callable[[Path], Writer]
"""Loads a checkpoint, in a thread of its own. Raises LlmctlError when it cannot."""

Asker = tuple[bytes, str]
"""Who wants an answer: the peer's address and the id of its request."""
Key = tuple[str, int, int]
"""A checkpoint as it lies on disk: its path, and what says that it was not exchanged."""


def worker_folder() -> Path:
    """Where this home's worker keeps its locks, made when missing."""
    folder = home() / "inference"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


class InferenceServer(Closing):
    """The worker's side."""

    def __init__(self, folder: Path, load: Load) -> None:
        """Binds the socket. Raises RefusedError when another worker serves this home."""
        self._folder = folder
        self._load = load
        self._lock = hold_lock(folder / "worker.lock")
        sockets = socket_folder(folder)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_REQUEST_BYTES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # so that a peer that is gone is noticed
        # binding removes a socket file that a dead worker left; the lock above says that it is dead
        self._socket.bind(f"ipc://{sockets / 'infer'}")
        write_durably(folder / "sockets", os.fsencode(sockets))
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._loading: dict[Key, Future[Writer]] = {}
        self._writers: dict[Key, Writer] = {}
        """The one asked for last is the last one."""
        self._waiting: dict[Asker, tuple[Key, Generation | None]] = {}
        """For a checkpoint that is being loaded; None: only to hear of it."""
        self._texts: dict[tuple[Key, int], Asker] = {}
        """By checkpoint and ticket."""
        self._stopping = Event()

    def serve(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """Answer until nobody has asked for `idle_seconds`, or until `stop`."""
        last_asked = time.monotonic()
        while not self._stopping.is_set():
            is_writing = any(not writer.is_idle for writer in self._writers.values())
            if is_writing or self._loading:
                last_asked = time.monotonic()
            left = idle_seconds - (time.monotonic() - last_asked)
            if left <= 0 and self._may_leave():
                return
            wait = (
                LOADING_POLL_SECONDS if self._loading else min(max(left, LOADING_POLL_SECONDS), LOOK_SECONDS)
            )
            wait = 0.0 if is_writing else wait
            while self._socket.poll(round(wait * 1000)):
                self._receive()
                last_asked, wait = time.monotonic(), 0.0
            self._take_loaded()
            for key, writer in list(self._writers.items()):
                if not writer.is_idle:
                    self._advance(key, writer)

    def stop(self) -> None:
        """Have `serve` return soon. From any thread, or a signal handler."""
        self._stopping.set()

    def _may_leave(self) -> bool:
        """Take the starters' lock for the rest of this process's life; False when one is about to ask."""
        try:
            hold_lock(self._folder / "starter.lock")
        except RefusedError:
            return False
        return True

    def _receive(self) -> None:
        frames = self._socket.recv_multipart()
        if len(frames) != 2:
            return
        try:
            request = wire.decode_request(frames[1])
        except msgspec.MsgspecError:
            return
        asker = (frames[0], request.id)
        if request.version[0] != wire.VERSION[0]:
            versions = f"protocol {wire.VERSION[0]}.x, the client {request.version[0]}.x"
            self._refuse(asker, RefusedError(f"this worker speaks {versions}; update one of them"))
            return
        try:
            self._answer(asker, request)
        except LlmctlError as e:
            self._refuse(asker, e)
        except msgspec.ValidationError as e:
            self._refuse(asker, SpecError(f"the request is not understood: {e}"))

    def _answer(self, asker: Asker, request: wire.Request) -> None:
        match request.op:
            case "ping":
                self._send(asker, {"pid": os.getpid()})
            case "open":
                self._want(asker, self._find(request.args), None)
            case "generate":
                generation = msgspec.convert(request.args.get("request"), Generation)
                self._want(asker, self._find(request.args), generation)
            case "cancel":
                self._cancel((asker[0], str(request.args.get("id"))))
            case _:
                raise SpecError(f"an inference worker does not know what to do for {request.op}")

    def _find(self, arguments: dict[str, Any]) -> Key:
        """The checkpoint that is meant. Raises NotFoundError for none.

        One that is loaded answers on when its folder is gone: a run that trains thins out its checkpoints.
        """
        try:
            return _key_of(arguments)
        except NotFoundError:
            for key in reversed(self._writers):
                if key[0] == str(arguments.get("checkpoint")):
                    return key
            raise

    def _want(self, asker: Asker, key: Key, generation: Generation | None) -> None:
        if key in self._writers:
            self._writers[key] = writer = self._writers.pop(key)
            self._begin(asker, key, writer, generation)
            return
        self._waiting[asker] = key, generation
        if key not in self._loading:
            self._make_room()
            self._loading[key] = self._loader.submit(self._load, Path(key[0]))

    def _make_room(self) -> None:
        idle = [key for key, writer in self._writers.items() if writer.is_idle]
        for key in idle[: max(0, len(self._writers) + 1 - KEPT_CHECKPOINTS)]:
            del self._writers[key]

    def _take_loaded(self) -> None:
        for key in [key for key, future in self._loading.items() if future.done()]:
            future = self._loading.pop(key)
            askers = [asker for asker, (wanted, _) in self._waiting.items() if wanted == key]
            try:
                writer = self._writers[key] = future.result()
            except Exception as e:  # noqa: BLE001  # whatever it is, those who wait must hear of it
                error = e if isinstance(e, LlmctlError) else RefusedError(f"it cannot be loaded: {_words(e)}")
                for asker in askers:
                    del self._waiting[asker]
                    self._refuse(asker, error)
                continue
            for asker in askers:
                _, generation = self._waiting.pop(asker)
                try:
                    self._begin(asker, key, writer, generation)
                except LlmctlError as e:
                    self._refuse(asker, e)

    def _begin(self, asker: Asker, key: Key, writer: Writer, generation: Generation | None) -> None:
        if generation is None:
            self._send(asker, msgspec.to_builtins(writer.loaded))
        else:
            self._texts[key, writer.begin(generation)] = asker

    def _cancel(self, asker: Asker) -> None:
        self._waiting.pop(asker, None)
        for (key, ticket), whose in list(self._texts.items()):
            if whose == asker:
                del self._texts[key, ticket]
                self._writers[key].cancel(ticket)

    def _advance(self, key: Key, writer: Writer) -> None:
        try:
            pieces = writer.step()
        except (
            LlmctlError,
            RuntimeError,
            MemoryError,
        ) as e:  # RuntimeError: torch's out-of-memory and kernel errors
            for ticket in writer.abandon():
                self._refuse(self._texts.pop((key, ticket)), RefusedError(f"the text broke off: {_words(e)}"))
            return
        for ticket, piece in pieces:
            asker = self._texts.pop((key, ticket)) if piece.done else self._texts[key, ticket]
            self._send(asker, msgspec.to_builtins(piece))

    def _refuse(self, asker: Asker, error: LlmctlError) -> None:
        self._send_reply(
            asker,
            wire.Reply(wire.VERSION, asker[1], ok=False, error=str(error), exit_code=error.exit_code),
        )

    def _send(self, asker: Asker, result: dict[str, Any]) -> None:
        self._send_reply(asker, wire.Reply(wire.VERSION, asker[1], ok=True, result=result))

    def _send_reply(self, asker: Asker, reply: wire.Reply) -> None:
        try:
            self._socket.send_multipart([asker[0], wire.encode(reply)], flags=zmq.NOBLOCK)
        except zmq.ZMQError:  # it is gone, or takes nothing any more: whatever it wanted is not written on
            for other in {*self._waiting, *self._texts.values()}:
                if other[0] == asker[0]:
                    self._cancel(other)

    def close(self) -> None:
        self._loader.shutdown(cancel_futures=True)
        self._socket.close()
        self._context.term()
        os.close(self._lock)


def _key_of(arguments: dict[str, Any]) -> Key:
    path = Path(str(arguments.get("checkpoint")))
    try:
        info = (path / "MANIFEST.json").stat()
    except (OSError, ValueError) as e:
        raise NotFoundError(f"{path} is not a checkpoint folder") from e
    return str(path), info.st_ino, info.st_mtime_ns


def _words(error: Exception) -> str:
    """The first line of an error; torch's have twenty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Worker(Closing):
    """The client's side. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        sockets = Path(os.fsdecode((folder / "sockets").read_bytes()))
        with suppress(FileNotFoundError):
            check_socket_folder(sockets)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{sockets / 'infer'}")

    def ping(self) -> int:
        """The worker's process id."""
        return int(self._ask_once("ping", {})["pid"])

    def open(self, checkpoint: Path) -> Loaded:
        """Have a checkpoint loaded. Raises the worker's own error when it cannot be."""
        return msgspec.convert(self._ask_once("open", {"checkpoint": str(checkpoint.absolute())}), Loaded)

    def generate(self, checkpoint: Path, request: Generation) -> Generator[Piece, None, None]:
        """Stream one text. Closing the iterator early cancels it. Raises as `generate_together`."""
        with _closing(self.generate_together([(checkpoint, request)])) as pieces:
            for _, piece in pieces:
                yield piece

    def generate_together(
        self, wanted: Sequence[tuple[Path, Generation]]
    ) -> Generator[tuple[int, Piece], None, None]:
        """Stream several texts at once, each piece with its place in `wanted`. Closing the iterator cancels the rest.

        Raises SpecError for a prompt that is too large, the worker's own error, RefusedError when it is gone, or
        WaitTimeoutError when it is silent.
        """
        places = {uuid4().hex: place for place in range(len(wanted))}
        open_ids = set(places)
        try:
            for request_id, place in places.items():
                checkpoint, request = wanted[place]
                arguments = {
                    "checkpoint": str(checkpoint.absolute()),
                    "request": msgspec.to_builtins(request),
                }
                self._ask(request_id, "generate", arguments)
            timeout = START_TIMEOUT_SECONDS
            while open_ids:
                reply = self._receive(timeout)
                if reply.id not in open_ids:  # the tail of one that was cancelled
                    continue
                timeout = SILENCE_TIMEOUT_SECONDS
                if not reply.ok:
                    open_ids.discard(reply.id)
                    raise error_from(reply.exit_code, reply.error or "the inference worker failed")
                piece = msgspec.convert(reply.result, Piece)
                if piece.done:
                    open_ids.discard(reply.id)
                yield places[reply.id], piece
        finally:
            for request_id in open_ids:
                self._ask(uuid4().hex, "cancel", {"id": request_id})

    def _ask_once(self, op: wire.Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        request_id = uuid4().hex
        self._ask(request_id, op, arguments)
        while (reply := self._receive(START_TIMEOUT_SECONDS)).id != request_id:
            pass
        if not reply.ok:
            raise error_from(reply.exit_code, reply.error or "the inference worker failed")
        return reply.result

    def _ask(self, request_id: str, op: wire.Operation, arguments: dict[str, Any]) -> None:
        self._socket.send(wire.encode_request(wire.Request(wire.VERSION, request_id, op, arguments)))

    def _receive(self, timeout_seconds: float) -> wire.Reply:
        deadline = time.monotonic() + timeout_seconds
        while not self._socket.poll(round(LOOK_SECONDS * 1000)):
            if not is_locked(self._folder / "worker.lock"):
                raise RefusedError(_worker_is_gone(self._folder / "worker.log"))
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"the inference worker said nothing for {timeout_seconds:.0f} s")
        return wire.decode_reply(self._socket.recv())

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def _worker_is_gone(log: Path) -> str:
    """With what it printed, where it printed anything: one that was killed did not."""
    has_words = log.is_file() and log.stat().st_size > 0
    left = f"what it printed is in {log}" if has_words else "it left no word, as one that was killed"
    return f"the inference worker is gone, {left}; ask again, and another one starts"


@contextmanager
def _closing(generator: Generator[tuple[int, Piece], None, None]) -> Iterator[Iterator[tuple[int, Piece]]]:
    try:
        yield generator
    finally:
        generator.close()


def open_worker(idle_seconds: float = IDLE_SECONDS) -> Worker:
    """A client of this home's worker, which is started when there is none. Raises its own error when it cannot start."""
    folder = worker_folder()
    # one starter at a time: the second one finds the first one's worker. A worker that is about to end holds it too
    starter = os.open(folder / "starter.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(starter, fcntl.LOCK_EX)
        if not is_locked(folder / "worker.lock"):
            program = [sys.executable, "-m", "trainer_daemon", "infer", "--idle", str(idle_seconds)]
            start_detached(program, timeout_seconds=START_TIMEOUT_SECONDS)
        worker = Worker(folder)
        try:
            worker.ping()  # it has heard of us, and will not leave for being idle
        except BaseException:
            worker.close()
            raise
    finally:
        os.close(starter)
    return worker
