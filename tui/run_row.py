"""A run as a list of runs sees it: its status, its spec, and what a query can ask. Loads nothing heavy: `llmctl ls` reads it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.status import RunStatus, observe
from tui.run_query import Facts, facts_of

if TYPE_CHECKING:
    from trainer_daemon.contract.spec import RunSpec


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as it was when it was looked at."""

    run: RunDir
    status: RunStatus | None
    """None where it cannot be read."""
    spec: RunSpec | None
    """With what was changed since it began; None where it cannot be read."""
    error: str
    """Why not, if anything cannot be."""
    facts: Facts
    """What a query can ask."""

    @property
    def name(self) -> str:
        return self.run.name


def read_row(run: RunDir) -> RunRow:
    """Look at a run. Never raises for one that is damaged."""
    from trainer_daemon.contract.settings import present_spec

    status, spec, error = None, None, ""
    try:
        status = observe(run)
        spec = present_spec(run)
    except (LlmctlError, OSError) as e:
        error = str(e)
    known = status or RunStatus(name=run.name, state="failed")
    return RunRow(run, status, spec, error, facts_of(known, spec, time.time()))
