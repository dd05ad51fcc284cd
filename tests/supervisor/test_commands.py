import itertools
from typing import get_args

import pytest

from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import CommandName
from trainer_daemon.supervisor.commands import (
    REMEMBERED_REFUSALS,
    Ledger,
    Life,
    refusal,
)

COMMANDS: tuple[CommandName, ...] = get_args(CommandName)
GRANTED: dict[tuple[Life, bool], set[CommandName]] = {
    ("training", False): {"pause", "save", "sample", "evaluate", "check", "set", "stop"},
    ("training", True): {"resume", "save", "sample", "evaluate", "check", "set", "stop"},
    ("between attempts", False): {"stop"},
    ("between attempts", True): {"stop"},
    ("stopping", False): {"stop"},
    ("stopping", True): {"stop"},
    ("over", False): set(),
    ("over", True): set(),
}


@pytest.mark.parametrize(("life", "is_paused"), list(itertools.product(get_args(Life), (False, True))))
def test_every_command_has_a_defined_answer_in_every_state(life: Life, is_paused: bool) -> None:
    answers = {name: refusal(name, life=life, is_paused=is_paused, run_name="a") for name in COMMANDS}
    assert {name for name, answer in answers.items() if answer is None} == GRANTED[life, is_paused]
    assert all(answer.startswith("a ") for answer in answers.values() if answer is not None)


def test_the_ledger_repeats_its_first_answer() -> None:
    ledger = Ledger()
    assert not ledger.was_granted("x")
    ledger.grant("x")
    assert ledger.was_granted("x")
    ledger.refuse("y", "not now")
    with pytest.raises(RefusedError, match="not now"):
        ledger.was_granted("y")


def test_refusals_that_nobody_comes_back_for_are_forgotten() -> None:
    ledger = Ledger()
    for n in range(REMEMBERED_REFUSALS + 10):
        ledger.refuse(str(n), "no")
    assert not ledger.was_granted("0")
    with pytest.raises(RefusedError):
        ledger.was_granted(str(REMEMBERED_REFUSALS))
