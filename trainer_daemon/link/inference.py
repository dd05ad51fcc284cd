"""Asking a stored checkpoint for text: the worker's socket and the client that CLI and cockpit share.

One worker process serves one checkpoint and is shared by whoever asks; it is started by the first one, and ends by
itself when nobody has asked for a while. Text streams back in pieces; closing the iterator early cancels the rest.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import msgspec
import zmq

from trainer_daemon.contract import wire
from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.detach import start_detached
from trainer_daemon.contract.errors import (
    LlmctlError,
    NotFoundError,
    WaitTimeoutError,
    error_from,
)
from trainer_daemon.contract.rundir import hold_lock, is_locked, socket_folder

IDLE_SECONDS = 120.0
"""A worker that nobody has asked for so long ends."""
START_TIMEOUT_SECONDS = 120.0
"""Longest wait for a worker to load its checkpoint."""
SILENCE_TIMEOUT_SECONDS = 60.0
"""Longest wait for the next piece of a text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next piece of a text."""

    text: str
    tokens: int
    """Tokens written so far."""
    done: bool
    finish_reason: Literal["length", "end"] | None


Generate = Callable[[dict[str, Any]], Iterator[Piece]]
"""What a worker can do: from a request's arguments to pieces. Raises LlmctlError for arguments it cannot serve."""


class InferenceServer(Closing):
    """The worker's side: answers every request that is being served in turn, one token at a time."""

    def __init__(self, checkpoint: Path) -> None:
        """Binds the checkpoint's socket. Raises RefusedError when another worker serves it."""
        folder = socket_folder(checkpoint)
        self._lock = hold_lock(folder / "worker.lock")
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_REQUEST_BYTES)
        # binding removes a socket file that a dead worker left; the lock above says that it is dead
        self._socket.bind(f"ipc://{folder / 'infer'}")
        self._active: dict[tuple[bytes, str], Iterator[Piece]] = {}

    def serve(self, generate: Generate, idle_seconds: float = IDLE_SECONDS) -> None:
        """Answer until nobody has asked for `idle_seconds`."""
        last_asked = time.monotonic()
        while time.monotonic() - last_asked < idle_seconds:
            wait = 0.0 if self._active else idle_seconds - (time.monotonic() - last_asked)
            while self._socket.poll(round(max(0.0, wait) * 1000)):
                self._receive(generate)
                last_asked, wait = time.monotonic(), 0.0
            for key in list(self._active):
                self._advance(key)
                last_asked = time.monotonic()

    def _receive(self, generate: Generate) -> None:
        frames = self._socket.recv_multipart()
        if len(frames) != 2:
            return
        peer, body = frames
        try:
            request = wire.decode_request(body)
        except msgspec.MsgspecError:
            return
        if request.version[0] != wire.VERSION[0]:
            error = f"this worker speaks protocol {wire.VERSION[0]}.x, the client {request.version[0]}.x; update one of them"
            self._send(peer, wire.Reply(wire.VERSION, request.id, ok=False, error=error, exit_code=6))
        elif request.op == "generate":
            try:
                self._active[peer, request.id] = generate(request.args)
            except LlmctlError as e:
                self._send(
                    peer, wire.Reply(wire.VERSION, request.id, ok=False, error=str(e), exit_code=e.exit_code)
                )
        elif request.op == "cancel":
            self._active.pop((peer, str(request.args.get("id"))), None)
        else:
            self._send(peer, wire.Reply(wire.VERSION, request.id, ok=request.op == "ping"))

    def _advance(self, key: tuple[bytes, str]) -> None:
        peer, request_id = key
        try:
            piece = next(self._active[key])
        except (
            StopIteration,
            LlmctlError,
            RuntimeError,
        ) as e:  # RuntimeError: torch's out-of-memory and kernel errors
            del self._active[key]
            if not isinstance(e, StopIteration):
                self._send(peer, wire.Reply(wire.VERSION, request_id, ok=False, error=str(e), exit_code=4))
            return
        self._send(peer, wire.Reply(wire.VERSION, request_id, ok=True, result=msgspec.to_builtins(piece)))

    def _send(self, peer: bytes, reply: wire.Reply) -> None:
        self._socket.send_multipart([peer, wire.encode(reply)], flags=zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()
        self._context.term()
        os.close(self._lock)


class Worker(Closing):
    """The client's side of one worker."""

    def __init__(self, checkpoint: Path) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{socket_folder(checkpoint) / 'infer'}")

    def generate(
        self, prompt: str, *, max_tokens: int, temperature: float, top_k: int | None, seed: int
    ) -> Generator[Piece, None, None]:
        """Stream the continuation of a prompt. Closing the iterator early cancels it.

        Raises SpecError for a prompt that is too large, the worker's own error, or WaitTimeoutError when it is silent.
        """
        request_id = uuid4().hex
        arguments = {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "seed": seed,
        }
        self._ask(request_id, "generate", arguments)
        finished = False
        try:
            while not finished:
                if not self._socket.poll(round(SILENCE_TIMEOUT_SECONDS * 1000)):
                    raise WaitTimeoutError(
                        f"the inference worker said nothing for {SILENCE_TIMEOUT_SECONDS:.0f} s"
                    )
                reply = wire.decode_reply(self._socket.recv())
                if reply.id != request_id:  # the tail of one that was cancelled
                    continue
                if not reply.ok:
                    finished = True
                    raise error_from(reply.exit_code, reply.error or "the inference worker failed")
                piece = msgspec.convert(reply.result, Piece)
                finished = piece.done
                yield piece
        finally:
            if not finished:
                self._ask(uuid4().hex, "cancel", {"id": request_id})

    def _ask(self, request_id: str, op: wire.Operation, arguments: dict[str, Any]) -> None:
        self._socket.send(wire.encode_request(wire.Request(wire.VERSION, request_id, op, arguments)))

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def open_worker(checkpoint: Path, idle_seconds: float = IDLE_SECONDS) -> Worker:
    """A client of the worker that serves `checkpoint`, started when there is none.

    Raises the worker's own error when it cannot load the checkpoint.
    """
    if not checkpoint.is_dir():
        raise NotFoundError(f"{checkpoint} is not a checkpoint folder")
    # one starter at a time: the second one finds the first one's worker
    starter = os.open(
        socket_folder(checkpoint) / "starter.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(starter, fcntl.LOCK_EX)
        if not is_locked(socket_folder(checkpoint) / "worker.lock"):
            _start_worker(checkpoint, idle_seconds)
    finally:
        os.close(starter)
    return Worker(checkpoint)


def _start_worker(checkpoint: Path, idle_seconds: float) -> None:
    program = [
        sys.executable,
        "-m",
        "trainer_daemon",
        "infer",
        str(checkpoint.absolute()),
        "--idle",
        str(idle_seconds),
    ]
    start_detached(program, timeout_seconds=START_TIMEOUT_SECONDS)
