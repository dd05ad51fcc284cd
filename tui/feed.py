"""Where the records come from: one thread that owns the run's feed, so that no socket, disk or lock is ever waited for on
the path that paints. It only reads and hands over; folding is the app's, a slice at a time."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from trainer_daemon.contract.ahead import CourseAhead
from trainer_daemon.contract.course import Item, Steps, read_course
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import RunStatus, judge
from trainer_daemon.link.far import FarFeed, FarRun

LinkState = Literal["live", "disk", "lost"]

POLL_SECONDS = 0.05
LOOK_SECONDS = 1.0
"""Between two looks at the locks and at the checkpoint folders."""
QUIET_AFTER_SECONDS, QUIET_SECONDS = 2.0, LOOK_SECONDS
"""After so long without news it is waited for longer: a cockpit left open on an ended or paused run rests."""
HISTORY_BATCH = 2000
FOLLOWED_BATCH = 200
"""Records, at most, that are folded in at once while a run is followed, some 10 ms of work: behind a supervisor that was held up
thousands come together, and keys and frames had to wait for all of them."""
MOST_BATCHES = 4
"""That wait to be folded in; further ones are read when there is room, from the journal if need be."""
ROOM_SECONDS = 0.02
"""Between two looks whether there is room."""
PIN = "pinned"
"""In a checkpoint's folder, as `llmctl pin` puts it there."""
CURVES_SECONDS = 1.0
"""How long the link of an ended run waits for its curves."""
PATIENCE_SECONDS = 0.5
"""Longest wait for the thread when the cockpit lets go of a run; it is a daemon thread and dies with the process."""


class Feed(Protocol):
    """Every record of every stream of a run, exactly once, whether it lives or not."""

    @property
    def link_state(self) -> LinkState: ...

    def poll(self, timeout_seconds: float) -> list[Record]: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


FeedOpener = Callable[[RunDir, dict[str, int]], Feed]
"""(run, newest record of each stream that is known already) -> what comes after those."""


@dataclass
class Shelf:
    """The folders of checkpoints there are; older ones are pruned as a run goes on."""

    stored: frozenset[str] | None = None
    """None while nobody has looked."""
    pinned: frozenset[str] = frozenset()
    """Those of them that are kept until they are unpinned."""

    def lacks(self, path: str) -> bool:
        """Whether this one is known to be gone."""
        return self.stored is not None and path not in self.stored

    def take(self, stored: frozenset[str] | None, pinned: frozenset[str]) -> bool:
        """Hold these from now on; whether they are others."""
        before, (self.stored, self.pinned) = (self.stored, self.pinned), (stored, pinned)
        return before != (stored, pinned)


