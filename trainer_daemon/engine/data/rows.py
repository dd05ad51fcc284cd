"""Rows: token shards seen as an array of examples of T + 1 tokens, any of which can be read at any time.

Three ways to cut. `concat` runs on from document to document and drops nothing. `bos-bestfit` begins every row at a
document's start, so that no position is without its context, and pays for that with the tokens it crops.
`best-fit-padded` does that too as far as documents fit, drops nothing and pays with positions that are empty. The plans of
the latter two are made once and kept beside the shards. Held-out rows are cut as training rows are, or their losses would
not compare.
"""

import os
import tempfile
from array import array
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.shards import Split, SplitMeta, TokenArray

Packing: TypeAlias = Literal["bos-bestfit", "concat", "best-fit-padded"]
RowArray: TypeAlias = npt.NDArray[np.integer[Any]]
"""Ids; PADDING where a row has no more."""

PADDING = -1
"""Stands where a row is empty: as a target it counts for nothing."""
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

    @property
    def padding(self) -> float:
        """Fraction of the rows' positions that are empty."""

    @property
    def has_padding(self) -> bool:
        """Whether a row may have empty positions."""

    def __len__(self) -> int: ...
    def row(self, i: int) -> RowArray:
        """(T + 1,). Raises IndexError beyond the last row."""

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> RowArray:
        """(len(numbers), T + 1), a copy."""

    def count_targets(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> int:
        """Targets of these rows that count."""


def open_rows(split: Split, sequence_len: int, packing: Packing) -> Rows:
    """The split's rows. Raises SpecError when it has not enough text for a single one."""
    rows = cut_rows(split, sequence_len, packing)
    if len(rows) == 0:
        raise SpecError(too_few(split.folder.name, split.meta, sequence_len))
    return rows


def too_few(name: str, meta: SplitMeta, sequence_len: int) -> str:
    """That a split does not fill a row, as a sentence."""
    return (
        f"data: the set {name} has {meta.tokens} tokens in {meta.documents} documents, too few "
        f"for one row of {sequence_len + 1}; give more text or lower model.sequence_len"
    )


def cut_rows(split: Split, sequence_len: int, packing: Packing) -> Rows:
    """The split's rows, of which there may be none."""
    match packing:
        case "concat":
            return ConcatRows(split, sequence_len)
        case "bos-bestfit":
            return BestFitRows(split, sequence_len)
        case "best-fit-padded":
            return PaddedRows(split, sequence_len)


class ConcatRows:
    """Row i is tokens i T … i T + T: rows share the token they meet at, so that each but the first is a target once."""

    has_padding = False

    def __init__(self, split: Split, sequence_len: int) -> None:
        self.sequence_len = sequence_len
        self._split = split
        self._count = max(0, (len(split) - 1) // sequence_len)

    def __len__(self) -> int:
        return self._count

    @property
    def tokens_dropped(self) -> float:
        return 1 - (self._count * self.sequence_len + 1) / len(self._split)

    @property
    def padding(self) -> float:
        return 0.0

    def count_targets(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> int:
        return len(numbers) * self.sequence_len

    def row(self, i: int) -> TokenArray:
        if not 0 <= i < self._count:
            raise IndexError(f"row {i} of {self._count}")
        return self._split.read(i * self.sequence_len, self.sequence_len + 1)

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> TokenArray:
        return np.stack([self.row(int(i)) for i in numbers])


class BestFitRows:
    """A row is made of the largest waiting documents that still fit; when none does, the shortest one is cropped."""

    has_padding = False

    def __init__(self, split: Split, sequence_len: int) -> None:
        self.sequence_len = sequence_len
        self._split = split
        self._plan = _stored_plan(split, sequence_len, "bos-bestfit", plan_best_fit)
        # a row's pieces add up to T + 1, so it ends wherever the running sum is a multiple
        ends = np.flatnonzero(np.cumsum(self._plan[:, 1]) % (sequence_len + 1) == 0) + 1
        self._bounds = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def tokens_dropped(self) -> float:
        return 1 - len(self) * (self.sequence_len + 1) / len(self._split)

    @property
    def padding(self) -> float:
        return 0.0

    def count_targets(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> int:
        return len(numbers) * self.sequence_len

    def row(self, i: int) -> RowArray:
        return self.rows([i])[0]

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> RowArray:
        out = np.empty((len(numbers), self.sequence_len + 1), self._split.dtype)
        _fill(out, numbers, self._plan, self._bounds, self._split)
        return out


class PaddedRows:
    """A row is made of the largest waiting documents that still fit, and the rest of it is empty.

    A document longer than a row is cut into pieces that share the token they meet at, so that each is a target once.
    """

    has_padding = True

    def __init__(self, split: Split, sequence_len: int) -> None:
        self.sequence_len = sequence_len
        self._split = split
        self._plan = _stored_plan(split, sequence_len, "best-fit-padded", plan_padded)
        row_of_piece = self._plan[:, 2]
        self._bounds = np.searchsorted(
            row_of_piece, np.arange(row_of_piece[-1] + 2 if len(row_of_piece) else 1)
        )
        self._tokens = np.bincount(row_of_piece, self._plan[:, 1]).astype(np.int64)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def tokens_dropped(self) -> float:
        return 0.0

    @property
    def padding(self) -> float:
        return 1 - float(self._tokens.sum()) / (len(self) * (self.sequence_len + 1))

    def count_targets(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> int:
        return int(self._tokens[np.asarray(numbers)].sum()) - len(numbers)

    def row(self, i: int) -> RowArray:
        return self.rows([i])[0]

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> RowArray:
        out = np.full((len(numbers), self.sequence_len + 1), PADDING, np.int32)
        _fill(out, numbers, self._plan, self._bounds, self._split)
        return out


def _fill(
    out: RowArray,
    numbers: Sequence[int] | npt.NDArray[np.int64],
    plan: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
    split: Split,
) -> None:
    """Write the planned pieces of each row, from its beginning. Raises IndexError beyond the last row."""
    for row, i in zip(out, numbers, strict=True):
        if not 0 <= i < len(bounds) - 1:
            raise IndexError(f"row {i} of {len(bounds) - 1}")
        at = 0
        for first, length in plan[bounds[i] : bounds[i + 1], :2].tolist():
            row[at : at + length] = split.read(first, length)
            at += length


def _stored_plan(
    split: Split,
    sequence_len: int,
    name: Packing,
    make: Callable[[npt.NDArray[np.int64], int], npt.NDArray[np.int64]],
) -> npt.NDArray[np.int64]:
    of_part = f"{split.part}." if split.part else ""
    path = split.folder / f"{of_part}{name}-{sequence_len}-v{PLAN_VERSION}.npy"
    try:
        plan: npt.NDArray[np.int64] = np.load(path, mmap_mode="r", allow_pickle=False)
        if plan.dtype == np.int64 and plan.ndim == 2:
            return np.asarray(plan)
    except (OSError, ValueError, EOFError):
        pass  # not made yet, or torn: it is made now
    plan = make(split.document_starts(), sequence_len + 1)
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
    coming, mask, order_bits = _by_length(np.diff(starts))
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


def plan_padded(starts: npt.NDArray[np.int64], row_tokens: int) -> npt.NDArray[np.int64]:
    """(documents + 1,) -> (pieces, 3): first token, length and row of each piece, row after row.

    A piece is a document, or a window of row_tokens of one that is longer; such a window opens its row, since behind
    another document it would read as its end. No row is overfull, none is left out.
    """
    firsts, lengths = _windows(starts, row_tokens)
    of_long = np.repeat(np.diff(starts) > row_tokens, _window_counts(starts, row_tokens))
    whole = np.flatnonzero(~of_long)
    coming, mask, order_bits = _by_length(lengths[whole])
    waiting = sorted(islice(coming, BUFFERED_DOCUMENTS))
    openers = iter(np.flatnonzero(of_long).tolist())
    pieces = array("q")  # piece, row, piece, row, …
    for row in count():
        room = row_tokens
        if (opener := next(openers, None)) is not None:
            pieces.extend((opener, row))
            room -= int(lengths[opener])
        elif not waiting:
            break
        while fitting := bisect_right(waiting, room << order_bits | mask):
            key = waiting.pop(fitting - 1)
            pieces.extend((int(whole[mask - (key & mask)]), row))
            room -= key >> order_bits
            if (following := next(coming, None)) is not None:
                insort(waiting, following)
    plan = np.array(pieces, np.int64).reshape(-1, 2)
    return np.stack([firsts[plan[:, 0]], lengths[plan[:, 0]], plan[:, 1]], axis=1)


def _window_counts(starts: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """(documents,): windows of at most `size` tokens, sharing their ends, that cover each document."""
    return np.maximum(1, -(-(np.diff(starts) - 1) // (size - 1)))


def _windows(starts: npt.NDArray[np.int64], size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First token and length of the windows that cover each document, document after document."""
    lengths, counts = np.diff(starts), _window_counts(starts, size)
    document = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    offsets = within * (size - 1)
    return starts[document] + offsets, np.minimum(lengths[document] - offsets, size)


def _by_length(lengths: npt.NDArray[np.int64]) -> tuple[Iterator[int], int, int]:
    """(one integer a document, in their order; mask of the part that says which; its bits).

    They sort by length, and of equal ones the earliest comes last: key = length << bits | mask - number.
    """
    order_bits = len(lengths).bit_length()
    mask = (1 << order_bits) - 1
    keys = (lengths << order_bits) | (mask - np.arange(len(lengths)))
    return (
        chain.from_iterable(keys[i : i + 65536].tolist() for i in range(0, len(keys), 65536)),
        mask,
        order_bits,
    )
