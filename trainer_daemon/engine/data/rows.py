"""Rows: token shards seen as an array of examples of T + 1 tokens, any of which can be read at any time.

Two ways to cut. `concat` runs on from document to document and drops nothing. `bos-bestfit` begins every row at a
document's start, so that no position is without its context, and pays for that with the tokens it crops; its plan is
made once and kept beside the shards. Held-out rows are cut as training rows are, or their losses would not compare.
"""

import os
import tempfile
from array import array
from bisect import bisect_right, insort
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.shards import Split, TokenArray

PLAN_VERSION = 1
BUFFERED_DOCUMENTS = 1000
"""Among how many documents the best fit is looked for."""


class Rows(Protocol):
    """Examples of one set. Row i is the same at every call and in every process."""

    @property
    def sequence_len(self) -> int:
        """T: a row has one token more, since each is a target but the first."""

    @property
    def tokens_dropped(self) -> float:
        """Fraction of the set's tokens that are in no row."""

    def __len__(self) -> int: ...
    def row(self, i: int) -> TokenArray:
        """(T + 1,). Raises IndexError beyond the last row."""

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> TokenArray:
        """(len(numbers), T + 1), a copy."""


def open_rows(split: Split, sequence_len: int, packing: Literal["bos-bestfit", "concat"]) -> Rows:
    """The split's rows. Raises SpecError when it has not enough text for a single one."""
    rows = ConcatRows(split, sequence_len) if packing == "concat" else BestFitRows(split, sequence_len)
    if len(rows) == 0:
        raise SpecError(
            f"data: the set {split.folder.name} has {len(split)} tokens in {split.meta.documents} documents, too few "
            f"for one row of {sequence_len + 1}; give more text or lower model.sequence_len"
        )
    return rows


class ConcatRows:
    """Row i is tokens i T … i T + T: rows share the token they meet at, so that each but the first is a target once."""

    def __init__(self, split: Split, sequence_len: int) -> None:
        self.sequence_len = sequence_len
        self._split = split
        self._count = max(0, (len(split) - 1) // sequence_len)

    def __len__(self) -> int:
        return self._count

    @property
    def tokens_dropped(self) -> float:
        return 1 - (self._count * self.sequence_len + 1) / len(self._split)

    def row(self, i: int) -> TokenArray:
        if not 0 <= i < self._count:
            raise IndexError(f"row {i} of {self._count}")
        return self._split.read(i * self.sequence_len, self.sequence_len + 1)

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> TokenArray:
        return np.stack([self.row(int(i)) for i in numbers])


class BestFitRows:
    """A row is made of the largest waiting documents that still fit; when none does, the shortest one is cropped."""

    def __init__(self, split: Split, sequence_len: int) -> None:
        self.sequence_len = sequence_len
        self._split = split
        self._plan = _stored_plan(split, sequence_len)
        # a row's pieces add up to T + 1, so it ends wherever the running sum is a multiple
        ends = np.flatnonzero(np.cumsum(self._plan[:, 1]) % (sequence_len + 1) == 0) + 1
        self._bounds = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def tokens_dropped(self) -> float:
        return 1 - len(self) * (self.sequence_len + 1) / len(self._split)

    def row(self, i: int) -> TokenArray:
        return self.rows([i])[0]

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> TokenArray:
        out = np.empty((len(numbers), self.sequence_len + 1), self._split.dtype)
        for row, i in zip(out, numbers, strict=True):
            if not 0 <= i < len(self):
                raise IndexError(f"row {i} of {len(self)}")
            at = 0
            for first, length in self._plan[self._bounds[i] : self._bounds[i + 1]].tolist():
                row[at : at + length] = self._split.read(first, length)
                at += length
        return out


def _stored_plan(split: Split, sequence_len: int) -> npt.NDArray[np.int64]:
    path = split.folder / f"bos-bestfit-{sequence_len}-v{PLAN_VERSION}.npy"
    try:
        plan: npt.NDArray[np.int64] = np.load(path, mmap_mode="r", allow_pickle=False)
        if plan.dtype == np.int64 and plan.ndim == 2:
            return np.asarray(plan)
    except (OSError, ValueError, EOFError):
        pass  # not made yet, or torn: it is made now
    plan = plan_best_fit(split.document_starts(), sequence_len + 1)
    with suppress(OSError):  # a cache that may not be written to, or is full: it is planned again next time
        _keep(plan, path)
    return plan


def _keep(plan: npt.NDArray[np.int64], path: Path) -> None:
    # ranks may do this at once: a name of its own for each, and the last one wins with the same bytes
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            np.save(file, plan, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


def plan_best_fit(starts: npt.NDArray[np.int64], row_tokens: int) -> npt.NDArray[np.int64]:
    """(documents + 1,) -> (pieces, 2): first token and length of each piece, row after row, each row exactly full.

    A piece is a document from its start on. A last row that cannot be filled is left out.
    """
    lengths = np.diff(starts)
    # one integer a document, so that they sort by length, and of equal ones the earliest comes last
    order_bits = len(lengths).bit_length()
    mask = (1 << order_bits) - 1
    keys = (lengths << order_bits) | (mask - np.arange(len(lengths)))
    coming = chain.from_iterable(keys[i : i + 65536].tolist() for i in range(0, len(keys), 65536))
    waiting = sorted(islice(coming, BUFFERED_DOCUMENTS))
    pieces = array("q")  # document, length, document, length, …
    planned = 0
    room = row_tokens
    while waiting:
        fitting = bisect_right(waiting, room << order_bits | mask)
        key = waiting.pop(fitting - 1 if fitting else 0)
        length = min(key >> order_bits, room)
        pieces.extend((mask - (key & mask), length))
        room -= length
        if room == 0:
            room, planned = row_tokens, len(pieces)
        if (following := next(coming, None)) is not None:
            insort(waiting, following)
    plan = np.array(pieces[:planned], np.int64).reshape(-1, 2)
    plan[:, 0] = starts[plan[:, 0]]
    return plan
