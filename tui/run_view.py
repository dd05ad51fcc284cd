"""How a reader likes the list of runs: what is pinned to its top and how the rest is sorted, kept from one session to the
next in a small JSON file in the home. A file that is not ours is passed over: it is a preference, no more."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainer_daemon.contract.rundir import home, write_json


@dataclass(frozen=True, slots=True)
class RunView:
    pinned: tuple[str, ...] = ()
    """Names, in the order in which they were pinned."""
    sort: str = ""
    """The field that the list is sorted by; empty: the newest run first."""
    falling: bool = False
    """From the largest to the smallest."""

    def with_pins_turned(self, names: list[str]) -> "RunView":
        """All of them pinned; or none, where all of them were."""
        if set(names) <= set(self.pinned):
            return replace(self, pinned=tuple(name for name in self.pinned if name not in names))
        return replace(self, pinned=tuple(dict.fromkeys([*self.pinned, *names])))


def view_file() -> Path:
    return home() / "runs-view.json"


def load_view() -> RunView:
    """What was stored; the defaults where there is nothing that can be read."""
    try:
        stored: Any = json.loads(view_file().read_bytes())
        pinned, sort, falling = stored["pinned"], stored["sort"], stored["falling"]
    except (OSError, ValueError, KeyError, TypeError):
        return RunView()
    if not (isinstance(pinned, list) and isinstance(sort, str) and isinstance(falling, bool)):
        return RunView()
    return RunView(tuple(name for name in pinned if isinstance(name, str)), sort, falling)


def store_view(view: RunView) -> None:
    """Raises OSError where it cannot be written."""
    home().mkdir(parents=True, exist_ok=True)
    write_json(view_file(), asdict(view))
