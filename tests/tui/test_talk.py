"""The talk screen with a real worker socket behind it, and a parrot behind that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.style import Style
from textual import events
from textual.pilot import Pilot
from textual.widgets import OptionList

from tests.cli.conftest import add_checkpoint
from tests.cli.parrot import Parrot
from tests.tui.test_cockpit import LARGE, opened, until, words
from trainer_daemon.contract.generation import Piece, TokenLogprob
from trainer_daemon.contract.rundir import RunDir
from tui.answer import Answer
from tui.app import Cockpit
from tui.chart.palette import ANSI, DARK
from tui.favourites import favourites
from tui.screens.choose import Choose
from tui.screens.cockpit import CockpitScreen
from tui.screens.talk import AnswerView, TalkScreen, TokenText, _layout
from tui.widgets.lines import Lines
from tui.widgets.prompt import PromptInput, typing_hints

if TYPE_CHECKING:
    from tests.tui.conftest import Runs


@pytest.fixture
def run(runs: Runs) -> RunDir:
    written = runs.create("owl")
    written.begin()
    written.end()
    written.close()
    for step, val_bpb in ((10, 0.5), (20, 0.7)):
        add_checkpoint(written.run, step, val_bpb)
    return written.run


@pytest.fixture
def parrot(run: RunDir) -> Iterator[Parrot]:
    bird = Parrot()
    yield bird
    bird.close()


async def talking(pilot: Pilot[None]) -> TalkScreen:
    """The talk screen, once it has found whom to talk to."""
    await opened(pilot)
    await pilot.press("T")
    await until(pilot, lambda: isinstance(pilot.app.screen, TalkScreen))
    screen = pilot.app.screen
    assert isinstance(screen, TalkScreen)
    await until(pilot, lambda: screen.chosen and isinstance(screen.focused, PromptInput))
    return screen


def lines_of(screen: TalkScreen, name: str) -> str:
    return "\n".join(line.plain for line in screen.query_one(f"#{name}", Lines)._lines)


def text_in(view: AnswerView) -> str:
    return "\n".join(strip.text.rstrip() for strip in view.query_one(TokenText)._strips)


async def test_two_checkpoints_answer_side_by_side_and_tokens_tell_their_alternatives(
    run: RunDir, parrot: Parrot
) -> None:
    async with Cockpit(run).run_test(size=LARGE) as pilot:
        screen = await talking(pilot)
        assert [c.name for c in screen.chosen] == ["owl@10"]  # the best
        await until(pilot, lambda: "esc to the keys" in lines_of(screen, "talk-keys"))
        await pilot.press(*"/n 4", "enter", *"Lily saw", "enter")
        await until(pilot, lambda: screen.answers and screen.answers[0].is_over)
        left, right = screen.query(AnswerView)
        await until(pilot, lambda: text_in(left) == "Lily saw 10 2 3!")
        assert (left.display, right.display) == (True, False)
        assert "a perch" in str(left.query_one(Lines)._lines[1])
        assert "first token" in str(left.query_one(Lines)._lines[1])

        await pilot.press("escape")
        await until(pilot, lambda: "v versus" in lines_of(screen, "talk-keys"))
        await pilot.press("v")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        choices = pilot.app.screen.query_one(OptionList)
        assert choices.option_count == 2
        await until(pilot, lambda: choices.has_focus)
        assert not any(choices.styles.border.spacing), "one frame is enough"
        await pilot.press("enter")  # the newest step stands first
        await until(pilot, lambda: len(screen.answers) == 2 and all(a.is_over for a in screen.answers))
        await until(pilot, lambda: text_in(right) == "Lily saw 20 2 3!" and right.display)
        assert [a.prompt for a in parrot.asked] == ["Lily saw"] * 3
        assert [a.seed for a in parrot.asked] == [1, 2, 2]
        assert {a.logprobs for a in parrot.asked} == {5}

        await pilot.press("right", "right")
        await until(pilot, lambda: screen.cursor == (0, 2))
        await until(pilot, lambda: "'y'" in lines_of(screen, "alternatives"))
        assert "0.607" in lines_of(screen, "alternatives")
        await pilot.press("tab", "x")
        await until(pilot, lambda: len(screen.chosen) == 1 and not right.display)


async def test_prompts_are_kept_and_asked_again(run: RunDir, parrot: Parrot) -> None:
    async with Cockpit(run).run_test(size=LARGE) as pilot:
        screen = await talking(pilot)
        await pilot.press(*"/n 2", "enter", *"One", "enter")
        await until(pilot, lambda: screen.answers and screen.answers[0].is_over)
        await until(pilot, lambda: screen._comparing is None)
        await pilot.press("escape", "F")
        await until(pilot, lambda: favourites() == ["One"])
        await pilot.press("r")
        await until(pilot, lambda: len(parrot.asked) == 2)
        await pilot.press("f")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        await pilot.press("enter")
        await until(pilot, lambda: [a.prompt for a in parrot.asked] == ["One"] * 3)
        await until(pilot, lambda: isinstance(pilot.app.screen, TalkScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))


async def test_what_the_worker_refuses_stands_where_the_answer_would(run: RunDir, parrot: Parrot) -> None:
    async with Cockpit(run).run_test(size=LARGE) as pilot:
        screen = await talking(pilot)
        await pilot.press(*"refuse", "enter")
        await until(pilot, lambda: "not that one" in text_in(screen.query(AnswerView).first()))


def test_what_was_asked_is_told_from_what_was_written() -> None:
    """Likely tokens, which have no shade, looked like the prompt."""
    answer = Answer("owl@10", "Lily", device="a perch")
    answer.take(Piece(" saw", 1, False, None, logprobs=(TokenLogprob(" saw", -0.1, ()),)), 0.1)
    for palette in (ANSI, DARK):
        (line,) = _layout(answer, None, palette, is_dark=True, width=40)
        asked, written = (segment.style for segment in line.render(Console(), end="") if segment.text.strip())
        assert (asked, written) == (palette.muted, Style.null())


async def test_the_cursor_stays_in_sight(run: RunDir, parrot: Parrot) -> None:
    async with Cockpit(run).run_test(size=(80, 24)) as pilot:
        screen = await talking(pilot)
        view = screen.query(AnswerView).first()
        text = view.query_one(TokenText)
        await pilot.press(*"/n 400", "enter", *"Lily", "enter")
        await until(pilot, lambda: screen.answers and screen.answers[0].is_over)
        await until(pilot, lambda: text.max_scroll_y > 0 and text.scroll_y == text.max_scroll_y)

        def cursor_line() -> int | None:
            is_reversed = [any(s.style and s.style.reverse for s in strip) for strip in text._strips]
            return is_reversed.index(True) if True in is_reversed else None

        def cursor_is_seen() -> bool:
            line = cursor_line()
            return line is not None and text.scroll_y <= line < text.scroll_y + text.size.height

        await pilot.press("escape")
        await until(pilot, lambda: cursor_line() == 0)
        assert not cursor_is_seen(), "the end of the text stays where it was until one steps"
        await pilot.press("right")
        await until(pilot, lambda: screen.cursor == (0, 1) and cursor_is_seen())
        screen.cursor = 0, 350
        await pilot.press("right")
        await until(pilot, lambda: screen.cursor == (0, 351) and text.scroll_y > 0 and cursor_is_seen())


async def test_a_pasted_beginning_keeps_its_lines_and_the_last_row_says_what_escape_does(
    run: RunDir, parrot: Parrot
) -> None:
    async with Cockpit(run).run_test(size=LARGE) as pilot:
        screen = await talking(pilot)
        prompt = screen.query_one(PromptInput)
        pilot.app.post_message(events.Paste("Lily saw\r\n\ta fox.\n"))
        await until(pilot, lambda: prompt.value == "Lily saw↵    a fox.")
        await pilot.press("ctrl+j", *"He", "enter")
        await until(pilot, lambda: [a.prompt for a in parrot.asked] == ["Lily saw\n    a fox.\nHe"])
        await pilot.press("up")
        await until(pilot, lambda: prompt.value == "Lily saw↵    a fox.↵He")
        await until(pilot, lambda: "esc to the keys" in lines_of(screen, "talk-keys"))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, CockpitScreen))
        await pilot.press("slash")
        await until(pilot, lambda: "esc to the keys" in words(pilot.app.screen).splitlines()[-1])  # type: ignore[arg-type]
        await pilot.press("escape")
        await until(pilot, lambda: "q detach" in words(pilot.app.screen).splitlines()[-1])  # type: ignore[arg-type]
    assert typing_hints(is_answering=True)[1] == [("prompt.leave", "stop the answer")]
