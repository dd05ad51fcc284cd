"""Files that hold ids instead of text: where their documents begin and end, and the two kinds of .bin.

Nothing in such a file says which tokenizer made it or on which side of a document its separator stands, so the spec has
to: a wrong guess would put each document's end at the next one's beginning, and no loss curve would show it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from trainer_daemon.contract.errors import SpecError

IntegerArray: TypeAlias = npt.NDArray[np.integer[Any]]
Side: TypeAlias = Literal["before", "after", "none"]

BLOCK_TOKENS = 1 << 22
"""Ids that are read at a time."""
UNDIVIDED_TOKENS = 4096
"""Where nothing divides documents, one is made of so many ids."""

HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
HEADERS: dict[str, tuple[int, int]] = {"uint16": (20240520, 1), "uint32": (20240801, 7)}
"""dtype -> (magic, version), as llm.c writes them; the third number is the count of tokens."""


def read_bin(file: Path) -> Iterator[tuple[IntegerArray, int]]:
    """(ids, bytes of the file read so far) of one block after the other: llm.c's shards by their header, else bare uint16."""
    dtype, offset, count = bin_layout(file)
    with file.open("rb") as stream:
        stream.seek(offset)
        left = count
        while left:
            ids = np.fromfile(stream, dtype, min(BLOCK_TOKENS, left))
            if len(ids) == 0:
                raise SpecError(f"data.source: {file} became shorter while it was read; prepare it again")
            left -= len(ids)
            yield ids, stream.tell()


def bin_layout(file: Path) -> tuple[np.dtype[Any], int, int]:
    """(dtype, offset of the first id, ids). Raises SpecError when the size is not what the header or the format says."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = np.frombuffer(stream.read(12), "<i4") if size >= HEADER_BYTES else np.zeros(3, "<i4")
    for name, magic in HEADERS.items():
        if tuple(head[:2].tolist()) == magic:
            dtype, count = np.dtype(name).newbyteorder("<"), int(head[2])
            expected = HEADER_BYTES + count * dtype.itemsize
            if size != expected:
                raise SpecError(
                    f"data.source: {file} is cut or damaged: its header says {count:,} ids, so {expected:,} bytes, and it "
                    f"has {size:,}; get it anew"
                )
            return dtype, HEADER_BYTES, count
    if size % 2:
        raise SpecError(
            f"data.source: {file} has {size:,} bytes, an odd number: no file of 16-bit ids; it may be cut"
        )
    return np.dtype("<u2"), 0, size // 2


def count_bin(file: Path) -> int:
    """Ids in the file. Raises SpecError as `bin_layout` does."""
    return bin_layout(file)[2]


def divide(
    blocks: Iterator[tuple[IntegerArray, int]], separator_id: int, side: Side
) -> Iterator[tuple[IntegerArray, int]]:
    """Blocks of ids -> (ids of one document without separators, progress of its last block). None is empty.

    A document may run on from block to block, and so from one shard to the next.
    """
    if side == "none":
        yield from _pieces(blocks)
        return
    begun: list[IntegerArray] = []
    done = 0
    for ids, done in blocks:
        ends = np.flatnonzero(ids == separator_id)
        start = 0
        for end in ends.tolist():
            begun.append(ids[start:end])
            if document := _joined(begun):
                yield document[0], done
            begun, start = [], end + 1
        begun.append(ids[start:].copy() if len(ends) else ids[start:])  # a copy lets the rest of the block go
    if document := _joined(begun):
        yield document[0], done


def _joined(parts: list[IntegerArray]) -> list[IntegerArray]:
    """The parts as one array, in a list that is empty when the array would be."""
    filled = [part for part in parts if len(part)]
    return [np.concatenate(filled)] if len(filled) > 1 else filled


def _pieces(blocks: Iterator[tuple[IntegerArray, int]]) -> Iterator[tuple[IntegerArray, int]]:
    for ids, done in blocks:
        for start in range(0, len(ids), UNDIVIDED_TOKENS):
            yield ids[start : start + UNDIVIDED_TOKENS], done


def check_side(file: Path, first_id: int, separator_id: int, side: Side) -> None:
    """Raises SpecError when a corpus's first id shows that its separator does not stand where the spec says."""
    begins_with_separator = first_id == separator_id
    if side == "none" or begins_with_separator == (side == "before"):
        return
    found = "begins" if begins_with_separator else "does not begin"
    raise SpecError(
        f'data.separator: "{side}", but {file} {found} with the separator {separator_id} (its first id is {first_id}); '
        f'use "{"before" if begins_with_separator else "after"}", or name another data.separator_id'
    )


def checked(
    blocks: Iterator[tuple[IntegerArray, int]], file: Path, vocab_size: int
) -> Iterator[tuple[IntegerArray, int]]:
    """The blocks as they are. Raises SpecError, with the place, at an id that the vocabulary does not have."""
    first = 0
    for ids, done in blocks:
        if len(ids) and (int(ids.max()) >= vocab_size or int(ids.min()) < 0):
            at = int(np.flatnonzero((ids < 0) | (ids >= vocab_size))[0])
            raise SpecError(
                f"data.source: {file} holds id {int(ids[at])} as its token {first + at:,}, but the vocabulary of "
                f"tokenizer.name ends at {vocab_size - 1}; name the tokenizer that made this file"
            )
        first += len(ids)
        yield ids, done


TokenReader: TypeAlias = Callable[[Path], Iterator[tuple[IntegerArray, int]]]
