"""The columns behind the charts: they must say exactly what was reported, through growth, smoothing and rollback."""

import math

import numpy as np
import pytest

from tui.store import X_AXES, Column, Ema, FloatArray, RunHistory


def ema_by_plain_loop(values: FloatArray, decay: float) -> list[float]:
    total, weight, smoothed = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            total = decay * total + (1 - decay) * value
            weight = decay * weight + (1 - decay)
            smoothed.append(total / weight)
        else:
            smoothed.append(math.nan)
    return smoothed


def history_of(losses: list[float], first_step: int = 0) -> RunHistory:
    history = RunHistory()
    for step, loss in enumerate(losses, first_step):
        history.append("step", step=step, seconds=2.0 * step, tokens=512 * step, values={"loss_nats": loss})
    return history


def test_column_keeps_every_value_through_many_doublings() -> None:
    column = Column()
    for value in range(1000):
        column.append(value)
    column.extend(range(1000, 5000))
    assert np.array_equal(column.values, np.arange(5000.0))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_ema_in_blocks_equals_a_plain_loop_whatever_the_pieces(decay: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 1.0, 3000)
    values[rng.integers(0, 3000, 100)] = np.nan
    pieces = np.split(values, [1, 2, 3, 64, 128, 129, 700, 2000])
    ema = Ema(decay)
    smoothed = np.concatenate([ema.extend(piece) for piece in pieces])
    np.testing.assert_allclose(smoothed, ema_by_plain_loop(values, decay), rtol=1e-12)


def test_smoothing_follows_the_rows_added_since_the_last_look() -> None:
    history = history_of([4.0, 3.0])
    history.curve("loss_nats", decay=0.9)
    history.append("step", step=2, seconds=4, tokens=1024, values={"loss_nats": 2.0})
    curve = history.curve("loss_nats", decay=0.9)
    assert curve is not None
    assert curve.smooth is not None
    np.testing.assert_allclose(curve.smooth, ema_by_plain_loop(np.array([4.0, 3.0, 2.0]), 0.9))


