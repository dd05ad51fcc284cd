"""The view of ranks and devices: its lines without a terminal, and the view itself on real journals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from textual.containers import VerticalScroll

from tests.tui.test_cockpit import LARGE, MIDDLE, SMALL, opened, shown, until, words
from trainer_daemon.contract.events import AttemptStarted, DeviceUse, RanksPaced, RankUse, SystemSampled
from tui.app import Cockpit
from tui.chart.palette import DARK
from tui.chart.symbols import ASCII, BRAILLE
from tui.system_view import heat_strip

if TYPE_CHECKING:
    from tests.tui.conftest import Runs, WrittenRun


def rank_use(rank: int, **other: Any) -> RankUse:
    known = {"rank": rank, "pid": 4000 + rank, "cores": 0.9, "memory_bytes": 2_100_000_000, "device": None}
    return cast("RankUse", {**known, **other})


def gpu(index: int, **other: Any) -> DeviceUse:
    known = {
        "index": index, "name": "NVIDIA H100 80GB HBM3", "utilisation": 0.98, "memory_bytes": 61_200_000_000,
        "memory_total_bytes": 85_520_809_984, "power_watts": 612.3, "power_limit_watts": 700.0,
        "temperature_celsius": 64.0, "is_slowed_by_heat": False,
    }  # fmt: skip
    return cast("DeviceUse", {**known, **other})


def look(ranks: list[RankUse], devices: list[DeviceUse] | None = None) -> SystemSampled:
    return SystemSampled(1.9, 2, 2.4, 5_100_000_000, 8_200_000_000, ranks, devices or [])


def straggling(runs: Runs, ranks: int = 4) -> WrittenRun:
    """Rank 2 is a third slower in the second half."""
    written = runs.create("fox", 400)
    written.begin()
    written.tell("train", AttemptStarted(1, ranks, "cuda", "NVIDIA H100", "bf16", 1, "2.13.0"))
    written.train(1, 400)
    for window in range(1, 9):
        own = [0.61 + 0.002 * rank for rank in range(ranks)]
        if window > 4:
            own[2] *= 1.34
        written.tell("train", RanksPaced(50 * window, 50, [0.01] * ranks, own))
    return written


def row_of(text: str, first: str) -> str:
    """Of the table of ranks; blank while it is not there."""
    table = [row.strip() for row in text.partition("\n  ranks")[2].splitlines()]
    return next((row for row in table if row.startswith(f"{first} ")), "")


def test_a_strip_is_taller_where_it_is_slower_and_blank_where_nothing_is_known() -> None:
    ratios = np.array([1.0, 1.06, 1.2, 1.6, np.nan, 0.9])
    assert heat_strip(ratios, 12, DARK, BRAILLE).plain == "▁▁▃▃▅▅██  ▁▁"
    assert heat_strip(ratios, 6, DARK, ASCII).plain == ".:o# ."
    long = np.ones(1000)
    long[503] = 1.7
    assert heat_strip(long, 10, DARK, BRAILLE).plain == "▁▁▁▁▁█▁▁▁▁", "one slow window in a hundred is seen"


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
async def test_a_straggler_stands_out_at_every_size(runs: Runs, size: tuple[int, int]) -> None:
    written = straggling(runs)
    written.tell(
        "system", look([rank_use(rank, device=rank) for rank in range(4)], [gpu(rank) for rank in range(4)])
    )
    written.end()
    async with Cockpit(written.run).run_test(size=size) as pilot:
        screen = await opened(pilot)
        await pilot.press("6")
        await until(pilot, lambda: shown(screen) == "system")
        await until(pilot, lambda: "forward/backward" in words(screen))
        assert "optimizer 24 %" in words(screen)
        await until(pilot, lambda: "▁▁▁▅▅▅" in words(screen))
        strips = [row for row in words(screen).splitlines() if "▁▁▁▁" in row]
        assert ["▅" in row for row in strips] == ["rank 2" in row for row in strips]
        assert isinstance(screen.focused, VerticalScroll), "the keys scroll what does not fit"
        screen.focused.scroll_end(animate=False)
        await until(pilot, lambda: "+34 %" in words(screen))


async def test_what_is_not_known_of_a_rank_is_a_dash(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 20)
    written.tell("system", look([rank_use(0, cores=None), rank_use(1, memory_bytes=None)]))
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press("6")
        await until(pilot, lambda: "4000" in words(screen))
        assert row_of(words(screen), "0").split()[:6] == ["0", "–", "–", "–", "2.1", "GB"]
        assert row_of(words(screen), "1").split()[:5] == ["1", "–", "–", "0.9", "–"]
        assert "util" not in words(screen), "a run on a CPU has no columns of devices"
        assert "memory 5.1 GB of 8.2 GB" in words(screen)
        written.tell("system", look([rank_use(0, cores=1.7, memory_bytes=None), rank_use(1)]))
        await until(pilot, lambda: "1.7" in row_of(words(screen), "0"))


async def test_a_device_that_is_hot_or_of_others_is_told(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 20)
    devices = [
        gpu(0, temperature_celsius=88.0, is_slowed_by_heat=True),
        gpu(1, power_watts=None, utilisation=None),
    ]
    written.tell("system", look([rank_use(0, device=0), rank_use(1)], devices))
    async with Cockpit(written.run).run_test(size=LARGE) as pilot:
        screen = await opened(pilot)
        await pilot.press("6")
        await until(pilot, lambda: "slowed" in words(screen))
        assert "612/700 W" in row_of(words(screen), "0")
        assert "88 °C slowed" in row_of(words(screen), "0")
        assert row_of(words(screen), "–").split()[3:5] == ["–", "–"], "neither utilisation nor power"


async def test_before_anything_is_told_there_are_dashes_and_no_mistake(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    async with Cockpit(written.run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press("6")
        await until(pilot, lambda: "no step has told yet" in words(screen))
        assert "MFU –" in words(screen)


async def test_a_name_of_a_device_cannot_disturb_the_screen(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 5)
    written.tell("system", look([rank_use(0, device=0)], [gpu(0, name="H100\x1b[2J\u202e漢字[bold]")]))
    async with Cockpit(written.run).run_test(size=LARGE) as pilot:
        screen = await opened(pilot)
        await pilot.press("6")
        await until(pilot, lambda: "H100漢字[bold]" in words(screen))
        assert all(len(strip.text) <= 200 for strip in screen._compositor.render_strips())
