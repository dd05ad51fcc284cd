"""Axes name round values, write them shortly, and stand still while they can."""

import math

import numpy as np
import pytest

from tui.chart.axis import (
    compact,
    duration,
    duration_ticks,
    grown_end,
    linear_ticks,
    log_ticks,
    settled_range,
    snapped_window,
    tick_labels,
)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 104_000, ["0", "20k", "40k", "60k", "80k", "100k"]),
        (0, 2.6e9, ["0", "0.5B", "1.0B", "1.5B", "2.0B", "2.5B"]),
        (2.31, 2.49, ["2.35", "2.40", "2.45"]),
        (-1.1, 1.1, ["-1.0", "-0.5", "0", "0.5", "1.0"]),
        (0, 6.2e-4, ["0", "2e-4", "4e-4", "6e-4"]),
        (63_810, 63_846, ["63.81k", "63.82k", "63.83k", "63.84k"]),
    ],
)
def test_linear_ticks_are_round_and_share_one_suffix(low: float, high: float, labels: list[str]) -> None:
    assert tick_labels(linear_ticks(low, high, 4)) == labels


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (-3.2, 0.3, [1e-3, 1e-2, 1e-1, 1]),
        (-7.2, 0.3, [1e-6, 1e-4, 1e-2, 1]),
        (0.25, 1.4, [2, 5, 10, 20]),
        (math.log10(2.31), math.log10(2.49), [2.35, 2.4, 2.45]),
    ],
)
def test_log_ticks_are_decades_or_1_2_5_or_plain_round_numbers(
    low: float, high: float, ticks: list[float]
) -> None:
    np.testing.assert_allclose(log_ticks(low, high, 4), ticks)


def test_durations_tick_in_the_units_of_a_clock() -> None:
    assert [duration(tick) for tick in duration_ticks(0, 5400, 6)] == [
        "0",
        "15m",
        "30m",
        "45m",
        "1h",
        "1h15m",
        "1h30m",
    ][:7]
    assert [duration(tick) for tick in duration_ticks(0, 400_000, 5)] == ["0", "1d", "2d", "3d", "4d"]


def test_a_lone_value_is_written_with_four_digits() -> None:
    written = [compact(value) for value in (2.74312, 0.91131, 63_812, 3.1e6, 3e-4, 0, -1234.5, math.nan)]
    assert written == ["2.743", "0.9113", "63.81k", "3.1M", "3e-4", "0", "-1.234k", "nan"]
    assert [duration(s) for s in (0.25, 45, 90, 5400, 195_000)] == ["0.25s", "45s", "1m30s", "1h30m", "2d6h"]


def test_a_growing_axis_moves_seldom_and_never_cuts_its_newest_point() -> None:
    end, moves = None, 0
    for newest in range(1, 10_000):
        grown = grown_end(0, newest, end)
        assert newest < grown <= max(newest, 1) * 1.04 + 1
        moves += grown != end
        end = grown
    assert moves < 270


def test_a_sliding_window_moves_by_whole_pixels() -> None:
    starts = [snapped_window(newest, 1000, 100)[0] / 10 for newest in np.linspace(5000, 5100, 77)]
    np.testing.assert_allclose(starts, np.round(starts))
    start, end = snapped_window(5000, 1000, 100)
    assert end - start == 1000
    assert end > 5000


def test_a_range_stays_until_data_leave_it_or_fill_too_little_of_it() -> None:
    first = settled_range((0.0, 1.0), None)
    assert first[0] < 0
    assert first[1] > 1
    assert settled_range((0.0, 0.72), first) == first
    assert settled_range((0.0, 1.03), first) == first
    assert settled_range((0.0, 0.6), first) != first
    assert settled_range((0.0, 1.2), first)[1] > 1.2


def test_a_flat_line_still_gets_an_axis_of_some_height() -> None:
    for value in (0.0, 3.0, -2.0):
        low, high = settled_range((value, value), None)
        assert low < value < high
