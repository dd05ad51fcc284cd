"""`python -m tests.tui.cockpit_pictures RUN` draws the pictures of docs/ anew from a run of one's own: from what the cockpit shows of
it, so that they show no more than there is."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.screen import Screen

from trainer_daemon.contract.rundir import find_run
from tui.app import Cockpit
from tui.screens.cockpit import CockpitScreen

FOLDER = Path(__file__).parents[2] / "docs"
SIZE = (120, 36)
LONGEST_SECONDS = 120.0
PICTURES: dict[str, tuple[tuple[str, ...], str]] = {
    "cockpit": (("1",), "loss nats"),
    "cockpit-checkpoints": (("3",), "val bpb"),
    "cockpit-new-run": (("n",), "hardware"),
}
"""By name of the file: the keys that lead there, and words that are there when it is drawn."""


async def draw(name: str) -> None:
    """All pictures of this run."""
    for file, (keys, words) in PICTURES.items():
        async with Cockpit(find_run(name)).run_test(size=SIZE) as pilot:
            await _until(pilot, lambda: _is_settled(pilot.app.screen))
            await pilot.press(*keys)
            await _until(pilot, lambda words=words: words in _shown(pilot.app.screen))  # type: ignore[misc]
            await pilot.pause(0.5)
            picture = pilot.app.export_screenshot(title=f"llmctl attach {name}")
        (FOLDER / f"{file}.svg").write_text(picture)


def _is_settled(screen: Screen[object]) -> bool:
    return isinstance(screen, CockpitScreen) and screen.is_settled


def _shown(screen: Screen[object]) -> str:
    return "\n".join(strip.text for strip in screen._compositor.render_strips())


async def _until(pilot: Pilot[None], is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(_shown(pilot.app.screen))
        await pilot.pause(0.05)


if __name__ == "__main__":
    asyncio.run(draw(sys.argv[1]))
