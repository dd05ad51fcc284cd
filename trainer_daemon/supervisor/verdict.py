"""What the end of an attempt means: pure, so that each row of the table can be tested alone."""

from dataclasses import dataclass
from typing import Literal

from trainer_daemon.contract.errors import RunFailedError
from trainer_daemon.contract.events import FailureCause, Finished
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.spec import RuntimeSpec
from trainer_daemon.supervisor.attempts import AttemptResult

HOPELESS_EXIT_CODES = frozenset({2, 3, 4})
"""A wrong spec, missing data or a run whose checkpoints are all damaged is as wrong the next time."""
LONGEST_DELAY_SECONDS = 15 * 60.0
"""Longest wait before a restart, unless the spec asks for a longer first one."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`state` None: start again after `delay_seconds`."""

    state: Literal["completed", "stopped", "failed"] | None
    reason: str
    cause: FailureCause | None = None
    """Of a failure."""
    delay_seconds: float = 0.0


def judge(
    run: RunDir,
    runtime: RuntimeSpec,
    *,
    finished: Finished | None,
    result: AttemptResult | None,
    agent_ending: str,
    failures_in_a_row: int,
    stop_reason: str | None,
    unkillable: list[int],
    hang: str | None = None,
) -> Verdict:
    """Decide how a run goes on. `failures_in_a_row` counts this one, if it is one.

    `hang`: why the supervisor itself killed the ranks.
    """
    if unkillable:
        return Verdict(
            "failed",
            f"the processes {', '.join(map(str, unkillable))} do not die; they hang in the kernel, see dmesg",
            "unkillable",
        )
    if finished is not None:
        return Verdict(finished.reason, finished.message, finished.cause)
    if stop_reason is not None:
        return Verdict("stopped", f"{stop_reason}; the ranks did not get to save")

    root = next((r for r in result.ranks if r.is_root_cause), None) if result else None
    if hang is not None:
        root, cause, log = None, hang, run.rank_log(0)
    elif root is not None:
        cause = f"rank {root.rank}: {root.message}"
        log = run.rank_log(root.rank)
    else:
        cause = (result.error if result else None) or f"the launcher of the ranks {agent_ending}"
        log = run.agent_log
    if root is not None and root.exit_code in HOPELESS_EXIT_CODES:
        return Verdict(
            "failed",
            f"{cause}. Log: {log}",
            "checkpoint" if root.exit_code == RunFailedError.exit_code else "spec",
        )
    if failures_in_a_row > runtime.max_restarts:
        advice = f"the log is {log}; once mended: llmctl resume {run.name}"
        if runtime.max_restarts == 0:
            return Verdict(
                "failed", f"{cause}. No restart was allowed; {advice}", "hang" if hang else "rank_exit"
            )
        times = f"{runtime.max_restarts} restart{'s' if runtime.max_restarts > 1 else ''}"
        return Verdict(
            "failed", f"{cause}. Given up after {times} without a new checkpoint; {advice}", "no_progress"
        )
    first = runtime.restart_delay_seconds
    delay = min(first * 3 ** (failures_in_a_row - 1), max(first, LONGEST_DELAY_SECONDS))
    reason = f"restart {failures_in_a_row} of {runtime.max_restarts} in {delay:g} s, after {cause}"
    return Verdict(None, reason, delay_seconds=delay)
