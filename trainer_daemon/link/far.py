"""A run of another machine, as a run folder here: what is known of it lies there, and whoever leads to it says whether it
lives. So feed, log and commands work on it as on one of this machine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.link.ways import Way

if TYPE_CHECKING:
    from trainer_daemon.link.client import LinkState


class Guide(Protocol):
    """What leads to one far run."""

    @property
    def has_supervisor(self) -> bool:
        """Whether there was one when it was heard of last."""

    @property
    def has_ended(self) -> bool: ...

    @property
    def words(self) -> str:
        """The other machine, and what is wrong with the way there."""

    @property
    def way(self) -> Way:
        """To its supervisor's sockets."""

    def ask_command(self, *words: str) -> list[str]:
        """What runs llmctl over there, asking for nothing. Raises RefusedError where nothing does."""

    def hear(self, state: "LinkState | None", records: list[Record]) -> None:
        """The feed says what it got, and whether it hears the supervisor; None when nobody listens any more."""


@dataclass(frozen=True, slots=True)
class FarRun(RunDir):
    """A run of another machine: its folder here holds what came of it, its guide knows whether it lives."""

    guide: Guide

    def supervisor_is_alive(self) -> bool:
        return self.guide.has_supervisor

    def ranks_are_alive(self) -> bool:
        """By the last answer: ranks without a supervisor are news that only its machine has."""
        return self.guide.has_supervisor or not self.guide.has_ended


class FarFeed(Closing):
    """A feed that tells the guide what it hears."""

    def __init__(self, run: FarRun, after: dict[str, int]) -> None:
        from trainer_daemon.link.client import Feed

        self._guide = run.guide
        self._feed = Feed(run, after)

    @property
    def link_state(self) -> "LinkState":
        return self._feed.link_state

    def poll(self, timeout_seconds: float) -> list[Record]:
        """As `Feed.poll`."""
        records = self._feed.poll(timeout_seconds)
        self._guide.hear(self._feed.link_state, records)
        return records

    def interrupt(self) -> None:
        """As `Feed.interrupt`."""
        self._feed.interrupt()

    def close(self) -> None:
        self._feed.close()
        self._guide.hear(None, [])
