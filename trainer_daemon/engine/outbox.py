"""Events on their way out of the loop. An accelerator works while they are written, and never waits for it.

Between two steps the device has nothing to do: whatever the host does there, every step pays. So the news of a step is held
until the first work of the next one is queued. Anything else that is told goes out at once, behind what is held, so the
order stays; whoever is killed in between takes the news of one step along, which the next attempt repeats. On a CPU nothing
is queued, so holding would gain nothing and tell a step late.
"""

from collections.abc import Callable

from trainer_daemon.contract.events import Event, TrainStep

Emit = Callable[[Event], None]
"""Where events go, in the order in which they happen."""


class Outbox:
    """Passes events on, in the order in which they came."""

    def __init__(self, emit: Emit, *, holds_steps: bool) -> None:
        self._emit = emit
        self._holds_steps = holds_steps
        self._held: TrainStep | None = None

    def __call__(self, event: Event) -> None:
        """Pass an event on now, and what is held before it."""
        self.release()
        self._emit(event)

    def step_is_done(self, event: TrainStep) -> None:
        """Pass a step's event on, or hold it until `release`."""
        self.release()
        if self._holds_steps:
            self._held = event
        else:
            self._emit(event)

    def release(self) -> None:
        """Pass on what is held: the device has work, or nothing more will come. Costs nothing when nothing is."""
        if (held := self._held) is not None:
            self._held = None
            self._emit(held)
