"""Which duties are due by the clock, the same on every rank.

Clocks differ and ranks must turn together, so only the main rank's clock counts: what has gone off there rides on the
exchange that every step makes, as one number, and all ranks act on it before the next step. A duty's time runs from when
it was last done, for whatever reason.
"""

import time
from collections.abc import Callable, Mapping
from typing import Literal, get_args

Duty = Literal["save", "evaluate", "sample"]
DUTIES: tuple[Duty, ...] = get_args(Duty)


class Timers:
    """One timer a duty, all started now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = dict.fromkeys(DUTIES, clock())
        self._due: frozenset[Duty] = frozenset()

    def gone_off(self, minutes: Mapping[Duty, float | Literal["off"]]) -> float:
        """The duties whose time is over by this clock, as a sum of powers of two: what `agree` takes."""
        now = self._clock()
        over = [
            (limit := minutes[duty]) != "off" and now - self._since[duty] >= 60 * limit for duty in DUTIES
        ]
        return float(sum(1 << bit for bit, is_over in enumerate(over) if is_over))

    def agree(self, word: float) -> None:
        """Take what the main rank's timers said, on every rank."""
        self._due = frozenset(duty for bit, duty in enumerate(DUTIES) if int(word) >> bit & 1)

    def is_due(self, duty: Duty) -> bool:
        return duty in self._due

    def restart(self, duty: Duty) -> None:
        """It is being done now."""
        self._since[duty] = self._clock()
        self._due -= {duty}
