import numpy as np
import pytest

from trainer_daemon.engine.data.batches import rank_rows
from trainer_daemon.engine.data.order import RowOrder


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 16, 17, 255, 256, 257, 1000, 65_537])
def test_an_epoch_visits_every_row_once(n: int) -> None:
    order = RowOrder(n, seed=42)
    for epoch in range(3):
        assert sorted(order.rows(epoch * n, n).tolist()) == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [RowOrder(500, seed).rows(epoch * 500, 500).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_does_not_depend_on_where_reading_begins() -> None:
    order = RowOrder(97, seed=7)
    whole = order.rows(0, 1000)
    for first, count in [(0, 1), (96, 2), (13, 400), (999, 1), (500, 0)]:
        np.testing.assert_array_equal(order.rows(first, count), whole[first : first + count])


def test_the_order_never_changes_between_versions() -> None:
    # a stored run resumes by it
    assert RowOrder(10, seed=42).rows(0, 10).tolist() == [2, 5, 9, 3, 1, 6, 7, 0, 8, 4]


def test_neighbours_are_far_apart() -> None:
    rows = RowOrder(100_000, seed=3).rows(0, 100_000).astype(np.float64)
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.01


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_the_global_batch_is_the_same_for_any_number_of_ranks(world_size: int) -> None:
    """Over 200 steps, which are 47 epochs and a part."""
    order = RowOrder(101, seed=1)
    for step in range(200):
        parts = [
            rank_rows(order, step * 24, global_rows=24, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), order.rows(step * 24, 24))


def test_a_run_that_goes_on_with_another_batch_size_skips_and_repeats_nothing() -> None:
    order = RowOrder(60, seed=5)
    seen: list[int] = []
    for global_rows, world_size in [(8, 2), (8, 2), (12, 3), (4, 1), (28, 4)]:
        at = len(seen)
        for rank in range(world_size):
            seen += rank_rows(order, at, global_rows=global_rows, rank=rank, world_size=world_size).tolist()
    assert sorted(seen) == list(range(60))
