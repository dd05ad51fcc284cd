"""The log: each rank by itself, by level, searched, followed; a bounded stretch of however large a file, and hostile text in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tui.test_cockpit import MIDDLE, SMALL, opened, until, words
from trainer_daemon.contract.events import AttemptStarted, Notice
from tui.app import Cockpit
from tui.log_window import MOST_BYTES, MOST_LINES, LogWindow, levels
from tui.panes.log import LogPane, LogText
from tui.widgets.search import SearchInput

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from tests.tui.conftest import Runs, WrittenRun
    from tui.screens.cockpit import CockpitScreen


def window_of(text: str) -> LogWindow:
    window = LogWindow()
    window.add_after(text, 0, len(text.encode()))
    return window


def test_a_window_is_bounded_at_either_end_and_a_line_keeps_its_number() -> None:
    every = [f"line {n} é" for n in range(30_000)]
    text = "\n".join(every) + "\n"
    data = text.encode()
    middle = len(data) // 2
    while data[middle - 1] != ord("\n"):
        middle += 1
    window = LogWindow()
    window.add_after(data[middle:].decode(), middle, len(data))
    assert window.end == len(data)
    assert window.end - window.start <= MOST_BYTES
    assert len(window.lines()) <= MOST_LINES + 1
    assert window.lines()[-1] == every[-1]
    last = window.first_number + len(window.lines()) - 1
    start = window.start
    window.add_before(data[start - 30_000 : start].decode(errors="replace"), start - 30_000, start)
    assert window.start < start - 10_000, "much of it, though not all: what was there is not to go"
    assert len(window.lines()) <= MOST_LINES + 1
    shown = window.lines()
    at = shown.index("line 27000 é")
    assert window.first_number + at == last - (29_999 - 27_000)


def test_lines_are_whole_however_they_were_read_and_hostile_text_is_harmless() -> None:
    window = window_of("10%\r50%\r100%\nred \x1b[3")
    text = "1mtext\x1b[0m \x1b]0;title\x07 \u202eback\nlast"
    window.add_after(text, window.end, window.end + len(text.encode()))
    assert window.lines() == ["100%", "red text  back", "last"]
    assert window_of("\x1b[2J" * 10_000).lines() == [""]
    assert window_of("").lines() == []


def test_a_line_is_as_grave_as_its_words_and_a_traceback_is_one() -> None:
    lines = [
        "step 1",
        "UserWarning: odd",
        "  warnings.warn(",
        "Traceback (most recent call last):",
        '  File "x.py", line 1',
        "RuntimeError: CUDA error",
        "[rank0]:[W1121 12:00:01.5 ProcessGroup.cpp:1] slow",
        "E1121 12:00:01 broken",
        "terror in the forewarned",
    ]
    assert levels(lines) == [
        "info", "warning", "warning", "error", "error", "error", "warning", "error", "info",
    ]  # fmt: skip


def printing(runs: Runs, log: bytes, *, ranks: int = 3) -> WrittenRun:
    written = runs.create("fox", 400)
    written.begin()
    written.tell("train", AttemptStarted(1, ranks, "cpu", "AMD EPYC 7B13", "fp32", 1, "2.13.0"))
    written.train(1, 5)
    written.run.logs.mkdir(exist_ok=True)
    written.run.rank_log(1).write_bytes(log)
    written.die()  # no supervisor: the file itself is read
    return written


async def to_rank_1(pilot: Pilot[None], screen: CockpitScreen) -> LogText:
    await pilot.press("4")
    await until(pilot, lambda: "rank-2" in words(screen))
    await pilot.press("]", "]")
    return screen.query_one(LogText)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_a_rank_is_followed_filtered_and_searched(runs: Runs, size: tuple[int, int]) -> None:
    lines = [f"{n} words" + (" ERROR: needle" if n % 100 == 50 else "") for n in range(500)]
    written = printing(runs, "\n".join(lines).encode() + b"\n")
    async with Cockpit(written.run).run_test(size=size) as pilot:
        screen = await opened(pilot)
        text = await to_rank_1(pilot, screen)
        await until(pilot, lambda: "499 words" in words(screen) and "follows" in words(screen))
        with written.run.rank_log(1).open("ab") as log:
            log.write(b"\x1b[2Jthe newest\n")
        await until(pilot, lambda: "the newest" in words(screen))

        await pilot.press("slash", *"NEEDLE", "enter")
        await until(pilot, lambda: "5 of 5" in words(screen) and "450 words ERROR" in words(screen))
        assert screen.focused is text
        await pilot.press("N")
        await until(pilot, lambda: "4 of 5" in words(screen) and "350 words ERROR" in words(screen))
        await pilot.press("n")
        await until(pilot, lambda: "5 of 5" in words(screen))
        assert "G follows" in words(screen), "who reads does not want to be moved"
        await pilot.press("Y")
        await until(pilot, lambda: pilot.app.clipboard == "450 words ERROR: needle")

        await pilot.press("l", "l")
        await until(pilot, lambda: "50 words ERROR" in words(screen) and "449 words" not in words(screen))
        await pilot.press("l", "G")
        await until(pilot, lambda: "the newest" in words(screen))
        await pilot.press("escape")
        await until(pilot, lambda: "of 5" not in words(screen))
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "rank-0 has printed nothing" in words(screen))


async def test_an_end_that_is_asked_for_twice_is_shown_once(runs: Runs) -> None:
    """On a slow machine the pane looked again while it still read, and every line stood there twice."""
    written = printing(runs, b"the only line\n")
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await to_rank_1(pilot, screen)
        await until(pilot, lambda: "the only line" in words(screen))
        pane = screen.query_one(LogPane)
        await until(pilot, lambda: not pane._is_looking)
        pane._forget()
        pane._begin(pane._read_tail)
        pane._begin(pane._read_tail)
        await until(pilot, lambda: not pane._is_looking and pane._next_reading is None)
        assert words(screen).count("the only line") == 1


@pytest.mark.slow
async def test_of_a_huge_log_a_stretch_is_kept_and_earlier_ones_are_found(runs: Runs) -> None:
    head = b"the first needle\n" + b"early\n"
    written = printing(runs, head)
    with written.run.rank_log(1).open("r+b") as log:
        log.seek(2**30)  # a gigabyte of nothing, which costs no disk
        log.write(b"\n" + b"\n".join(b"%d middle" % n for n in range(200_000)))
        log.write(b"\na late needle\n" + b"\n".join(b"%d words" % n for n in range(50_000)) + b"\n")
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        pane = screen.query_one(LogPane)
        text = await to_rank_1(pilot, screen)
        await until(pilot, lambda: "49999 words" in words(screen) and "1.1 GB before" in words(screen))
        await pilot.press("g")
        await until(
            pilot, lambda: text.scroll_y > 0 and not text.follows
        )  # what lies before stands above now
        await pilot.press("slash", *"late needle", "enter", "N")
        await until(pilot, lambda: "a late needle" in words(screen))
        assert pane._window is not None
        assert pane._window.end - pane._window.start <= MOST_BYTES
        await pilot.press("G")
        await until(pilot, lambda: "49999 words" in words(screen))
        screen.query_one(SearchInput).value = "first needle"
        await until(pilot, lambda: pane._sought == "first needle" and "not here" in words(screen))
        await pilot.press("N")
        await until(pilot, lambda: "again searches on" in words(screen))


async def test_reading_back_stays_at_the_line_that_was_read(runs: Runs) -> None:
    written = printing(runs, b"".join(b"%06d a line of it\n" % n for n in range(20_000)))
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        text = await to_rank_1(pilot, screen)
        await until(pilot, lambda: "019999 a line" in words(screen))

        def top() -> str:
            return text.render_line(0).text.strip()

        await pilot.press("g")
        await until(pilot, lambda: not text.follows)
        await until(pilot, lambda: text.scroll_y > 0)  # what lies before was read and stands above
        assert not top().startswith("0199")
        before = int(top()[:6])
        await pilot.press("k", "k")
        await until(pilot, lambda: top().endswith("a line of it") and int(top()[:6]) == before - 2)


async def test_events_are_filtered_and_searched_too_and_cannot_disturb_the_screen(runs: Runs) -> None:
    written = printing(runs, b"")
    written.tell("daemon", Notice("error", "a \x1b[2Jbad\u202e [bold]thing[/] 漢字"))
    written.tell("daemon", *(Notice("info", f"quiet {n}") for n in range(60)))
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press("4")
        await until(pilot, lambda: "quiet 59" in words(screen))
        await pilot.press("l")
        await until(pilot, lambda: "a bad [bold]thing[/] 漢字" in words(screen))
        assert "quiet" not in words(screen)
        await pilot.press("l", "l", "slash", *"quiet 2", "enter")
        await until(pilot, lambda: "11 of 11" in words(screen))
        await pilot.press("n")
        assert "11 of 11" in words(screen), "there is none after the last"
