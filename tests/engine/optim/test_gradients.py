"""What happens to a gradient before the update: norm, clipping, and fp16's loss scale."""

import math

import pytest
import torch
from torch import nn

from trainer_daemon.engine.optim.gradients import GROWTH_INTERVAL, LARGEST_SCALE, Gradients, LossScale


def parameter_with_gradient(*gradient: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(len(gradient)))
    parameter.grad = torch.tensor(gradient)
    return parameter


def test_a_long_gradient_is_shortened_over_all_parameters_and_a_short_one_is_left() -> None:
    a, b = parameter_with_gradient(3.0, 0.0), parameter_with_gradient(4.0)
    gradients = Gradients([a, b], clip_norm=1.0, loss_scale=None)
    assert gradients.finish() == pytest.approx(5.0)  # as it was before
    assert torch.cat([a.grad, b.grad]).tolist() == pytest.approx([0.6, 0.0, 0.8])  # type: ignore[list-item]

    short = parameter_with_gradient(0.3, 0.4)
    Gradients([short], clip_norm=1.0, loss_scale=None).finish()
    assert torch.equal(short.grad, torch.tensor([0.3, 0.4]))  # type: ignore[arg-type]


def test_the_loss_scale_is_undone_to_the_bit_and_stands_outside_the_norm() -> None:
    torch.manual_seed(0)
    x = torch.randn(5)
    plain, scaled = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    one = Gradients([plain], clip_norm=None, loss_scale=None)
    other = Gradients([scaled], clip_norm=None, loss_scale=LossScale(2.0**13))
    for _ in range(2):  # two micro-batches
        one.backward((plain * x).sum().square())
        other.backward((scaled * x).sum().square())
    assert other.finish() == one.finish()
    assert torch.equal(plain.grad, scaled.grad)  # type: ignore[arg-type]


def test_a_gradient_that_is_not_finite_is_said_and_not_touched() -> None:
    parameter = parameter_with_gradient(math.inf, 2.0)
    gradients = Gradients([parameter], clip_norm=1.0, loss_scale=LossScale(4.0))
    assert not math.isfinite(gradients.finish())
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [math.inf, 2.0]


def test_the_scale_halves_after_an_overflow_and_doubles_after_many_good_steps() -> None:
    scale = LossScale(4.0)
    for _ in range(GROWTH_INTERVAL - 1):
        scale = scale.after(is_finite=True)
    assert (scale.value, scale.good_steps) == (4.0, GROWTH_INTERVAL - 1)
    assert scale.after(is_finite=True) == LossScale(8.0)
    assert scale.after(is_finite=False) == LossScale(2.0)
    assert LossScale(1.0).after(is_finite=False) == LossScale(1.0)


def test_the_scale_of_gradients_that_vanish_does_not_grow_without_end() -> None:
    for _ in range(2):
        scale = LossScale(LARGEST_SCALE, GROWTH_INTERVAL - 1).after(is_finite=True)
        assert scale == LossScale(LARGEST_SCALE)


def test_an_overflow_counts_as_answered_only_while_the_scale_can_fall() -> None:
    gradients = Gradients([], clip_norm=None, loss_scale=LossScale(2.0))
    assert not gradients.adapt(is_finite=True)
    assert gradients.adapt(is_finite=False)
    assert not gradients.adapt(is_finite=False)
    assert not Gradients([], clip_norm=None, loss_scale=None).adapt(is_finite=False)
