"""Whose a late frame is: what each process of the chain did between it and the frame before.

A frame comes late because somebody computes, waits for the disk, waits for a core or stands still with the whole machine. The
first two are ours: nothing that is drawn may wait for them. The others are not, on a machine that others use. Linux alone says
most of this; elsewhere frames are late without a reason.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tui.screens.cockpit import FRAME_SECONDS

LATE_SECONDS = 0.2
"""Aimed at: no frame later than this."""
OURS = ("computed", "waited for the disk", "slept")
SLEPT = "all slept"
"""Nobody computed or waited: something was not told that there was something to do."""
TOLD_SHARE = 0.1
"""Of the lateness, from which on a cause is told; from a third on it may be the one."""

Tally = dict[str, float]
"""Cause -> seconds so far. What happened between two moments is the difference of theirs."""


@dataclass(frozen=True)
class Frame:
    """One that shows a newer step than the one before."""

    at: float
    """Monotonic, when its last bytes came out of the terminal."""
    step: int
    due: float
    """When there first was something newer to show, but not before the last frame came."""
    causes: Tally
    """Since the frame before."""

    @property
    def late_seconds(self) -> float:
        """Beyond the pace of frames. Where nothing was written meanwhile there was nothing to show."""
        return max(0.0, self.at - self.due - FRAME_SECONDS)

    @property
    def cause(self) -> str:
        """What took most of the time that it was late; what is ours even where something else took more, if it took half."""
        seconds_of = self.causes.get
        of_ours = [cause for cause in self.causes if cause.endswith(OURS)]
        ours = max(of_ours, key=self.causes.__getitem__, default=SLEPT)
        if seconds_of(ours, 0.0) > self.late_seconds / 2:
            return ours
        most = max(self.causes, key=self.causes.__getitem__, default=SLEPT)
        return most if seconds_of(most, 0.0) > self.late_seconds / 3 else SLEPT

    @property
    def is_ours(self) -> bool:
        return self.cause.endswith(OURS)

    def in_words(self) -> str:
        """`926 ms: cockpit computed 700 ms; supervisor waited for a core 102 ms`."""
        told = sorted(self.causes.items(), key=lambda item: -item[1])
        least = TOLD_SHARE * self.late_seconds
        words = [f"{cause} {seconds * 1e3:.0f} ms" for cause, seconds in told if seconds > least]
        whose = "ours" if self.is_ours else "the machine's"
        return f"{self.late_seconds * 1e3:.0f} ms, {whose}: " + ("; ".join(words) or SLEPT)


def between(before: Tally, after: Tally) -> Tally:
    return {cause: max(0.0, seconds - before.get(cause, 0.0)) for cause, seconds in after.items()}


class Observer:
    """Tallies what some processes do, from outside."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._disk = dict.fromkeys(pids, 0.0)
        self._looked_at: float | None = None

    def look(self) -> None:
        """See who waits for the disk just now; to be called every few milliseconds while a frame is missing."""
        now = time.monotonic()
        if self._looked_at is not None:
            for name, pid in self._pids.items():
                if any(_state(task) == "D" for task in _tasks(pid)):
                    self._disk[name] += now - self._looked_at
        self._looked_at = now

    def tally(self) -> Tally:
        self._looked_at = None
        tally: Tally = {"the host took cores": _stolen_seconds()}
        for name, pid in self._pids.items():
            times = [_scheduled(task) for task in _tasks(pid)]
            tally[f"{name} computed"] = sum(computed for computed, _ in times)
            tally[f"{name} waited for a core"] = sum(waited for _, waited in times)
            tally[f"{name} waited for the disk"] = self._disk[name]
        return tally


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _scheduled(task: Path) -> tuple[float, float]:
    """Seconds on a core, and runnable without one."""
    with suppress(OSError, ValueError):
        computed, waited, _ = (task / "schedstat").read_text().split()
        return int(computed) / 1e9, int(waited) / 1e9
    return 0.0, 0.0


def _state(task: Path) -> str:
    with suppress(OSError, IndexError):
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _stolen_seconds() -> float:
    """Of all cores, which the host gave to another machine."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/stat").read_text().split()[8]) / 100
    return 0.0
