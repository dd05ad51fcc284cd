import pytest

from trainer_daemon.contract.spec import OptimSpec, ScheduleSpec
from trainer_daemon.engine.optim.schedule import learning_rate_scale, muon_momentum, weight_decay_scale

SCHEDULE = ScheduleSpec(warmup_steps=40, warmdown_ratio=0.65, final_lr_frac=0.05)


def test_learning_rate_rises_stays_and_falls() -> None:
    scale = [learning_rate_scale(step, 2000, SCHEDULE) for step in range(2001)]
    assert scale[0] == 1 / 40
    assert scale[38] == 39 / 40
    assert (
        scale[39] == scale[40] == scale[700] == 1
    )  # the warm-down takes 1300 steps, 700 itself is still full
    assert scale[701] == pytest.approx(1299 / 1300 + 0.05 / 1300)
    assert scale[1350] == pytest.approx(0.5 + 0.05 * 0.5)
    assert scale[2000] == pytest.approx(0.05)


def test_a_run_shorter_than_its_warmup_never_leaves_it() -> None:
    assert [learning_rate_scale(step, 4, SCHEDULE) for step in range(4)] == [1 / 40, 2 / 40, 3 / 40, 4 / 40]


def test_without_warmup_and_warmdown_the_rate_is_constant() -> None:
    flat = ScheduleSpec(warmup_steps=0, warmdown_ratio=0.0)
    assert {learning_rate_scale(step, 10, flat) for step in range(10)} == {1.0}


def test_momentum_rises_over_400_steps_and_falls_with_the_warmdown() -> None:
    momentum = [muon_momentum(step, 2000, SCHEDULE, OptimSpec()) for step in range(2001)]
    assert momentum[0] == 0.85
    assert momentum[200] == pytest.approx(0.91)
    assert momentum[400] == momentum[700] == pytest.approx(0.97)
    assert momentum[1350] == pytest.approx(0.935)
    assert momentum[2000] == pytest.approx(0.90)


def test_in_a_short_run_the_first_400_steps_win_over_the_warmdown() -> None:
    assert muon_momentum(399, 500, SCHEDULE, OptimSpec()) == pytest.approx(0.9697)
    assert muon_momentum(400, 500, SCHEDULE, OptimSpec()) == pytest.approx(0.90 + 0.07 * 100 / 325)


def test_weight_decay_is_half_a_cosine() -> None:
    assert weight_decay_scale(0, 100, SCHEDULE) == 1
    assert weight_decay_scale(25, 100, SCHEDULE) == pytest.approx(0.5 + 0.5**1.5)
    assert weight_decay_scale(50, 100, SCHEDULE) == pytest.approx(0.5)
    assert weight_decay_scale(100, 100, SCHEDULE) == pytest.approx(0)


def test_weight_decay_can_fall_in_a_line() -> None:
    line = ScheduleSpec(weight_decay="linear")
    assert [weight_decay_scale(step, 100, line) for step in (0, 25, 100)] == [1, 0.75, 0]


def test_the_momentum_s_ramp_is_dialled() -> None:
    optim = OptimSpec(
        muon_momentum=0.9, muon_momentum_start=0.5, muon_momentum_end=0.8, muon_momentum_warmup_steps=10
    )
    assert [muon_momentum(step, 100, SCHEDULE, optim) for step in (0, 5, 10, 100)] == pytest.approx(
        [0.5, 0.7, 0.9, 0.8]
    )
    constant = OptimSpec(muon_momentum=0.9, muon_momentum_end=0.9, muon_momentum_warmup_steps=0)
    assert {muon_momentum(step, 100, SCHEDULE, constant) for step in range(101)} == {0.9}