def test_rows_without_a_finite_value_are_gaps() -> None:
    history = history_of([4.0, math.inf, math.nan])
    history.append("step", step=3, seconds=6, tokens=1536, values={"loss_nats": None})
    history.append("step", step=4, seconds=8, tokens=2048, values={"mfu": 0.4})
    loss, mfu = history.curve("loss_nats"), history.curve("mfu")
    assert loss is not None
    assert mfu is not None
    assert np.array_equal(loss.y, [4.0, np.nan, np.nan, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(mfu.y, [np.nan, np.nan, np.nan, np.nan, 0.4], equal_nan=True)


def test_the_same_rows_can_be_drawn_over_steps_seconds_tokens_or_flops() -> None:
    history = history_of([4.0, 3.0, 2.0])
    history.flops_per_token = 1e6
    seen = [history.curve("loss_nats", axis) for axis in X_AXES]
    assert [list(curve.x) for curve in seen if curve] == [
        [0, 1, 2],
        [0, 2, 4],
        [0, 512, 1024],
        [0, 512e6, 1024e6],
    ]


def test_rollback_cuts_every_stream_and_keeps_the_branch_as_a_ghost() -> None:
    history = history_of([5.0, 4.0, 3.0, 2.0])
    history.append("eval", step=1, seconds=2, tokens=512, values={"val_bpb": 1.1})
    history.append("eval", step=3, seconds=6, tokens=1536, values={"val_bpb": 0.9})
    history.truncate(1)
    history.append("step", step=2, seconds=9, tokens=1024, values={"loss_nats": 3.5})

    loss, val = history.curve("loss_nats"), history.curve("val_bpb")
    assert loss is not None
    assert val is not None
    assert list(loss.y) == [5.0, 4.0, 3.5]
    assert list(val.y) == [1.1]
    assert [(list(g.x), list(g.y)) for g in history.ghosts("loss_nats")] == [([2, 3], [3.0, 2.0])]
    assert [(list(g.x), list(g.y)) for g in history.ghosts("val_bpb")] == [([3], [0.9])]


def test_smoothing_after_a_rollback_forgets_the_cut_branch() -> None:
    history = history_of([5.0, 4.0, 90.0])
    history.curve("loss_nats", decay=0.9)
    history.truncate(1)
    curve = history.curve("loss_nats", decay=0.9)
    assert curve is not None
    assert curve.smooth is not None
    np.testing.assert_allclose(curve.smooth, ema_by_plain_loop(np.array([5.0, 4.0]), 0.9))


def test_a_step_that_goes_back_is_a_rollback_even_if_nobody_announced_it() -> None:
    history = history_of([5.0, 4.0, 3.0])
    history.append("step", step=1, seconds=9, tokens=512, values={"loss_nats": 4.4})
    curve = history.curve("loss_nats")
    assert curve is not None
    assert list(curve.x) == [0, 1]
    assert list(curve.y) == [5.0, 4.4]
    assert [list(ghost.y) for ghost in history.ghosts("loss_nats")] == [[4.0, 3.0]]


def test_a_snapshot_and_single_rows_make_one_history() -> None:
    history = RunHistory()
    history.extend("step", step=[0, 1], seconds=[0, 2], tokens=[0, 512], values={"loss_nats": [5.0, np.inf]})
    history.append("step", step=2, seconds=4, tokens=1024, values={"loss_nats": 3.0})
    curve = history.curve("loss_nats")
    assert curve is not None
    assert np.array_equal(curve.y, [5.0, np.nan, 3.0], equal_nan=True)


def test_one_metric_cannot_come_from_two_kinds_of_event() -> None:
    history = history_of([5.0])
    with pytest.raises(ValueError, match="already reported by another kind"):
        history.append("eval", step=1, seconds=2, tokens=512, values={"loss_nats": 1.0})


def watched_for_long(losses: FloatArray, whole_rows: int, *, at_once: int = 50) -> RunHistory:
    history = RunHistory(whole_rows)
    for first in range(0, len(losses), at_once):
        values = losses[first : first + at_once]
        steps = np.arange(first, first + len(values))
        history.extend("step", step=steps, seconds=steps, tokens=steps, values={"loss_nats": values})
        history.curve("loss_nats", decay=0.9)
    return history


def test_who_watches_for_long_keeps_the_newest_rows_whole_and_of_older_ones_two_in_sixty_four() -> None:
    losses = np.random.default_rng(0).normal(3.0, 1.0, 20_000)
    losses[7_777] = 90.0
    losses[[64, 65, 9_000]] = np.nan
    curve = watched_for_long(losses, 1000).curve("loss_nats", decay=0.9)
    assert curve is not None
    assert curve.smooth is not None
    assert len(curve.x) < 1000 * 1.2 + 2 * 20_000 / 64, "it grows by what is kept of old rows"
    assert curve.x[-1000:].tolist() == list(range(19_000, 20_000))
    assert (np.diff(curve.x) > 0).all()
    assert np.array_equal(curve.y, losses[curve.x.astype(int)], equal_nan=True), "rows stay what they were"
    assert 7_777 in curve.x, "no spike is lost"
    whole = np.array(ema_by_plain_loop(losses, 0.9))
    np.testing.assert_allclose(curve.smooth, whole[curve.x.astype(int)], rtol=1e-9)


def test_however_long_a_run_is_its_columns_grow_no_more() -> None:
    losses = np.random.default_rng(0).normal(3.0, 1.0, 600_000)
    losses[7_777] = 90.0
    reserved = watched_for_long(losses[:200_000], 10_000, at_once=500).reserved_bytes
    history = watched_for_long(losses, 10_000, at_once=500)
    curve = history.curve("loss_nats")
    assert curve is not None
    assert history.reserved_bytes == reserved
    assert len(curve.x) <= 10_000 * (1 + 1 / 8 + 1 / 2) + 500
    assert curve.x[-10_000:].tolist() == list(range(590_000, 600_000))
    assert np.diff(curve.x).max() < 1000, "old rows are left all along, the first as close as the last"
    assert np.array_equal(curve.y, losses[curve.x.astype(int)])
    assert 7_777 in curve.x, "no spike is lost"


def test_a_rollback_into_what_was_thinned_goes_on_from_there() -> None:
    history = watched_for_long(np.full(5000, 3.0), 500)
    history.truncate(999)
    for first in range(1000, 9000, 100):
        steps = np.arange(first, first + 100)
        history.extend("step", step=steps, seconds=steps, tokens=steps, values={"loss_nats": steps / 1000})
    curve = history.curve("loss_nats")
    assert curve is not None
    assert (np.diff(curve.x) > 0).all()
    assert curve.x[-500:].tolist() == list(range(8500, 9000))
    assert np.array_equal(curve.y[curve.x >= 1000], curve.x[curve.x >= 1000] / 1000)
    assert len(curve.x) < 1000
    assert history.ghosts("loss_nats")[0].x[-1] == 4999


def test_who_does_not_say_how_many_rows_are_kept_whole_keeps_every_row() -> None:
    curve = history_of([3.0] * 3000).curve("loss_nats")
    assert curve is not None
    assert len(curve.x) == 3000
