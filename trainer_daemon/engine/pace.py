"""Finds the rank that the others wait for.

Every step ends with an exchange, so a slow rank makes all steps slow and no step time shows which one it is. What does
is the time before anybody waits: reading rows and the forward passes. Medians over a window, since a single slow step
is everybody's, and several windows in a row, since a single slow window is too.
"""

from statistics import median

WINDOW_STEPS = 50
WINDOWS = 3
"""In a row that a rank must be slower before it is told."""
SLOWER = 1.15
"""Times the median of the other ranks."""
LEAST_SECONDS = 0.001
"""By which it must be slower, too: less is noise."""
PARTS = ("reading rows", "computing")


class Pace:
    """This rank's window, and how long each rank has been slow."""

    def __init__(self) -> None:
        self._seconds: list[tuple[float, float]] = []
        self._slow_windows: dict[int, int] = {}

    def note(self, data_seconds: float, forward_seconds: float) -> None:
        """Take in one step of this rank."""
        self._seconds.append((data_seconds, forward_seconds))

    def window_is_full(self) -> bool:
        return len(self._seconds) >= WINDOW_STEPS

    def take_medians(self) -> tuple[float, float]:
        """Of each part over the window, which ends here."""
        data, forward = zip(*self._seconds, strict=True)
        self._seconds.clear()
        return median(data), median(forward)

    def compare(self, by_rank: list[list[float]]) -> list[str]:
        """Take in everybody's medians; a sentence for each rank that has just been slow for long enough."""
        told = []
        for rank, own in enumerate(by_rank):
            others = [seconds for other, seconds in enumerate(by_rank) if other != rank]
            usual = median(sum(seconds) for seconds in others)
            if sum(own) <= max(SLOWER * usual, usual + LEAST_SECONDS):
                self._slow_windows[rank] = 0
                continue
            self._slow_windows[rank] = self._slow_windows.get(rank, 0) + 1
            if self._slow_windows[rank] == WINDOWS:
                excess = [own[i] - median(seconds[i] for seconds in others) for i in range(len(PARTS))]
                part = PARTS[excess.index(max(excess))]
                told.append(
                    f"rank {rank} is {sum(own) / usual - 1:.0%} slower than the others in the part of a step before they "
                    f"wait for each other, most of it in {part}, for {WINDOWS * WINDOW_STEPS} steps"
                )
        return told
