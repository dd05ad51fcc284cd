"""What is due by the clock: the main rank's clock, and every rank at once."""

from typing import Literal

from trainer_daemon.engine.timers import Duty, Timers


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_all_ranks_hear_from_the_main_one_what_is_due_and_it_is_over_once_done() -> None:
    clock = Clock()
    main, other = Timers(clock), Timers(lambda: 0.0)
    minutes: dict[Duty, float | Literal["off"]] = {"save": 2.0, "evaluate": 1.0, "sample": "off"}
    assert main.gone_off(minutes) == 0
    clock.seconds = 60.0
    word = main.gone_off(minutes)
    for timers in (main, other):
        timers.agree(word)
        assert (timers.is_due("evaluate"), timers.is_due("save"), timers.is_due("sample")) == (
            True,
            False,
            False,
        )
        timers.restart("evaluate")
        assert not timers.is_due("evaluate")
    clock.seconds = 119.0
    assert main.gone_off(minutes) == 0
    clock.seconds = 120.0
    main.agree(main.gone_off(minutes))
    assert main.is_due("save")
    assert main.is_due("evaluate")


def test_a_duty_done_for_another_reason_starts_its_time_anew() -> None:
    clock = Clock()
    timers = Timers(clock)
    clock.seconds = 50.0
    timers.restart("save")
    clock.seconds = 100.0
    assert timers.gone_off({"save": 1.0, "evaluate": "off", "sample": "off"}) == 0
    clock.seconds = 110.0
    assert timers.gone_off({"save": 1.0, "evaluate": "off", "sample": "off"}) == 1
