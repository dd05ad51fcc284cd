"""JSON lines, one document each: plain, gzip or zstd."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer_daemon.contract.errors import SpecError, did_you_mean

READ_BYTES = 1 << 18
"""Of a compressed file at a time."""


def read_jsonl(file: Path, field: str) -> Iterator[tuple[str, int]]:
    """(text, bytes of the file read so far); a text may be empty. Raises SpecError, with the line, for what is no text."""
    with file.open("rb") as stored:
        number = offset = 0
        try:
            for number, line in enumerate(_lines(file, stored), 1):
                if line.strip():
                    yield _text_of(line, f"{file}:{number}", offset, field), stored.tell()
                offset += len(line)
        except EOFError as e:
            raise SpecError(
                f"data.source: {file} ends in the middle, after line {number}; get it anew"
            ) from e


def _text_of(line: bytes, where: str, offset: int, field: str) -> str:
    """`offset`: of the line in the text, uncompressed."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise SpecError(
            f"data.source: {where} is not UTF-8 text ({e.reason} at byte {offset + e.start:,} of the file's text)"
        ) from e
    except ValueError as e:
        raise SpecError(f"data.source: {where} is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise SpecError(f"data.source: {where} is not a JSON object with a text field")
    if field not in value:
        raise SpecError(no_such_field(where, "field", field, list(value)))
    text = value[field]
    if text is not None and not isinstance(text, str):
        raise SpecError(f'data.text_field: "{field}" of {where} is a {type(text).__name__}, not text')
    return text or ""


def _lines(file: Path, stored: BinaryIO) -> Iterator[bytes]:
    match file.suffix.lower():
        case ".gz":
            try:
                with gzip.open(stored) as stream:
                    yield from stream
            except (gzip.BadGzipFile, zlib.error) as e:
                raise SpecError(f"data.source: {file} is not a whole .gz file: {e}") from e
        case ".zst":
            yield from _divided(_zstd_blocks(file, stored))
        case _:
            yield from stored


def _zstd_blocks(file: Path, stored: BinaryIO) -> Iterator[bytes]:
    """Raises EOFError where the last frame has no end, which the library's own stream takes for the end of the text."""
    try:
        import zstandard
    except ImportError as e:
        raise SpecError(
            "data.source: reading .zst needs zstandard, which is not installed here: pip install zstandard"
        ) from e
    frame = None
    try:
        while block := stored.read(READ_BYTES):
            while block:  # large dumps are many frames one after the other
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(block)
                block = frame.unused_data
                if frame.eof:
                    frame = None
    except zstandard.ZstdError as e:
        raise SpecError(f"data.source: {file} is not a readable .zst file: {e}") from e
    if frame is not None:
        raise EOFError


def _divided(blocks: Iterator[bytes]) -> Iterator[bytes]:
    begun = b""
    for block in blocks:
        *lines, begun = (begun + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
    yield begun


def no_such_field(where: str, kind: str, field: str, known: list[str]) -> str:
    """That a field or column is missing, and what there is instead."""
    some = ", ".join(f'"{name}"' for name in known[:8]) or "none"
    return f'data.text_field: {where} has no {kind} "{field}"{did_you_mean(field, known)}; it has {some}'
