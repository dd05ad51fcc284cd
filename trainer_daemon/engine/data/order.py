"""The order of rows: a permutation that is computed, not stored.

Where sample g of a run is found follows from the seed and g alone, so the whole state of the data is `samples_seen`:
a run resumes exactly, with another batch size or another number of ranks too, and no two ranks read the same row.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

ROUNDS = 4
"""Of the Feistel network, an even number; four make a strong pseudorandom permutation (Luby and Rackoff, 1988)."""

Words = npt.NDArray[np.uint64]


class Order(Protocol):
    """Which row each sample of a run is."""

    def rows(self, first_sample: int, count: int) -> npt.NDArray[np.int64]:
        """(count,): the row numbers of samples first_sample … first_sample + count - 1 of the run."""

    def is_ready(self, first_sample: int, count: int) -> bool:
        """Whether these rows can be read without a wait."""

    def epoch(self, samples_seen: int) -> float | None:
        """Rows drawn / rows in the training set; None while nobody knows how many there are."""


class RowOrder:
    """Every epoch visits each of `n_rows` rows once, in an order of its own."""

    def __init__(self, n_rows: int, seed: int, block: int | None = None) -> None:
        assert n_rows > 0
        self.n_rows = n_rows
        self.seed = seed
        self.block = block
        """Which of several stretches of rows this is, so that each is in an order of its own."""
        bits = (n_rows - 1).bit_length()
        self._widths = bits // 2, bits - bits // 2

    def rows(self, first_sample: int, count: int) -> npt.NDArray[np.int64]:
        """(count,): the row numbers of samples first_sample … first_sample + count - 1 of the run."""
        samples = np.arange(first_sample, first_sample + count, dtype=np.int64)
        epochs, positions = np.divmod(samples, self.n_rows)
        out = np.empty(count, np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            out[here] = self._permute(positions[here].astype(np.uint64), epoch)
        return out

    def is_ready(self, _first_sample: int, _count: int) -> bool:
        """All rows are there."""
        return True

    def epoch(self, samples_seen: int) -> float:
        """Rows drawn / rows in the training set."""
        return samples_seen / self.n_rows

    def _permute(self, positions: Words, epoch: int) -> Words:
        keys = _mix(_mix(np.array([self.seed], np.uint64)) + np.uint64(epoch))
        if self.block is not None:
            keys = _mix(keys + np.uint64(self.block))
        round_keys = [_mix(keys + np.uint64(i)) for i in range(ROUNDS)]
        out = self._feistel(positions, round_keys)
        # the network permutes the next power of two; walking on from what falls outside ends inside, and stays one to one
        while (outside := np.flatnonzero(out >= self.n_rows)).size:
            out[outside] = self._feistel(out[outside], round_keys)
        return out

    def _feistel(self, values: Words, round_keys: list[Words]) -> Words:
        low_bits = np.uint64(self._widths[1])
        left, right = values >> low_bits, values & _ones(self._widths[1])
        for i, key in enumerate(round_keys):
            # the halves change places each round, and may differ in width by a bit; an even number brings them home
            left, right = right, left ^ (_mix(right + key) & _ones(self._widths[i % 2]))
        return (left << low_bits) | right


def _ones(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


def _mix(values: Words) -> Words:
    """splitmix64's finalizer (Steele, Lea and Flood, 2014) after its increment; arithmetic is modulo 2^64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
