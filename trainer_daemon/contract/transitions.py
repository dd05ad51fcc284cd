"""Which state may follow which, and on whose word: the whole life of a run as two tables.

What is not here does not happen: a stop that was asked for is not forgotten because the ranks report that they save, and
what has ended begins again only by a launch. `crashed` is seen in the locks and never written by anybody.
"""

from trainer_daemon.contract.events import State

_DOING: frozenset[State] = frozenset({"starting", "running", "evaluating", "saving", "paused", "stopping"})

BY_RANKS: dict[State, frozenset[State]] = {
    "starting": _DOING,
    "running": _DOING,
    "evaluating": _DOING,
    "saving": _DOING,
    "paused": _DOING,
    "stopping": frozenset(),
    "completed": frozenset(),
    "stopped": frozenset(),
    "failed": frozenset(),
    "crashed": frozenset(),
}
"""What the ranks' phases may make of a state."""

_BY_SUPERVISOR_WHILE_LIVE: frozenset[State] = _DOING | {"completed", "stopped", "failed"}
_BY_LAUNCH: frozenset[State] = frozenset({"starting", "running"})
"""running: ranks that someone started by hand are taken over."""

BY_SUPERVISOR: dict[State, frozenset[State]] = {
    "starting": _BY_SUPERVISOR_WHILE_LIVE,
    "running": _BY_SUPERVISOR_WHILE_LIVE,
    "evaluating": _BY_SUPERVISOR_WHILE_LIVE,
    "saving": _BY_SUPERVISOR_WHILE_LIVE,
    "paused": _BY_SUPERVISOR_WHILE_LIVE,
    # back to running when it could not be saved; starting when all processes died and it is resumed
    "stopping": frozenset({"stopping", "running", "starting", "completed", "stopped", "failed"}),
    "completed": frozenset(),
    "stopped": _BY_LAUNCH,
    "failed": _BY_LAUNCH,
    "crashed": _BY_LAUNCH,
}
"""What the supervisor may make of a state; one that comes in the middle repeats the state it finds."""
