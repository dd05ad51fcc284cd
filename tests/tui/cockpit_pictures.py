"""`python -m tests.tui.cockpit_pictures RUN OTHER TROUBLED` draws the pictures of docs/ anew from runs of one's own: from what the
cockpit shows of them, so that they show no more than there is. RUN may be in training or over, its spec is compared with that of
OTHER, and TROUBLED has an alert. Those in docs/ are of these, and the list of runs of a few more:

    llmctl run --preset stories --name fox --nproc 2 --set train.micro_batch_size=16 --set train.num_iterations=160
    llmctl run --preset stories --name hare --set optim.matrix_lr=0.04 --set train.num_iterations=80 --set tag=low-lr
    llmctl fork fox@160 --name wren --set train.num_iterations=240 --set schedule.learning_rate_factor=0.1 --detach
    llmctl set wren schedule.learning_rate_factor=100        # some forty steps later: what is usual has to be known by then
    llmctl run --preset stories --name owl --nproc 2 --set train.micro_batch_size=16 --set runtime.threads_per_rank=1 --detach
    llmctl set owl eval.every=20
    llmctl set owl schedule.learning_rate_factor=0.5
    python -m tests.tui.cockpit_pictures owl hare wren       # while owl trains
"""

import asyncio
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import textual.constants
from textual.pilot import Pilot
from textual.screen import Screen

from trainer_daemon.contract.rundir import all_runs, find_run
from tui.app import Cockpit
from tui.screens.cockpit import CockpitScreen

FOLDER = Path(__file__).parents[2] / "docs"
SIZE = (120, 40)
LONGEST_SECONDS = 120.0


class Press(NamedTuple):
    """A key, and words that are there once it has done what it does."""

    key: str
    words: str


PICTURES = {
    "cockpit": [Press("1", "loss nats")],
    "cockpit-samples": [Press("2", "temperature")],
    "cockpit-checkpoints": [Press("3", "val bpb")],
    "cockpit-system": [Press("6", "before waiting")],
    "cockpit-new-run": [Press("n", "hardware")],
}
"""By name of the file: the keys that lead there, whatever runs there are."""
PICTURES_OF_TROUBLE = {"cockpit-alerts": [Press("8", "usual")]}


async def draw(name: str, pictures: dict[str, list[Press]]) -> None:
    """These pictures of this run."""
    for file, presses in pictures.items():
        async with Cockpit(find_run(name)).run_test(size=SIZE) as pilot:
            await _until(pilot, lambda: _is_settled(pilot.app.screen))
            for key, words in presses:
                await pilot.press(key)
                await _until(pilot, lambda words=words: words in _shown(pilot.app.screen))  # type: ignore[misc]
            await pilot.pause(0.5)
            picture = pilot.app.export_screenshot(title=f"llmctl attach {name}", simplify=True)
        (FOLDER / f"{file}.svg").write_text(lighter(picture))


def lighter(picture: str) -> str:
    """The same picture in half the bytes: Textual names each element after a random number, clips each row by itself, gives each
    run of letters a ground of its own, and writes out blanks that show nothing."""
    picture = re.sub(r"terminal-\d+", "t", picture)
    picture = re.sub(r'<clipPath id="t-line-\d+">.*?</clipPath>\s*', "", picture, flags=re.DOTALL)
    picture = re.sub(r' clip-path="url\(#t-line-\d+\)"', "", picture)
    picture = re.sub(rf"(?:{GROUND})+", _joined, picture)
    underlined = set(re.findall(r"\.(t-r\d+) \{[^}]*underline", picture))

    def kept(text: re.Match[str]) -> str:
        shows_nothing = not text[2].replace("&#160;", "") and text[1] not in underlined
        return "" if shows_nothing else text[0]

    picture = re.sub(r'<text class="(t-r\d+)"[^>]*>([^<]*)</text>', kept, picture)
    return picture.replace("&#160;", "\N{NO-BREAK SPACE}")


GROUND = r'<rect fill="[^"]+" x="[^"]+" y="[^"]+" width="[^"]+" height="[^"]+" shape-rendering="crispEdges"/>'


def _joined(grounds: re.Match[str]) -> str:
    """Of a row of grounds, those that touch and look the same as one."""
    rows: list[list[str]] = []
    for colour, x, y, width, height in re.findall(
        GROUND.replace("[^", "([^").replace("]+", "]+)"), grounds[0]
    ):
        end = float(rows[-1][1]) + float(rows[-1][3]) if rows else math.nan
        if math.isclose(end, float(x), abs_tol=0.05) and rows[-1][::2] == [colour, y, height]:
            rows[-1][3] = f"{float(x) + float(width) - float(rows[-1][1]):g}"
        else:
            rows.append([colour, x, y, width, height])
    return "".join(
        f'<rect fill="{colour}" x="{x}" y="{y}" width="{width}" height="{height}" shape-rendering="crispEdges"/>'
        for colour, x, y, width, height in rows
    )


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


def _overlaid(others: Sequence[str]) -> list[Press]:
    """The keys that mark these in the list of runs, the newest first, and lay them over the one that is open."""
    presses, at = [Press("5", "heard")], 0
    places = [place for place, run in enumerate(reversed(all_runs())) if run.name in others]
    for number, place in enumerate(places, start=1):
        presses += [*[Press("down", "heard")] * (place - at), Press("space", f"{number} marked")]
        at = place + 1  # a mark moves the cursor on
    return [*presses, Press("o", f"{others[0]} ━")]


def _compared_with(other: str, name: str) -> list[Press]:
    """The keys that choose `other` in the list, the newest first, of what the spec of `name` can be compared with."""
    others = [run.name for run in reversed(all_runs()) if run.name != name]
    return [
        Press("7", "not as in"),
        Press("v", "Compare with"),
        *[Press("j", "Compare with")] * others.index(other),
        Press("enter", f"not as in {other}"),
        Press("d", "only these"),
        *[Press("j", "key")] * 2,
    ]


async def _draw_all(name: str, other: str, troubled: str) -> None:
    await draw(name, PICTURES)
    await draw(
        name, {"cockpit-runs": _overlaid([other, troubled]), "cockpit-spec": _compared_with(other, name)}
    )
    await draw(troubled, PICTURES_OF_TROUBLE)


if __name__ == "__main__":
    # else it would be what the terminal has that this runs in
    textual.constants.COLOR_SYSTEM = "truecolor"  # type: ignore[misc]  # Final for programs, not for their pictures
    asyncio.run(_draw_all(*sys.argv[1:]))
