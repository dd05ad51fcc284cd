"""What a prepared set is made of: lengths, rows as they will be read, and what each way of packing would cost."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_daemon.engine.data.rows import plan_best_fit, plan_padded
from trainer_daemon.engine.data.shards import Split
from trainer_daemon.engine.data.tokenizer import Tokenizer

PACKED_DOCUMENTS = 200_000
"""Packing is tried on so many documents at most: a second's work, and the shares no longer move."""


@dataclass(frozen=True, slots=True)
class PackingCost:
    """What rows of one length would cost, as fractions."""

    sequence_len: int
    bestfit_dropped: float
    """Share of tokens that `bos-bestfit` crops away."""
    concat_cut: float
    """Share of documents that `concat` cuts at a row's end."""
    padded_empty: float
    """Share of positions that `best-fit-padded` leaves empty."""


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Documents of `first` to `last` tokens, BOS included."""

    first: int
    last: int
    documents: int


def packing_cost(starts: npt.NDArray[np.int64], sequence_len: int) -> PackingCost:
    """(documents + 1,) starts -> the cost, of the first PACKED_DOCUMENTS."""
    starts = starts[: PACKED_DOCUMENTS + 1] - starts[0]
    total = int(starts[-1])
    packed = int(plan_best_fit(starts, sequence_len + 1)[:, 1].sum())
    # a document is whole in a row when the row that its first token opens or continues still holds its last
    first_row, last_row = starts[:-1] // sequence_len, (starts[1:] - 1) // sequence_len
    cut = float(np.mean(first_row != last_row))
    padded = plan_padded(starts, sequence_len + 1)
    positions = (int(padded[-1, 2]) + 1) * (sequence_len + 1)
    return PackingCost(sequence_len, 1 - packed / total, cut, 1 - int(padded[:, 1].sum()) / positions)


def length_histogram(starts: npt.NDArray[np.int64]) -> list[LengthBin]:
    """Documents by length, in bins that double: 1, 2-3, 4-7, …; from the first bin that is not empty to the last."""
    lengths = np.diff(starts)
    exponents = np.floor(np.log2(lengths)).astype(np.int64)
    counts = np.bincount(exponents)
    first = int(exponents.min())
    return [LengthBin(1 << e, (2 << e) - 1, int(counts[e])) for e in range(first, len(counts))]


def sample_windows(split: Split, tokenizer: Tokenizer, count: int, tokens: int, seed: int) -> Iterator[str]:
    """The stream around the beginnings of documents drawn at random, decoded with its separators visible."""
    starts = split.document_starts()[:-1]
    chosen = np.random.default_rng(seed).choice(len(starts), min(count, len(starts)), replace=False)
    for document in sorted(chosen.tolist()):
        first = max(0, int(starts[document]) - tokens // 2)
        ids = split.read(first, min(tokens, len(split) - first))
        yield decode_visibly(tokenizer, ids.tolist())


def decode_visibly(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of the ids with the names of special tokens where they stand."""
    names = {i: name for name, i in tokenizer.special.items()}
    parts = (names[i].encode() if i in names else tokenizer.decode_bytes(i) for i in ids)
    return b"".join(parts).decode("utf-8", "replace")


def changed_sources(meta: dict[str, Any]) -> list[str]:
    """Files that a set was made of and that are gone or not as they were, by size and time."""
    parts = [meta["corpus"], *(part for part, _ in meta["corpus"].get("parts", ()))]  # of a mixture
    listed = [
        entry
        for corpus in parts
        for key in ("files", "held_out")
        if isinstance(corpus.get(key), list)
        for entry in corpus[key]
    ]
    return [str(path) for path, size, mtime_ns in listed if _facts(Path(path)) != (size, mtime_ns)]


def _facts(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
