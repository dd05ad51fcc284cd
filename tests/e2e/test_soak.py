"""A cockpit under more events than a run reports: half a minute's worth of a thousand a second, as fast as they can be written.
`python -m tests.bench.soak` does the same for as long as one likes, at their pace, and measures lateness and memory."""

from pathlib import Path

import pytest

from tests.bench.soak import watching
from tests.bench.soak_programs import emitting
from tui.run_state import STEP_METRICS
from tui.store import STORED_AXES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BURST = 5000
BURSTS = 5
ROW_BYTES = 8 * (len(STEP_METRICS) + len(STORED_AXES))
ELSE_BYTES = 12e6
"""Of whatever else: the screen itself, what is drawn, the newest lines of the log. Records that were kept would take 27 MB."""


def test_no_event_of_a_flood_is_lost_and_memory_grows_by_its_columns_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with (
        emitting("flooded", 2 * BURSTS * BURST) as emitter,
        watching("flooded", emitter.emitted_at, traced=True) as watcher,
    ):
        emitter.emit(BURST)
        watcher.catch_up(emitter.step)
        for _ in range(BURSTS):
            emitter.emit(BURST)
            watcher.take(0.01)
        watcher.catch_up(emitter.step)
        had = watcher.leave()
    assert had.breaks == 0, "each follows the one before it"
    assert had.cursors["train"] == emitter.last_seq
    assert (had.step, had.rows) == (emitter.step, emitter.step)
    # what lives, not the size of the process: a heap that is not given back differs by 20 MB from one flood to the next
    assert had.alive_bytes is not None
    assert had.alive_bytes < 2 * ROW_BYTES * emitter.step + ELSE_BYTES
    slowest = max(watcher.ages())
    print(
        f"{emitter.step} steps in {len(watcher.frames)} frames; the oldest showed {slowest:.1f} s ago; {had.alive_bytes:,} bytes alive"
    )
