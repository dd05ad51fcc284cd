"""What is done about ranks that fall silent: told once, with the evidence; at twice the time they are to be killed.

When a silence is too long is the watchdog's judgement. Here is the order that matters: stacks and records first, for a process
that is gone tells nothing.
"""

import time
from collections.abc import Callable

from trainer_daemon.contract.events import Event, Notice, Phase, Stalled
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.supervisor.collectives import save_collectives
from trainer_daemon.supervisor.stacks import save_stacks
from trainer_daemon.supervisor.watchdog import Silence, Watchdog


class HangWatch:
    """Watches one launch of the ranks after another; `begin` with each."""

    def __init__(self, run: RunDir, hang_seconds: float, emit: Callable[[Event], object]) -> None:
        self._run = run
        self._hang_seconds = hang_seconds
        self._emit = emit
        self.begin()

    def begin(self, phase: Phase = "preparing") -> None:
        """New ranks, or ones that are in this phase already."""
        self._watchdog = Watchdog(self._hang_seconds, time.monotonic(), phase)
        self._is_told = False
        self.reason: str | None = None
        """Why these ranks were given up, once they are."""

    def hear(self, record: Record) -> None:
        """Take in a record of the journal; those of the ranks end a silence."""
        self._watchdog.hear(record)
        if record.stream == "train":
            self._is_told = False

    def look(self, attempt: int, *, is_ours: bool) -> bool:
        """Whether the ranks are to be killed now. `is_ours`: they have an agent, so they may be started again."""
        silence = self._watchdog.look(time.monotonic())
        if silence.judgement == "well" or silence.budget_seconds is None:
            return False
        if not self._is_told:
            self._is_told = True
            self._tell(silence, attempt, 2 * silence.budget_seconds if is_ours else None)
            return False
        if silence.judgement != "hung" or not is_ours or self.reason is not None:
            return False
        self.reason = self._last_look(silence, attempt)
        self._emit(Notice("error", f"{self.reason}; they are killed"))
        return True

    def _tell(self, silence: Silence, attempt: int, kill_seconds: float | None) -> None:
        stacks = save_stacks(self._run, attempt)
        collectives, finding = save_collectives(self._run, attempt)
        self._emit(
            Stalled(
                silence.seconds,
                silence.usual_seconds,
                silence.phase,
                stacks,
                kill_seconds,
                collectives,
                finding,
            )
        )

    def _last_look(self, silence: Silence, attempt: int) -> str:
        """Save what the ranks can still tell; what is known, in words."""
        # the records first: a rank that was stopped is let go on for its stacks
        _, finding = save_collectives(self._run, attempt)
        stacks = save_stacks(self._run, attempt, wake=True)
        told = f"; where each one was: {self._run.path / stacks}/rank-*.stacks" if stacks else ""
        seen = f": {finding}" if finding else ""
        return f"the ranks said nothing for {silence.seconds:.0f} s while {silence.phase}{seen}{told}"
