"""What the supervisor needs of its sockets; `link.server` has them."""

from collections.abc import Callable
from typing import Any, Protocol

from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.wire import Request


class Port(Protocol):
    """Where requests come from and events go to. Nothing here raises or waits for whoever is at the other end."""

    def serve(self, timeout_seconds: float, answer: Callable[[Request], dict[str, Any]]) -> None:
        """Answer the requests that come within that time; an error that `answer` raises is the answer."""

    def publish(self, record: Record, line: bytes, cursors: dict[str, int]) -> None:
        """Send a journal line to all who watch."""

    def heartbeat(self, cursors: dict[str, int]) -> None:
        """Tell all who watch what there is."""

    def stay_reachable(self) -> None:
        """Make the sockets anew when someone removed them."""
