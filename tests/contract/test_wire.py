import contextlib
import random

import msgspec
import pytest

from trainer_daemon.contract.wire import (
    VERSION,
    Header,
    Reply,
    Request,
    decode_envelope,
    decode_header,
    decode_reply,
    decode_request,
    encode,
)

DECODERS = (decode_header, decode_request, decode_reply, decode_envelope)


def test_messages_come_back_as_they_were() -> None:
    header = Header(VERSION, {"train": 5}, "train", 5)
    request = Request(VERSION, "id", "range", {"stream": "train", "after": 3})
    reply = Reply(VERSION, "id", ok=True, result={"lines": [b"a\n"]})
    assert decode_header(encode(header)) == header
    assert decode_request(encode(request)) == request
    assert decode_reply(encode(reply)) == reply
    assert decode_envelope(encode(request)).version == VERSION


def test_bytes_that_are_no_message_raise_one_kind_of_error() -> None:
    """msgspec lets a UnicodeDecodeError and a RecursionError through; the first one ended a daemon under test."""
    dice = random.Random(1)
    valid = [encode(Request(VERSION, "x", "ping")), encode(Reply(VERSION, "x", ok=True))]
    junk = [dice.randbytes(dice.randrange(60)) for _ in range(2000)]
    junk += [b"\x91" * 50_000, b"\x82\xa2id\xa1\xff", b""]
    for message in valid:
        junk += [
            message[:n] + dice.randbytes(1) + message[n + 1 :] for n in range(len(message)) for _ in range(20)
        ]
    for data in junk:
        for decode in DECODERS:
            with contextlib.suppress(msgspec.MsgspecError):
                decode(data)


def test_an_operation_that_does_not_exist_is_no_request() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_request(msgspec.msgpack.encode({"version": VERSION, "id": "x", "op": "eval", "args": {}}))
