"""Who waits for whom, read from what the ranks noted."""

import pytest

from trainer_daemon.contract.flight import Moment
from trainer_daemon.supervisor.collectives import who_waits


def exchange(number: int, what: str = "sum", *, ended: bool = True) -> Moment:
    return Moment(number, number, 41, what, 100.0 + number, 100.5 + number if ended else None)


def phase(number: int, what: str) -> Moment:
    return Moment(number, None, 41, what, 100.0 + number, None)


BOTH = [exchange(1), exchange(2)]

CASES = [
    (
        {0: [*BOTH, exchange(3, ended=False)], 1: BOTH},
        (
            "rank 0 in exchange 3 (sum, after step 41), to which rank 1 did not come: rank 1 has left exchange 2 "
            "(sum, after step 41)"
        ),
    ),
    (
        {0: [*BOTH, exchange(3, ended=False)], 1: [*BOTH, phase(3, "sampling")]},
        "rank 0 in exchange 3 (sum, after step 41), to which rank 1 did not come: rank 1 was last sampling",
    ),
    (
        {
            0: [*BOTH, exchange(3, ended=False)],
            1: [*BOTH, exchange(3, ended=False)],
            2: [phase(1, "building")],
        },
        "ranks 0, 1 in exchange 3 (sum, after step 41), to which rank 2 did not come: rank 2 was last building",
    ),
    (
        {0: [exchange(1, ended=False)], 1: [exchange(1, ended=False)]},
        "all ranks are in exchange 1 (sum, after step 41): what carries it is stuck, the network or a device",
    ),
    (
        {0: [exchange(1, "gradients", ended=False)], 1: [exchange(1, "gradients", ended=False)]},
        (
            "all ranks are in exchange 1 (gradients, after step 41): one of them still computes, or what carries it is "
            "stuck, the network or a device"
        ),
    ),
    (
        {0: [exchange(1, ended=False)], 1: [exchange(1)]},
        "rank 0 still in exchange 1 (sum, after step 41), which rank 1 left",
    ),
    ({0: BOTH, 1: BOTH}, "no rank waits for another: all have left exchange 2 (sum, after step 41)"),
    ({0: [exchange(1, ended=False)]}, None),
    ({0: [phase(1, "building")], 1: []}, None),
]


@pytest.mark.parametrize(("noted", "sentence"), CASES)
def test_the_rank_that_the_others_wait_for_is_named(
    noted: dict[int, list[Moment]], sentence: str | None
) -> None:
    assert who_waits(noted) == sentence
