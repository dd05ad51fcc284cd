"""What a screen looks like, as a file: its text, then its styles, kept for each screen and size in tests/tui/screens/.

    make golden                                writes them all anew, after a change that was meant; look at the diff
    python -m tests.tui.golden alerts          those whose name begins so

A picture is a pure function of the run and of the keys that were pressed: see tests/tui/golden_world.py for what is held still.
A check looks until the screen is what the file says, so that a slow machine gives no other result, and gives up only when the
screen has stopped changing.
"""

import asyncio
import difflib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, repeat, zip_longest
from pathlib import Path

from rich.style import Style
from textual._context import visible_screen_stack
from textual.geometry import Region
from textual.pilot import Pilot
from textual.scrollbar import ScrollBar
from textual.widgets import Input

from tui.screens.cockpit import CockpitScreen

FOLDER = Path(__file__).with_name("screens")
COMMAND = "make golden"
PATIENCE_SECONDS = 120.0
STILL_LOOKS, WRITING_LOOKS = 40, 6
"""A screen on which nothing is under way and which is the same for so many looks will not change any more: so many before it is
said to be wrong, so many before it is written."""
LOOK_SECONDS = 0.05
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
STYLES, NAMES = "-- styles", "-- letters"
MOST_ROWS = 24
"""Of each kind that a difference tells."""

SCROLLBAR = "a scrollbar"

Cells = list[str]
"""The style of each cell of a row, in words."""


@dataclass(frozen=True)
class Picture:
    """A screen: rows of text, and of the same rows how each cell looks."""

    text: list[str]
    styles: list[Cells]

    def file_text(self) -> str:
        """Runs of cells of one style, `12a 3b`, and what the letters mean."""
        letters: dict[str, str] = {}
        rows = []
        for cells in self.styles:
            runs = [(style, len(list(same))) for style, same in groupby(cells)]
            for style, _ in runs:
                letters.setdefault(style, _letter(len(letters)))
            rows.append(" ".join(f"{length}{letters[style]}" for style, length in runs))
        named = [f"{letter} {style}" for style, letter in letters.items()]
        return "\n".join([*self.text, STYLES, *rows, NAMES, *named]) + "\n"

    @classmethod
    def of_file(cls, text: str) -> "Picture":
        lines = text.splitlines()
        styles_at, names_at = lines.index(STYLES), lines.index(NAMES)
        names = dict(line.split(" ", 1) for line in lines[names_at + 1 :])
        rows = [[_run(words) for words in row.split()] for row in lines[styles_at + 1 : names_at]]
        styles = [list(chain(*(repeat(names[letter], length) for length, letter in row))) for row in rows]
        return cls(lines[:styles_at], styles)


