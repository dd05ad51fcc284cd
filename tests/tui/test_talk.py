"""The talk screen with a real worker socket behind it, and a parrot behind that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from tests.cli.conftest import add_checkpoint
from tests.cli.parrot import Parrot
from tests.tui.test_cockpit import LARGE, opened, until
from trainer_daemon.contract.rundir import RunDir
from tui.app import Cockpit
from tui.favourites import favourites
from tui.screens.choose import Choose
from tui.screens.cockpit import CockpitScreen
from tui.screens.talk import AnswerView, TalkScreen, TokenText
from tui.widgets.lines import Lines
from tui.widgets.prompt import PromptInput

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
        await pilot.press(*"/n 4", "enter", *"Lily saw", "enter")
        await until(pilot, lambda: screen.answers and screen.answers[0].is_over)
        left, right = screen.query(AnswerView)
        await until(pilot, lambda: text_in(left) == "Lily saw 10 2 3!")
        assert (left.display, right.display) == (True, False)
        assert "a perch" in str(left.query_one(Lines)._lines[1])
        assert "first token" in str(left.query_one(Lines)._lines[1])

        await pilot.press("escape", "v")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        assert pilot.app.screen.query_one(OptionList).option_count == 2
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
