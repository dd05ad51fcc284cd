"""Who waits for whom: the ranks' flight records side by side, written down before anything is killed.

Every rank takes part in every exchange, in the same order, and numbers them. So the one with the lowest number is the one
that the others wait for, and what it did last is where to look.
"""

import time
from dataclasses import asdict
from typing import Any

from trainer_daemon.contract.flight import Moment, read_flight
from trainer_daemon.contract.rundir import RunDir, write_json

COLLECTIVES = "collectives.json"


def save_collectives(run: RunDir, attempt: int) -> tuple[str | None, str | None]:
    """Write what every rank was last doing with the others to the attempt's folder; its path inside the run folder, and a
    sentence about who waits for whom. None where nothing was noted, or nothing can be written."""
    folder = run.attempt(attempt)
    by_rank = {
        int(file.stem.removeprefix("rank-")): moments
        for file in folder.glob("rank-*.flight")
        if (moments := read_flight(file))
    }
    if not by_rank:
        return None, None
    finding = who_waits(by_rank)
    ranks = {str(rank): [asdict(m) for m in moments] for rank, moments in sorted(by_rank.items())}
    report: dict[str, Any] = {"written": time.time(), "finding": finding, "ranks": ranks}
    try:
        write_json(folder / COLLECTIVES, report)
    except OSError:  # a full disk: the sentence is worth having all the same
        return None, finding
    return str((folder / COLLECTIVES).relative_to(run.path)), finding


def who_waits(by_rank: dict[int, list[Moment]]) -> str | None:
    """Which ranks wait for which, in words; None for one rank, or when nothing was exchanged yet."""
    last = {
        rank: exchanges[-1]
        for rank, moments in sorted(by_rank.items())
        if (exchanges := [m for m in moments if m.exchange is not None])
    }
    if len(by_rank) < 2 or not last:
        return None
    farthest = max(m.exchange or 0 for m in last.values())
    newest = next(m for m in last.values() if m.exchange == farthest)
    where = f"exchange {farthest} ({newest.what}, after step {newest.step})"
    behind = [rank for rank in by_rank if rank not in last or last[rank].exchange != farthest]
    if behind:
        waiting = [rank for rank in by_rank if rank not in behind]
        doing = "; ".join(f"rank {rank} {_last_deed(by_rank[rank])}" for rank in behind)
        return f"{_names(waiting)} in {where}, to which {_names(behind)} did not come: {doing}"
    inside = [rank for rank, moment in last.items() if moment.ended is None]
    if not inside:
        return f"no rank waits for another: all have left {where}"
    if len(inside) == len(last):
        computes = "one of them still computes, or " if newest.what == "gradients" else ""
        return f"all ranks are in {where}: {computes}what carries it is stuck, the network or a device"
    outside = [rank for rank in last if rank not in inside]
    return f"{_names(inside)} still in {where}, which {_names(outside)} left"


def _last_deed(moments: list[Moment]) -> str:
    if not moments:
        return "noted nothing"
    moment = moments[-1]
    if moment.exchange is None:
        return f"was last {moment.what}"
    is_in = "is in" if moment.ended is None else "has left"
    return f"{is_in} exchange {moment.exchange} ({moment.what}, after step {moment.step})"


def _names(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