class Watch(threading.Thread):
    """Follows one run until `stop`. `take` gives what came; the attributes say how the run looks from outside."""

    def __init__(
        self,
        run: RunDir,
        open_feed: FeedOpener,
        wake: Callable[[], None] = lambda: None,
        *,
        is_shown_first: bool = False,
        ahead: CourseAhead | None = None,
    ) -> None:
        """`wake` is called from here whenever there is something to take, or the run looks different.
        `is_shown_first`: the link of a run that has ended waits for `shown`, or a second; zmq is loaded for it.
        `ahead`: who reads the history already."""
        super().__init__(name=f"watch {run.name}", daemon=True)
        self.run_folder = run
        self.link_state: LinkState | None = None
        """None until the feed is open."""
        self.observed: RunStatus | None = None
        """The run in the light of its locks, whenever nobody answers for it; else None."""
        self.stored: frozenset[str] | None = None
        """The checkpoint folders there are; older ones are pruned as a run goes on."""
        self.pinned: frozenset[str] = frozenset()
        """Those of them that are kept until they are unpinned."""
        self.is_gone = False
        """Its folder was deleted."""
        self.is_caught_up = False
        """The history has been read, and the locks looked at."""
        self.failure: Exception | None = None
        self._open_feed = open_feed
        self._ahead = ahead
        self._feed: Feed | None = None
        self._wake = wake
        self._inbox: deque[Sequence[Item]] = deque()
        self._stopping = threading.Event()
        self._is_on_screen = threading.Event()
        if not is_shown_first:
            self._is_on_screen.set()
        self._life: tuple[LinkState, bool, bool] | None = None

    @property
    def has_more(self) -> bool:
        return bool(self._inbox)

    @property
    def waiting(self) -> int:
        """How many batches were read and not yet taken."""
        return len(self._inbox)

    def take(self) -> Sequence[Item]:
        """The oldest batch that came and was not yet taken; empty if there is none."""
        return self._inbox.popleft() if self._inbox else []

    def shown(self) -> None:
        """The history is on screen, and the link may be opened."""
        self._is_on_screen.set()

    def stop(self) -> None:
        self._stopping.set()
        self._is_on_screen.set()
        if (feed := self._feed) is not None:
            feed.interrupt()
        if self.is_alive():
            self.join(PATIENCE_SECONDS)

    def run(self) -> None:
        try:
            cursors = self._read_history()
            if not (isinstance(self.run_folder, FarRun) or self.run_folder.supervisor_is_alive()):
                self.link_state = "disk"  # which takes no socket to know: the curves do not wait for zmq
                self._look()
                self._is_on_screen.wait(CURVES_SECONDS)
            feed = self._feed = self._open_feed(self.run_folder, cursors)
            try:
                self._follow(feed)
            finally:
                feed.close()
        except Exception as e:  # noqa: BLE001  a thread has nobody to raise to: the app shows or raises it
            self.failure = e
            self._wake()

    def _read_history(self) -> dict[str, int]:
        """What the journal holds already, of long runs a thinned part, in the order of time: a feed gives a long history stream by stream, and a run that
        failed and was resumed would end with its old error. Returns the newest sequence number of each stream."""
        cursors: dict[str, int] = {}
        batch: list[Item] = []
        rows = 0
        items = self._ahead.items() if self._ahead else read_course(self.run_folder.journal)
        for item in items:
            newest = item.last if isinstance(item, Steps) else item
            cursors[newest.stream] = newest.seq
            batch.append(item)
            rows += len(item) if isinstance(item, Steps) else 1
            if rows >= HISTORY_BATCH:
                self._hand_over(batch)
                rows = 0
                batch = []
                if self._stopping.is_set():
                    break
        self._hand_over(batch)
        return cursors

    def _hand_over(self, records: Sequence[Item]) -> None:
        while len(self._inbox) >= MOST_BATCHES and not self._stopping.wait(ROOM_SECONDS):
            pass
        self._inbox.append(records)
        self._wake()

    def _follow(self, feed: Feed) -> None:
        looked = 0.0
        heard = time.monotonic()
        while not self._stopping.is_set():
            is_quiet = time.monotonic() - heard > QUIET_AFTER_SECONDS
            if is_quiet and feed.link_state == "disk":  # what is written to files wakes nobody
                self._stopping.wait(QUIET_SECONDS)
                patience = 0.0
            else:
                patience = QUIET_SECONDS if is_quiet else POLL_SECONDS
            if records := feed.poll(patience):
                heard = time.monotonic()
                for first in range(0, len(records), FOLLOWED_BATCH):
                    self._hand_over(records[first : first + FOLLOWED_BATCH])
            if feed.link_state != self.link_state:
                self.link_state = feed.link_state
                self._wake()
            # Verdicts of the locks wait until the history is read: they are about what comes after it. A quick run may never
            # leave a poll empty: what is of this moment is no history either.
            is_history = (
                records and feed.link_state != "live" and time.time() - records[-1].wall > LOOK_SECONDS
            )
            if not is_history and time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                self._look()

    def _look(self) -> None:
        run = self.run_folder
        before = self._seen_from_outside
        self.is_gone = not (isinstance(run, FarRun) or run.path.exists())
        try:
            folders = list(run.checkpoints.iterdir())
            self.pinned = frozenset(folder.name for folder in folders if (folder / PIN).exists())
            self.stored = frozenset(folder.name for folder in folders)
        except OSError:
            self.stored = None
        assert self.link_state is not None
        life = self.link_state, run.supervisor_is_alive(), run.ranks_are_alive()
        if life != self._life:
            self.observed = None if self.link_state == "live" else judge(run)
            self._life = life
        self.is_caught_up = True
        if self._seen_from_outside != before:
            self._wake()

    @property
    def _seen_from_outside(self) -> tuple[object, ...]:
        return self.observed, self.stored, self.pinned, self.is_caught_up, self.is_gone


def open_link(run: RunDir, after: dict[str, int]) -> Feed:
    """The feed of a run of this machine, or of another one."""
    # zmq is loaded in the thread, after the first paint
    from trainer_daemon.link.client import Feed as LinkFeed

    return FarFeed(run, after) if isinstance(run, FarRun) else LinkFeed(run, after)


def place_of(run: RunDir | None) -> str:
    """The machine of a far run, with what is wrong with the way there; nothing for one of this machine."""
    return run.guide.words if isinstance(run, FarRun) else ""
