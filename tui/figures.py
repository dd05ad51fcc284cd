"""The charts of the cockpit: which metric, under what name, in what unit and colour. A table and one pure function."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tui.chart.figure import Figure, Mark, MarkKind, Reference, Series
from tui.chart.view import View, smoothing_of
from tui.ink import GREEN, ORANGE, PINK, SKY, VERMILION, YELLOW
from tui.run_state import Checkpoint, RunState
from tui.store import XAxis


@dataclass(frozen=True)
class ChartSpec:
    name: str
    metric: str
    title: str
    colour: int
    factor: float = 1.0
    """Multiplies values where they are written."""
    is_smoothed: bool = True
    has_floor: bool = False
    """Draws the entropy floor of the data, where it is known."""
    is_optional: bool = False
    """Shown for runs that report the metric, and of no interest for the others."""


CHARTS = (
    ChartSpec("loss", "loss_nats", "loss nats", SKY),
    ChartSpec("val", "val_bpb", "val bpb", ORANGE, is_smoothed=False, has_floor=True),
    ChartSpec("core", "mean_centred", "CORE", PINK, is_smoothed=False, is_optional=True),
    ChartSpec(
        "experts", "busiest_share", "busiest expert %", ORANGE, 100, is_smoothed=False, is_optional=True
    ),
    ChartSpec("idlest", "idlest_share", "idlest expert %", SKY, 100, is_smoothed=False, is_optional=True),
    ChartSpec("throughput", "tokens_per_second", "tokens/s", GREEN),
    ChartSpec("mfu", "mfu", "MFU %", YELLOW, factor=100),
    ChartSpec("gradient", "grad_norm", "gradient norm", PINK),
    ChartSpec("rate", "learning_rate_scale", "learning rate scale", VERMILION, is_smoothed=False),
    ChartSpec("balance", "balance_loss", "balance loss", VERMILION, is_smoothed=False, is_optional=True),
    ChartSpec(
        "router", "router_entropy_nats", "router entropy nats", PINK, is_smoothed=False, is_optional=True
    ),
)
"""In order of interest: a small terminal shows the first ones first."""


def first_view(spec: ChartSpec, total_steps: int | None) -> View:
    """How a chart is first looked at."""
    return View(smoothing=smoothing_of(total_steps) if spec.is_smoothed else 0.0)


def figure(
    state: RunState, spec: ChartSpec, axis: XAxis, decay: float, others: Sequence[RunState] = ()
) -> Figure:
    """What a chart shows now: a run, and behind it the lines of others to compare with.

    Alone, a run has its chart's own colour; among others each run has a colour, the same in all charts. Branches that a
    resume cut off are faded. Marks, floor and the band of raw values are those of the run in sight.
    """
    label, colour = (state.status.name, 0) if others else ("", spec.colour)
    series = _lines(state, spec, axis, decay, label=label, colour=colour)
    for place, other in enumerate(others, start=1):
        if (curve := other.history.curve(spec.metric, axis, decay)) is not None:
            y = curve.y if curve.smooth is None else curve.smooth
            series.append(Series(other.status.name, curve.x, y, colour=place))
    floor = state.status.bits_per_byte_floor
    return Figure(
        spec.title,
        series,
        references=[Reference(floor, "floor")] if spec.has_floor and floor is not None else (),
        marks=_marks(state, axis),
        x_axis=axis,
        factor=spec.factor,
    )


def checkpoints_figure(
    state: RunState, stored: Sequence[Checkpoint], chosen: Checkpoint | None, axis: XAxis, decay: float
) -> Figure:
    """The held-out score, or the loss while there is none, with a mark where each stored checkpoint lies on it."""
    is_scored = state.history.curve("val_bpb", axis) is not None
    spec = next(chart for chart in CHARTS if chart.metric == ("val_bpb" if is_scored else "loss_nats"))
    decay = decay if spec.is_smoothed else 0.0
    lines = _lines(state, spec, axis, decay, label="", colour=spec.colour)
    places = along(state, [checkpoint.step for checkpoint in stored], axis)
    marks = (
        [
            Mark(x, "checkpoint", _height_at(lines[0], x) if lines else None, is_chosen=checkpoint is chosen)
            for x, checkpoint in zip(places, stored, strict=True)
        ]
        if places
        else []
    )
    return Figure(spec.title, lines, marks=marks, x_axis=axis, factor=spec.factor)


def _height_at(series: Series, x: float) -> float | None:
    """The drawn line's height there, between its neighbours if it has no point of its own; None beyond its ends."""
    y = series.y if series.smooth is None else series.smooth
    is_known = np.isfinite(y)
    if not is_known.any() or x > series.x[is_known][-1]:
        return None
    return float(np.interp(x, series.x[is_known], y[is_known]))


def _lines(
    state: RunState, spec: ChartSpec, axis: XAxis, decay: float, *, label: str, colour: int
) -> list[Series]:
    """The living branch, then those that were cut off."""
    curve = state.history.curve(spec.metric, axis, decay)
    living = [] if curve is None else [Series(label, curve.x, curve.y, curve.smooth, colour=colour)]
    ghosts = state.history.ghosts(spec.metric, axis, decay)
    return [
        *living,
        *(Series("", ghost.x, ghost.y, ghost.smooth, colour=colour, is_ghost=True) for ghost in ghosts),
    ]


def happenings(state: RunState) -> dict[MarkKind, list[int]]:
    """The steps at which something happened that charts mark; only kinds of which there are some."""
    rollbacks = [alarm.step for alarm in state.alarms if alarm.name == "rolled_back"]
    every: dict[MarkKind, list[int]] = {
        "checkpoint": [checkpoint.step for checkpoint in state.checkpoints.values()],
        "changed": [change.first_step for change in state.setting_changes],
        "restart": [step for step in state.restart_steps if step not in rollbacks],
        "rollback": rollbacks,
        "skipped": list(state.skipped_steps),
        "spike": [alarm.step for alarm in state.alarms if alarm.name in ("loss_spike", "gradient_spike")],
    }
    return {kind: steps for kind, steps in every.items() if steps}


def _marks(state: RunState, axis: XAxis) -> list[Mark]:
    """What happened, on an axis."""
    places = {kind: tuple(along(state, steps, axis)) for kind, steps in happenings(state).items()}
    return [mark for kind, at in places.items() for mark in _marks_at(kind, at)]


@lru_cache(maxsize=8)
def _marks_at(kind: MarkKind, places: tuple[float, ...]) -> tuple[Mark, ...]:
    """All charts have the same, and the next frame has, too: two thousand made for each cost more than the chart itself."""
    return tuple(Mark(x, kind) for x in places)


def along(state: RunState, steps: Sequence[int], axis: XAxis) -> list[float]:
    """Where steps lie on an axis, by the training steps around them."""
    if axis == "step":
        return [float(step) for step in steps]
    by_step, by_axis = state.history.curve("loss_nats", "step"), state.history.curve("loss_nats", axis)
    if by_step is None or by_axis is None or not len(by_step.x):
        return []
    places: list[float] = np.interp(steps, by_step.x, by_axis.x).tolist()
    return places
