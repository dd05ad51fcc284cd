"""Where an axis ends, which values it names and how it writes them. The ends move in jumps: an axis that followed each new point
would repaint the whole chart each frame, and nobody can read a scale that never stands still."""

import math
from collections.abc import Sequence

import numpy as np

from tui.store import FloatArray

SI_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
SI_END = 1e15
"""From here on, where FLOPs are, an exponent is what people read."""
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION_STEPS = tuple(
    number * SECONDS[unit]
    for unit, counts in {
        "s": (1, 2, 5, 10, 15, 30),
        "m": (1, 2, 5, 10, 15, 30),
        "h": (1, 2, 3, 6, 12),
    }.items()
    for number in counts
)
X_GROWTH = 0.04
"""How far beyond its data a growing x axis reaches each time it moves."""
Y_SHRINK = 0.7
"""A y axis stays until its data leave it or fill less than this share of it."""
Y_PADDING = 0.04

LEAST_SPAN, LEAST_LOG_SPAN = 1.0, 0.1
"""An axis with a single point on it reaches so far: a step, or a tenth of a decade."""

Span = tuple[float, float]


def grown_end(
    start: float, data_end: float, previous_end: float | None, least_span: float = LEAST_SPAN
) -> float:
    """The right end of an axis that shows everything: the previous one while it still lies beyond the data and not too far."""
    span = max(data_end - start, least_span)
    if previous_end is not None and data_end < previous_end <= start + span * (1 + X_GROWTH):
        return previous_end
    return start + span * (1 + X_GROWTH)


def snapped_window(data_end: float, span: float, pixels: int) -> Span:
    """A window of `span` just beyond `data_end`, on the grid of its own pixels: it slides by whole pixels, so that the
    columns already drawn keep their points and their shape."""
    pixel = span / pixels
    end = (math.floor(data_end / pixel) + 1) * pixel
    return end - span, end


def settled_range(wanted: Span, previous: Span | None) -> Span:
    """`previous` while it holds `wanted` and is filled well enough; else `wanted`, padded."""
    low, high = wanted
    if previous is not None:
        is_inside = previous[0] <= low and high <= previous[1]
        if is_inside and high - low >= Y_SHRINK * (previous[1] - previous[0]) / (1 + 2 * Y_PADDING):
            return previous
    padding = Y_PADDING * (high - low) or 0.1 * abs(high) or 1.0
    return low - padding, high + padding


def linear_ticks(low: float, high: float, count: int) -> FloatArray:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], about `count` of them."""
    return _multiples(low, high, _nice_step((high - low) / max(count, 1)))


def duration_ticks(low: float, high: float, count: int) -> FloatArray:
    """Round durations within [low, high] seconds, about `count` of them: every 15 s, 2 m, 6 h, 5 d."""
    least = (high - low) / max(count, 1)
    if least < 1:
        return linear_ticks(low, high, count)
    step = next((step for step in DURATION_STEPS if step >= least), None)
    return _multiples(low, high, step or _nice_step(least / SECONDS["d"]) * SECONDS["d"])


def log_ticks(low: float, high: float, count: int) -> FloatArray:
    """Values (not exponents) to name within [10^low, 10^high]: decades, or 1-2-5, or plain round numbers, whichever fits."""
    decades = np.arange(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    if len(decades) >= 3:
        stride = -(-len(decades) // max(count, 1))
        return np.asarray(10.0 ** decades[decades % stride == 0])
    steps = np.array(
        [
            10.0**decade * digit
            for decade in range(math.floor(low), math.ceil(high) + 1)
            for digit in (1, 2, 5)
        ]
    )
    steps = steps[(np.log10(steps) >= low) & (np.log10(steps) <= high)]
    return steps if len(steps) >= 3 else linear_ticks(10.0**low, 10.0**high, count)


def tick_labels(ticks: Sequence[float] | FloatArray) -> list[str]:
    """Labels for evenly spaced ticks, all with the same suffix and as many decimals as tell them apart: 0, 50k, 100k."""
    if len(ticks) == 0:
        return []
    greatest = max(abs(float(tick)) for tick in ticks)
    scale, suffix = _si_scale(greatest)
    step = abs(float(ticks[1] - ticks[0])) if len(ticks) > 1 else greatest
    decimals = max(0, -math.floor(math.log10(step / scale) + 1e-9)) if step else 0
    return [
        "0" if abs(tick) < 1e-9 * greatest or tick == 0 else f"{tick / scale:.{decimals}f}{suffix}"
        for tick in ticks
    ]


def compact(value: float) -> str:
    """Four significant digits and a suffix: 2.743, 63.8k, 3.12M, 3e-4, 6.6e19; nan stays nan."""
    if not math.isfinite(value):
        return str(value)
    scale, suffix = _si_scale(abs(value))
    digits = f"{value / scale:.4g}"
    return f"{digits}{suffix}"


def duration(seconds: float) -> str:
    """The two leading units, and no zeros: 45s, 12m, 1h30m, 2d6h. Below a second as a plain number of seconds."""
    if seconds == 0:
        return "0"
    if abs(seconds) < 1:
        return f"{seconds:.3g}s"
    sign, left = ("-" if seconds < 0 else ""), round(abs(seconds))
    parts: list[tuple[int, str]] = []
    for unit, size in reversed(SECONDS.items()):
        count, left = divmod(left, size)
        if count or parts:
            parts.append((count, unit))
    return sign + "".join(f"{count}{unit}" for count, unit in parts[:2] if count)


def _si_scale(magnitude: float) -> tuple[float, str]:
    if 0 < magnitude < 1e-3 or magnitude >= SI_END:
        exponent = math.floor(math.log10(magnitude) + 1e-9)
        return 10.0**exponent, f"e{exponent}"
    for scale, suffix in SI_SUFFIXES:
        if magnitude >= scale:
            return scale, suffix
    return 1.0, ""


def _nice_step(wished: float) -> float:
    """The nearest of 1, 2 or 5 times a power of ten, nearest as a ratio."""
    power = 10.0 ** math.floor(math.log10(wished))
    return power * min((1, 2, 5, 10), key=lambda step: abs(math.log(step * power / wished)))


def _multiples(low: float, high: float, step: float) -> FloatArray:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return np.arange(first, last + 1, dtype=np.float64) * step
