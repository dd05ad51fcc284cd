"""Which alarms their reader has seen, of all runs: a small JSON file in the home."""

import json
from pathlib import Path

from trainer_daemon.contract.rundir import home, write_json
from tui.alarms import Alarm
from tui.run_state import RunState

MOST = 2000


def acknowledged_file() -> Path:
    return home() / "seen-alerts.json"


class Acknowledged:
    """Keys of alarms, each with its run's name before it. Kept in memory alone where they may not or cannot be written."""

    def __init__(self, *, keeps: bool = True) -> None:
        """`keeps`: whether they are written to the file."""
        self._keeps = keeps
        self._keys = dict.fromkeys(_stored())

    def holds(self, run: str, key: str) -> bool:
        return f"{run}/{key}" in self._keys

    def is_seen(self, state: RunState, alarm: Alarm) -> bool:
        return self.holds(state.status.name, alarm.key)

    def unseen(self, state: RunState) -> int:
        """How many alarms nobody has said to have seen."""
        return sum(not self.is_seen(state, alarm) for alarm in state.alarms)

    def hides_banner(self, state: RunState) -> bool:
        """Whether the newest alert is seen, so that nothing needs to tell of it any more."""
        alert = state.status.alert
        same = [a for a in state.alarms if alert and (a.name, a.step) == (alert["name"], alert["step"])]
        return bool(same) and self.is_seen(state, same[-1])

    def turn(self, run: str, keys: list[str], *, is_seen: bool) -> None:
        """Take them in or out. Raises OSError where they cannot be written; they hold here all the same."""
        for key in keys:
            self._keys.pop(f"{run}/{key}", None)
            if is_seen:
                self._keys[f"{run}/{key}"] = None
        if self._keeps:
            home().mkdir(parents=True, exist_ok=True)
            write_json(acknowledged_file(), list(self._keys)[-MOST:])


def _stored() -> list[str]:
    try:
        stored = json.loads(acknowledged_file().read_bytes())
    except (OSError, ValueError):
        return []
    return [key for key in stored if isinstance(key, str)][-MOST:] if isinstance(stored, list) else []
