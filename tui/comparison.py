"""How runs compare: who got how far for how much compute. Pure functions of what is known of each run."""

from dataclasses import dataclass

import numpy as np

from tui.run_state import RunState
from tui.store import FloatArray


@dataclass(frozen=True)
class Comparison:
    """One run beside the reference."""

    name: str
    state: str
    step: int
    tokens: int
    flops: float | None
    """Spent on training so far, by the plan's FLOPs per token; None before the plan is known."""
    loss_nats: float | None
    """Of training, smoothed."""
    min_val_bpb: float | None
    best_step: int | None
    compute_multiplier: float | None
    """FLOPs that the reference needed to reach the best val_bpb that both have reached, over what this run needed: 1.3 means
    that this run gets there with 1.3 times less compute. None without such a point."""


def compare(run: RunState, reference: RunState) -> Comparison:
    flops_per_token = run.plan.flops_per_token if run.plan else None
    return Comparison(
        name=run.status.name,
        state=run.status.state,
        step=run.status.step,
        tokens=run.status.tokens,
        flops=None if flops_per_token is None else flops_per_token * float(run.status.tokens),
        loss_nats=run.smooth_loss_nats,
        min_val_bpb=run.status.min_val_bpb,
        best_step=run.best_step,
        compute_multiplier=compute_multiplier(run, reference),
    )


def compute_multiplier(run: RunState, reference: RunState) -> float | None:
    """See `Comparison.compute_multiplier`."""
    curves = [state.history.curve("val_bpb", "flops") for state in (run, reference)]
    if any(curve is None or not np.isfinite(curve.y).any() for curve in curves):
        return None
    known = [(curve.x, curve.y) for curve in curves if curve is not None]
    target = max(float(np.nanmin(y)) for _, y in known)
    ours, theirs = (first_reached(x, y, target) for x, y in known)
    return theirs / ours if ours > 0 else None


def first_reached(x: FloatArray, y: FloatArray, target: float) -> float:
    """Where the line through (x, y) first comes down to `target`, which some y reaches."""
    is_finite = np.isfinite(y)
    x, y = x[is_finite], y[is_finite]
    at = int(np.argmax(y <= target))
    if at == 0:
        return float(x[0])
    share = (y[at - 1] - target) / (y[at - 1] - y[at])
    return float(x[at - 1] + share * (x[at] - x[at - 1]))
