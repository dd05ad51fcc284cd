from trainer_daemon.engine.pace import WINDOW_STEPS, Pace
from trainer_daemon.engine.replicas import describe_difference

USUAL = [0.001, 0.1]


def test_a_rank_that_is_thirty_per_cent_slower_is_told_after_three_windows_and_once() -> None:
    """Fault 55, its arithmetic: also among two ranks, where the median of all would lie between them."""
    for ranks in (2, 8):
        pace = Pace()
        slow = [USUAL] * (ranks - 1) + [[0.001, 0.13]]
        told = [pace.compare(slow) for _ in range(5)]
        assert [len(t) for t in told] == [0, 0, 1, 0, 0]
        assert f"rank {ranks - 1} is 30% slower" in told[2][0]
        assert "most of it in computing" in told[2][0]


def test_a_slow_disk_is_told_from_a_slow_device() -> None:
    pace = Pace()
    (told,) = [t for _ in range(3) for t in pace.compare([USUAL, [0.05, 0.1], USUAL])]
    assert told.startswith("rank 1")
    assert "reading rows" in told


def test_noise_and_what_passes_are_not_told() -> None:
    pace = Pace()
    windows = [[USUAL, [0.001, 0.13]], [USUAL, [0.001, 0.13]], [USUAL, [0.001, 0.11]]] * 4
    assert [t for window in windows for t in pace.compare(window)] == []
    tiny = [[0.0001, 0.001], [0.0001, 0.0015]]
    assert [t for _ in range(9) for t in pace.compare(tiny)] == []


def test_a_window_is_fifty_steps_and_begins_anew() -> None:
    pace = Pace()
    for _ in range(WINDOW_STEPS - 1):
        pace.note(0.001, 0.1)
    assert not pace.window_is_full()
    pace.note(5.0, 9.0)
    assert pace.window_is_full()
    assert pace.take_medians() == (0.001, 0.1)
    assert not pace.window_is_full()


def test_a_replica_that_differs_is_named_when_there_is_a_majority() -> None:
    names = ["wte", "lm_head"]
    assert describe_difference(names, [[1.0, 2.0]] * 3) is None
    assert describe_difference(names, [[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]]) == (
        "rank 2 differs from the others in 1 of 2 parameters, the first is lm_head"
    )
    assert describe_difference(names, [[1.0, 2.0], [0.0, 3.0]]) == (
        "ranks 0, 1 differ in 2 of 2 parameters, the first is wte"
    )
