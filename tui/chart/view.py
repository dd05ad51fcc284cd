"""What the reader has asked to see, apart from the data: a frozen value, and each key press gives the next one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tui.chart.axis import Span

ZOOM_IN, ZOOM_OUT = 0.7, 1 / 0.7
PAN_SHARE = 0.25
Y_PAN_SHARE = 0.1
FOLLOW_SHARE = 0.1
"""The part of the history that "follow" shows when everything was on screen before."""
SMOOTHING_DECAYS = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""The stops of the smoothing dial: decay of the exponential mean, 0 for none."""
USUAL_SMOOTHING = SMOOTHING_DECAYS[4]
SMOOTHED_SHARE = 1 / 40


def smoothing_of(total_steps: int | None) -> float:
    """The decay for a run of so many steps: over a fortieth of it at most, so that a short one's mean does not trail behind."""
    if total_steps is None:
        return USUAL_SMOOTHING
    mildest, *stronger = SMOOTHING_DECAYS[1:]
    fitting = [decay for decay in stronger if 1 / (1 - decay) <= total_steps * SMOOTHED_SHARE]
    return min(max(fitting, default=mildest), USUAL_SMOOTHING)


@dataclass(frozen=True)
class Bounds:
    """The axis ends that a chart was drawn with, in axis units (log10 of the value on a log axis)."""

    x: Span
    y: Span

    @property
    def x_span(self) -> float:
        return self.x[1] - self.x[0]


@dataclass(frozen=True)
class View:
    """Everything along x is in axis units."""

    x_span: float | None = None
    """Width of the window; None shows everything."""
    x_end: float | None = None
    """Right end of a window that stands still; None follows the newest point."""
    y: Span | None = None
    """The y axis as the reader set it; None fits what is in sight."""
    log_x: bool = False
    log_y: bool = False
    clip: bool = False
    """Scale y to the 1st..99th percentile of the points in sight, and cut off what lies outside."""
    smoothing: float = USUAL_SMOOTHING
    shows_marks: bool = True
    cursor: float | None = None
    """Where the crosshair stands, in x; None hides it."""
    anchor: float | None = None
    """A second crosshair that stays: values are then read as differences from there."""

    def zoomed(self, factor: float, seen: Bounds, data: Span) -> View:
        """Scale the window: about the crosshair, else about the tail while following, else about the middle."""
        start, end = self._window(seen)
        span = (end - start) * factor
        if span >= data[1] - data[0]:
            return self.fitted()
        if self.cursor is not None:
            return replace(self, x_span=span, x_end=self.cursor + (end - self.cursor) * factor)
        if self.x_end is None:
            return replace(self, x_span=span)
        return replace(self, x_span=span, x_end=(start + end + span) / 2)

    def _window(self, seen: Bounds) -> Span:
        """What the next drawing shows along x: keys may come faster than drawings."""
        end = seen.x[1] if self.x_end is None else self.x_end
        return (seen.x[0] if self.x_span is None else end - self.x_span), end

    def panned(self, share: float, seen: Bounds, data: Span) -> View:
        """Move the window by a share of itself, no further than the data; at the tail it follows again."""
        start, end = self._window(seen)
        span = end - start
        end += share * span
        if end > data[1]:
            return replace(self, x_end=None)
        return replace(self, x_span=span, x_end=max(end, data[0] + span))

    def following(self, data: Span) -> View:
        """A window at the newest points, as wide as the one in use."""
        span = self.x_span or FOLLOW_SHARE * (data[1] - data[0]) or None
        return replace(self, x_span=span, x_end=None)

    def with_log_x_toggled(self) -> View:
        """A window and a crosshair do not survive the change of scale."""
        return replace(self.fitted(), log_x=not self.log_x, cursor=None, anchor=None)

    def with_y_zoomed(self, factor: float, seen: Bounds) -> View:
        """Scale the y axis about its middle."""
        low, high = self.y or seen.y
        middle, reach = (low + high) / 2, (high - low) / 2 * factor
        return replace(self, y=(middle - reach, middle + reach))

    def with_y_panned(self, share: float, seen: Bounds) -> View:
        """Move the y axis up by a share of itself."""
        low, high = self.y or seen.y
        distance = share * (high - low)
        return replace(self, y=(low + distance, high + distance))

    def with_anchor_toggled(self) -> View:
        """Set the anchor where the crosshair is, or take it away."""
        return replace(self, anchor=self.cursor if self.anchor is None else None)

    def fitted(self) -> View:
        return replace(self, x_span=None, x_end=None, y=None)

    def smoothed(self, stops: int) -> View:
        """Turn the smoothing dial by `stops`, as far as it goes."""
        at = SMOOTHING_DECAYS.index(self.smoothing) + stops
        return replace(self, smoothing=SMOOTHING_DECAYS[min(max(at, 0), len(SMOOTHING_DECAYS) - 1)])

    def cursor_moved(self, distance: float, seen: Bounds, data: Span) -> float:
        """Where the crosshair would be, within what is seen and known; it first appears at the newest point in sight."""
        left, right = max(seen.x[0], data[0]), min(seen.x[1], data[1])
        return right if self.cursor is None else min(max(self.cursor + distance, left), right)
