"""Every pair of states, by who wants it. A row is the state before; `x` marks what may follow."""

from typing import get_args

import pytest

from trainer_daemon.contract.events import State
from trainer_daemon.contract.transitions import BY_RANKS, BY_SUPERVISOR

STATES: tuple[State, ...] = get_args(State)

SUPERVISOR = """
            starting running evaluating saving paused stopping completed stopped failed crashed
starting       x       x        x         x      x       x        x        x       x      .
running        x       x        x         x      x       x        x        x       x      .
evaluating     x       x        x         x      x       x        x        x       x      .
saving         x       x        x         x      x       x        x        x       x      .
paused         x       x        x         x      x       x        x        x       x      .
stopping       x       x        .         .      .       x        x        x       x      .
completed      .       .        .         .      .       .        .        .       .      .
stopped        x       x        .         .      .       .        .        .       .      .
failed         x       x        .         .      .       .        .        .       .      .
crashed        x       x        .         .      .       .        .        .       .      .
"""

RANKS = """
            starting running evaluating saving paused stopping completed stopped failed crashed
starting       x       x        x         x      x       x        .        .       .      .
running        x       x        x         x      x       x        .        .       .      .
evaluating     x       x        x         x      x       x        .        .       .      .
saving         x       x        x         x      x       x        .        .       .      .
paused         x       x        x         x      x       x        .        .       .      .
stopping       .       .        .         .      .       .        .        .       .      .
completed      .       .        .         .      .       .        .        .       .      .
stopped        .       .        .         .      .       .        .        .       .      .
failed         .       .        .         .      .       .        .        .       .      .
crashed        .       .        .         .      .       .        .        .       .      .
"""


def read(table: str) -> dict[tuple[str, str], bool]:
    head, *rows = table.strip().splitlines()
    return {
        (row.split()[0], after): mark == "x"
        for row in rows
        for after, mark in zip(head.split(), row.split()[1:], strict=True)
    }


@pytest.mark.parametrize(("drawn", "table"), [(SUPERVISOR, BY_SUPERVISOR), (RANKS, BY_RANKS)])
def test_every_pair_of_states_is_decided(drawn: str, table: dict[State, frozenset[State]]) -> None:
    expected = read(drawn)
    assert len(expected) == len(STATES) ** 2
    assert {(a, b): b in table[a] for a in STATES for b in STATES} == expected
