"""What is known of a run's machine: the newest look at ranks and devices, and how each rank kept pace.

A step takes as long on every rank, since all wait for each other; which one is slow shows in the time before they wait,
and that is what is kept here, a column of numbers a rank.
"""

from dataclasses import dataclass

import numpy as np

from trainer_daemon.contract.events import RanksPaced, SystemSampled
from tui.store import Column, FloatArray


@dataclass(slots=True)
class _Paces:
    """Of one number of ranks: a run that goes on with another begins anew."""

    by_rank: list[Column]


class Machine:
    def __init__(self) -> None:
        self.latest: SystemSampled | None = None
        self.seen_at: float | None = None
        """Wall time of `latest`."""
        self._paces = _Paces([])

    def look(self, event: SystemSampled, wall: float) -> None:
        self.latest, self.seen_at = event, wall

    def pace(self, event: RanksPaced) -> None:
        ranks = len(event.forward_seconds)
        if len(self._paces.by_rank) != ranks:
            self._paces = _Paces([Column() for _ in range(ranks)])
        for column, data, forward in zip(
            self._paces.by_rank, event.data_seconds, event.forward_seconds, strict=True
        ):
            column.append(data + forward)

    @property
    def ranks_paced(self) -> int:
        """How many ranks told their pace; 0 for a run of one rank, or before the first fifty steps."""
        return len(self._paces.by_rank)

    def own_seconds(self, rank: int) -> float | None:
        """What the rank took before it waited, in the newest window; None while that is unknown."""
        if rank >= self.ranks_paced:
            return None
        return float(self._paces.by_rank[rank].values[-1])

    def paces(self) -> FloatArray:
        """(ranks, windows): each rank's seconds over the median of the others' in the same fifty steps."""
        if self.ranks_paced < 2:
            return np.empty((0, 0))
        seconds = np.stack([column.values for column in self._paces.by_rank])
        others = [np.median(np.delete(seconds, rank, axis=0), axis=0) for rank in range(len(seconds))]
        usual = np.stack(others)
        return np.divide(seconds, usual, out=np.full_like(seconds, np.nan), where=usual > 0)
