"""What crosses the sockets, both ways.

Telemetry: three frames, `topic | Header | journal line`. The line is the journal's own bytes, CRC included, so what a
watcher holds can be compared with the file byte for byte. Control: one msgpack frame each way, `Request` and `Reply`.
Everything is decoded into the typed structs below or refused; nothing that arrives can name code.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.journal import Stream

T = TypeVar("T")

VERSION = (1, 0)
"""(major, minor) of the wire, the journal and the status JSON. The major changes when a reader would misread, and is
refused by name; a higher minor may carry fields that we ignore."""

MAX_REQUEST_BYTES = 64 * 1024
HEARTBEAT_SECONDS = 1.0
RANGE_LIMIT = 5000
"""Journal lines in one answer to `range`."""

TOPIC_EVENT = b"ev"
TOPIC_HEARTBEAT = b"hb"

Operation = Literal["ping", "hello", "range", "log", "command", "kill", "open", "generate", "cancel"]
"""Of a supervisor: ping: {} -> {}. hello: {} -> {name, pid, spec, cursors}. range: {stream, after} -> {lines}.
log: {source, offset} -> {text, offset, size}. command: {request_id, name, arguments} -> {request_id}. kill: {} -> {}.
Of an inference worker: ping: {} -> {pid}. open: {checkpoint} -> what was loaded. generate: {checkpoint, request} -> many
pieces of `contract.generation`, the last one with done. cancel: {id of a generate}, without an answer."""


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Before every published message."""

    version: tuple[int, int]
    cursors: dict[str, int]
    """Per stream, the newest sequence number there is: what a watcher must have to have missed nothing."""
    stream: Stream | None
    """Of the line that follows; None on a heartbeat."""
    seq: int


class Request(msgspec.Struct, frozen=True):
    version: tuple[int, int]
    id: str
    op: Operation
    args: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True):
    version: tuple[int, int]
    id: str
    ok: bool
    result: dict[str, Any] = {}
    error: str | None = None
    """One sentence for the reader, when not ok."""
    exit_code: int = 0
    """The exit code a CLI should end with, when not ok."""


class Envelope(msgspec.Struct, frozen=True):
    """What a message of any major version has: enough to refuse it by name."""

    version: tuple[int, int]
    id: Annotated[str, msgspec.Meta(max_length=64)]


def encode(message: Header | Request | Reply) -> bytes:
    return msgspec.msgpack.encode(message)


def encode_request(request: Request) -> bytes:
    """Raises SpecError for one that is larger than the other side takes: it would cut the connection without a word."""
    data = encode(request)
    if len(data) > MAX_REQUEST_BYTES:
        raise SpecError(
            f"the request is {len(data):,} bytes long, at most {MAX_REQUEST_BYTES:,} are taken; shorten the prompt"
        )
    return data


def decode_header(data: bytes) -> Header:
    """Raises msgspec.MsgspecError on anything but a header."""
    return _decode(data, Header)


def decode_envelope(data: bytes) -> Envelope:
    """Raises msgspec.MsgspecError on anything but a request or a reply, of whatever version."""
    return _decode(data, Envelope)


def decode_request(data: bytes) -> Request:
    """Raises msgspec.MsgspecError on anything but a request."""
    return _decode(data, Request)


def decode_reply(data: bytes) -> Reply:
    """Raises msgspec.MsgspecError on anything but a reply."""
    return _decode(data, Reply)


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (UnicodeDecodeError, RecursionError) as e:  # msgspec lets these two through
        raise msgspec.DecodeError(str(e)) from e
