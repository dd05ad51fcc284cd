"""What a chart lights must be what the data say: each pixel column exactly the heights that the line through the points takes there."""

import math
from itertools import pairwise

import numpy as np
import pytest

from tui.chart.columns import polyline_extents, quantile_range
from tui.chart.symbols import ASCII, BLOCK, BRAILLE, Symbols, span_dots
from tui.store import FloatArray


def extents_by_walking(x: FloatArray, y: FloatArray, left: float, right: float) -> tuple[float, float]:
    """The slow and obvious way: clip every point and every piece of the line to left..right."""
    heights = [b for a, b in zip(x, y, strict=True) if left <= a < right]
    for x0, x1, y0, y1 in zip(x, x[1:], y, y[1:], strict=False):
        heights += [y0 + (edge - x0) / (x1 - x0) * (y1 - y0) for edge in (left, right) if x0 < edge <= x1]
    finite = [height for height in heights if not math.isnan(height)]
    return (min(finite), max(finite)) if finite else (math.nan, math.nan)


@pytest.mark.parametrize("points", [1, 2, 7, 60, 5000])
@pytest.mark.parametrize("gaps", [0, 3])
def test_extents_are_those_of_the_line_through_the_points(points: int, gaps: int) -> None:
    rng = np.random.default_rng(points + gaps)
    x = np.sort(rng.integers(0, 10_000, points)).astype(float)  # repeated steps included
    y = rng.normal(size=points)
    y[rng.integers(0, points, gaps)] = np.nan
    edges = np.linspace(-500, 10_500, 81)
    low, high = polyline_extents(x, y, edges)
    expected = [extents_by_walking(x, y, left, right) for left, right in pairwise(edges)]
    np.testing.assert_allclose(np.stack([low, high], axis=1), expected, rtol=1e-9)


def test_a_log_axis_sees_the_line_through_the_logarithms_and_no_value_below_zero() -> None:
    rng = np.random.default_rng(0)
    x, y = np.arange(300.0), np.exp(rng.normal(size=300))
    y[50:60] = 0.0
    y[100] = -1.0
    edges = np.linspace(20, 280, 101)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.where(y > 0, np.log10(y), np.nan)
    np.testing.assert_allclose(polyline_extents(x, y, edges, log_y=True), polyline_extents(x, logs, edges))


def test_nan_breaks_the_line_between_its_neighbours_and_nowhere_else() -> None:
    x, y = np.array([0.0, 10, 20, 30, 40]), np.array([1.0, 1, np.nan, 1, 1])
    low, _ = polyline_extents(x, y, np.arange(0.0, 42.0, 2.0))
    drawn = np.flatnonzero(np.isfinite(low)) * 2
    # 10 and 30 are points of their own; between them there is nothing.
    assert drawn.tolist() == [0, 2, 4, 6, 8, 10, 30, 32, 34, 36, 38]


def test_every_dot_from_low_to_high_is_lit_and_no_other() -> None:
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 1, 200)
    high = low + rng.exponential(0.1, 200)
    low[::9] = np.nan
    dots = span_dots(low, high, bottom=0.0, top=1.0, height=64)
    for column in range(200):
        if np.isnan(low[column]):
            assert not dots[:, column].any()
            continue
        top_row, bottom_row = round((1 - high[column]) * 63), round((1 - low[column]) * 63)
        assert np.flatnonzero(dots[:, column]).tolist() == list(range(max(top_row, 0), bottom_row + 1))


def test_least_and_greatest_of_each_column_are_lit() -> None:
    rng = np.random.default_rng(2)
    x, y = np.arange(20_000.0), rng.normal(size=20_000)
    edges = np.linspace(0, 20_000, 201)
    dots = span_dots(*polyline_extents(x, y, edges), bottom=-5.0, top=5.0, height=80)
    for column, values in enumerate(y.reshape(200, 100)):
        for value in (values.min(), values.max()):
            assert dots[round((5.0 - value) / 10 * 79), column]


@pytest.mark.parametrize("symbols", [BRAILLE, BLOCK, ASCII], ids=lambda symbols: symbols.name)
def test_each_pattern_of_dots_has_its_own_glyph(symbols: Symbols) -> None:
    dots_in_a_cell = symbols.dots_high * symbols.dots_wide
    assert len(set(symbols.glyphs)) == len(symbols.glyphs) == 2**dots_in_a_cell
    assert symbols.glyphs[0] == " "
    everything = np.ones((symbols.dots_high, symbols.dots_wide), dtype=bool)
    assert symbols.cell_bits(everything).tolist() == [[2**dots_in_a_cell - 1]]


def test_braille_dots_stand_where_unicode_puts_them() -> None:
    # U+2800 numbers the dots 1-3 and 7 down the left, 4-6 and 8 down the right; dot n is bit n - 1.
    numbers = [[1, 4], [2, 5], [3, 6], [7, 8]]
    for row in range(4):
        for column in range(2):
            dots = np.zeros((4, 2), dtype=bool)
            dots[row, column] = True
            assert BRAILLE.glyphs[BRAILLE.cell_bits(dots)[0, 0]] == chr(
                0x2800 + (1 << (numbers[row][column] - 1))
            )


def test_quantiles_ignore_gaps_and_keep_their_sample_while_the_series_grows() -> None:
    y = np.random.default_rng(3).normal(size=100_000)
    y[::50] = 1000.0
    y[7] = np.nan
    seen = quantile_range(y, 0.01, 0.95)
    assert seen is not None
    assert -2.6 < seen[0] < -2.0
    assert 1.4 < seen[1] < 2.4
    assert quantile_range(np.full(3, np.nan), 0.01, 0.99) is None
