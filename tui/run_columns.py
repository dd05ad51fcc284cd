"""The columns of the list of runs: what each shows, which field it is sorted by, and which of them a width has room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len

from trainer_daemon.contract.status import RunStatus
from trainer_daemon.contract.text import printable
from tui.chart.axis import compact, duration
from tui.run_query import Query, sorted_by
from tui.run_row import RunRow
from tui.run_view import RunView
from tui.wording import UNKNOWN, count, fixed

if TYPE_CHECKING:
    from trainer_daemon.contract.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Column:
    """A column beside the run's name and state."""

    title: str
    field: str
    """What it is sorted by."""
    cell: Callable[[RunStatus, RunSpec | None], str]
    falling: bool = False
    """Whether the largest is what one looks for first."""
    is_words: bool = False


def _steps(s: RunStatus, _spec: RunSpec | None) -> str:
    return f"{count(s.step)}/{count(s.total_steps)}" if s.total_steps else count(s.step)


def _eta(s: RunStatus, _spec: RunSpec | None) -> str:
    return UNKNOWN if s.eta_seconds is None else duration(max(1.0, s.eta_seconds))


def _heard(s: RunStatus, _spec: RunSpec | None) -> str:
    return UNKNOWN if s.updated_at is None else f"{duration(max(1.0, time.time() - s.updated_at))} ago"


def _speed(s: RunStatus, _spec: RunSpec | None) -> str:
    return UNKNOWN if s.tokens_per_second is None else compact(s.tokens_per_second)


def _preset(_status: RunStatus, spec: RunSpec | None) -> str:
    return printable((spec.preset if spec else None) or UNKNOWN)[:16]


COLUMNS = (
    Column("step", "step", _steps, falling=True),
    Column("val bpb", "val_bpb", lambda s, _: fixed(s.val_bpb, 4)),
    Column("ETA", "eta_seconds", _eta),
    Column("heard", "age_seconds", _heard),
    Column("loss nats", "loss_nats", lambda s, _: fixed(s.loss_nats, 4)),
    Column("tokens/s", "tokens_per_second", _speed, falling=True),
    Column("depth", "model.depth", lambda _, spec: str(spec.model.depth) if spec else UNKNOWN),
    Column("preset", "preset", _preset, is_words=True),
    Column("tag", "tag", lambda s, _: printable(s.tag), is_words=True),
)
"""In the order in which they are given up where it is narrow, the last first."""
SORT_FIELDS = ("", "name", "state", *(column.field for column in COLUMNS))
"""What the list can be sorted by with a key; first the newest run."""
STATE_WIDTH = 12
ARROW_WIDTH = 2


def columns_that_fit(rows: Sequence[RunRow], width: int, padding: int) -> Sequence[Column]:
    """As many as fit beside name and state; `padding` cells stand on both sides of each."""
    name_width = max((len(row.name) for row in rows), default=0) + 2 * ARROW_WIDTH
    room = width - name_width - STATE_WIDTH - 4 * padding
    for number, column in enumerate(COLUMNS):
        cells = [column.cell(row.status, row.spec) for row in rows if row.status is not None]
        room -= max(len(column.title) + ARROW_WIDTH, *map(cell_len, cells), 0) + 2 * padding
        if room < 0:
            return COLUMNS[:number]
    return COLUMNS


def sort_that_comes_next(field: str) -> tuple[str, bool]:
    """(field, falling) after `field`; round."""
    at = SORT_FIELDS.index(field) + 1 if field in SORT_FIELDS else 0
    following = SORT_FIELDS[at % len(SORT_FIELDS)]
    return following, any(column.falling for column in COLUMNS if column.field == following)


def arranged(rows: Sequence[RunRow], query: Query, view: RunView) -> list[RunRow]:
    """Those of whom the query holds: the pinned ones on top in the order of their pins, the rest sorted.

    `rows`: the newest first.
    """
    picked = [row for row in rows if query.holds(row.facts)]
    if view.sort:
        picked = sorted_by(picked, view.sort, lambda row: row.facts, falling=view.falling)
    elif view.falling:
        picked.reverse()
    pins = {name: place for place, name in enumerate(view.pinned)}
    return sorted(picked, key=lambda row: pins.get(row.name, len(pins)))
