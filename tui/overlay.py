"""Other runs drawn behind the one in sight: each followed like it, live or from disk, and folded a slice at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer_daemon.contract.rundir import RunDir
from tui.feed import FeedOpener, Watch
from tui.run_state import WATCHED_ROWS, RunState

MOST_RUNS = 7
"""Beside the one in sight: the palette has eight colours that can be told apart."""


@dataclass
class _Followed:
    state: RunState
    watch: Watch


class Overlay:
    """The runs to compare with, in the order in which they were chosen; a run keeps its colour until it is taken out."""

    def __init__(self, open_feed: FeedOpener, wake: Callable[[], None]) -> None:
        """`wake`: see `Watch`."""
        self._open_feed = open_feed
        self._wake = wake
        self._followed: dict[str, _Followed] = {}

    @property
    def states(self) -> list[RunState]:
        return [followed.state for followed in self._followed.values()]

    @property
    def names(self) -> list[str]:
        return list(self._followed)

    @property
    def is_caught_up(self) -> bool:
        """All that is known of them by now is folded."""
        watches = [followed.watch for followed in self._followed.values()]
        return all(watch.is_caught_up and not watch.has_more for watch in watches)

    def toggle(self, run: RunDir) -> bool:
        """Take a run in or out. False when there is no colour left for it."""
        if (followed := self._followed.pop(run.name, None)) is not None:
            followed.watch.stop()
            return True
        if len(self._followed) == MOST_RUNS:
            return False
        watch = Watch(run, self._open_feed, self._wake)
        watch.start()
        self._followed[run.name] = _Followed(RunState(run.name, WATCHED_ROWS), watch)
        return True

    def turn(self, runs: Sequence[RunDir]) -> bool:
        """Take all of them out where all are in, else in. False when there is no colour left for one."""
        are_in = all(run.name in self._followed for run in runs)
        return all(self.toggle(run) for run in runs if (run.name in self._followed) == are_in)

    def fold(self, deadline: float) -> bool:
        """Fold in what came, until `deadline` (monotonic). Whether anything did. A run that cannot be read, or is deleted, is left out."""
        has_news = False
        for name, (state, watch) in [(n, (f.state, f.watch)) for n, f in self._followed.items()]:
            while watch.has_more and time.monotonic() < deadline:
                state.apply(watch.take())
                has_news = True
            if watch.failure is not None or watch.is_gone:
                self._followed.pop(name).watch.stop()
                has_news = True
        return has_news

    def close(self) -> None:
        for followed in self._followed.values():
            followed.watch.stop()
        self._followed.clear()