def _letter(place: int) -> str:
    return LETTERS[place % len(LETTERS)] * (place // len(LETTERS) + 1)


def _run(words: str) -> tuple[int, str]:
    """`12a`, 12 cells of a."""
    letter = words.lstrip("0123456789")
    return int(words.removesuffix(letter)), letter


def picture(pilot: Pilot[None]) -> Picture:
    """The screen as it is."""
    # what a modal lies over is popped from this by each rendering of it
    visible_screen_stack.set(list(pilot.app._background_screens))
    strips = pilot.app.screen._compositor.render_strips()
    styles = [
        list(chain(*(repeat(_words(segment.style), segment.cell_length) for segment in strip)))
        for strip in strips
    ]
    text = [strip.text for strip in strips]
    for region in _scrollbars(pilot):
        for y in range(region.y, region.bottom):
            text[y] = text[y][: region.x] + " " * region.width + text[y][region.right :]
            styles[y][region.x : region.right] = [SCROLLBAR] * region.width
    return Picture([row.rstrip() for row in text], styles)


def _scrollbars(pilot: Pilot[None]) -> list[Region]:
    """Where they are. Textual moves their thumbs when it is idle, so that one may lag behind its text."""
    shown = pilot.app.screen._compositor.visible_widgets
    return [
        region.intersection(clip) for widget, (region, clip) in shown.items() if isinstance(widget, ScrollBar)
    ]


def _words(style: Style | None) -> str:
    """`bold #eeeeee on #121212`, without what a click does."""
    return str(style.without_color + Style(color=style.color, bgcolor=style.bgcolor)) if style else "none"


# What differs, for people


def differences(wanted: Picture, now: Picture, name: str) -> str:
    """Text as a diff, styles cell by cell; nothing where there is no difference."""
    text = list(
        difflib.unified_diff(
            wanted.text, now.text, f"text of {name} on file", "text on screen", lineterm="", n=0
        )
    )
    styles = [line for line in _style_differences(wanted, now) if line]
    parts = [_bounded(text)] if text else []
    if styles:
        parts.append(_bounded([f"styles of {name}, where they differ:", *styles]))
    return "\n".join(parts)


def _bounded(lines: list[str]) -> str:
    more = len(lines) - MOST_ROWS
    return "\n".join([*lines[:MOST_ROWS], *([f"… and {more} lines more"] if more > 0 else [])])


def _style_differences(wanted: Picture, now: Picture) -> Iterator[str]:
    """A line for each run of cells whose style is another one: where it is, what stands there, how it was, how it is."""
    none: Cells = []
    for y, (before, after) in enumerate(zip_longest(wanted.styles, now.styles, fillvalue=none), start=1):
        x = 0
        for (old, new), same in groupby(zip_longest(before, after, fillvalue="nothing")):
            length = len(list(same))
            if old != new:
                there = now.text[y - 1][x : x + length].strip() if y <= len(now.text) else ""
                yield f"  row {y}, cells {x + 1}-{x + length}, {there!r}: {old}  →  {new}"
            x += length


# Looking until there is nothing more to come


async def until(pilot: Pilot[None], is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come to pass:\n" + "\n".join(picture(pilot).text))
        await pilot.pause(0.02)


def is_settled(pilot: Pilot[None]) -> bool:
    """Nothing is under way: all of the run is read and drawn, and no thread works."""
    screens = [screen for screen in pilot.app.screen_stack if isinstance(screen, CockpitScreen)]
    return (
        bool(screens)
        and (screens[0] is not pilot.app.screen or screens[0].is_settled)
        and all(worker.is_finished for worker in pilot.app.workers)
    )


def _stop_blinking(pilot: Pilot[None]) -> None:
    for screen in pilot.app.screen_stack:
        for entry in screen.query(Input):
            entry.cursor_blink = False


async def look(pilot: Pilot[None], still_looks: int, wanted: Picture | None = None) -> Picture:
    """The screen as soon as it is as wanted, else as it is once it has stopped changing."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    seen, looks = Picture([], []), 0
    while looks < still_looks and time.monotonic() < deadline:
        _stop_blinking(pilot)
        await pilot.pause()
        now = picture(pilot)
        if now == wanted and is_settled(pilot):
            return now
        looks = looks + 1 if now == seen and is_settled(pilot) else 0
        seen = now
        await pilot.pause(LOOK_SECONDS)
    return seen


async def difference(name: str, pilot: Pilot[None]) -> str:
    """How the screen differs from what is on file for it; nothing as soon as it does not."""
    file = FOLDER / f"{name}.txt"
    if not file.exists():
        return f"there is no {file.name} yet"
    wanted = Picture.of_file(file.read_text(encoding="utf-8"))
    return differences(wanted, await look(pilot, STILL_LOOKS, wanted), name)


async def write(prefix: str) -> None:
    """Write the files anew whose name begins so, and take away those of screens that are gone."""
    from tests.tui.golden_world import WALKS, every_name, walk, world

    async def keep(name: str, pilot: Pilot[None]) -> None:
        if name.startswith(prefix):
            drawn = await look(pilot, WRITING_LOOKS)
            (FOLDER / f"{name}.txt").write_text(drawn.file_text(), encoding="utf-8")

    if not prefix:
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    with world() as scenery:
        for route in WALKS:
            for size in route.sizes:
                if any(name.startswith(prefix) for name in route.names(size)):
                    await walk(route, size, scenery, keep)
    for file in FOLDER.glob("*.txt"):
        if file.stem not in every_name():
            file.unlink()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1] if len(sys.argv) > 1 else ""))
