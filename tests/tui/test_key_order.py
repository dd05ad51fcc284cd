"""Keys that reach the cockpit all at once, as after a link stood still."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

import pytest
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.keys import _character_to_key
from textual.pilot import Pilot
from textual.widgets import Static

from tests.tui.test_cockpit import opened, shown, until
from tui.app import Cockpit
from tui.key_order import OneKeyAtATime
from tui.screens.confirm import Confirm
from tui.screens.new_run import NewRun
from tui.screens.type_in import TypeIn
from tui.widgets.prompt import PromptInput
from tui.widgets.search import SearchInput

if TYPE_CHECKING:
    from tests.tui.conftest import Runs


def burst(pilot: Pilot[None], *keys: str) -> None:
    """All of them before any of them is looked at; a key of one letter is typed."""
    for key in keys:
        name = _character_to_key(key) if len(key) == 1 else key
        pilot.app.post_message(events.Key(name, key if len(key) == 1 else None))


async def test_what_is_typed_behind_the_key_to_the_prompt_is_text_and_no_commands(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        burst(pilot, "/", *"Once upon a time")
        prompt = screen.query_one(PromptInput)
        await until(pilot, lambda: prompt.value == "Once upon a time")
        assert pilot.app.screen is screen
        burst(pilot, "escape", "5", "/", *"fox", "escape", "3", "down")
        await until(pilot, lambda: shown(screen) == "checkpoints")
        assert screen.query_one("#runs-query", SearchInput).value == "fox"


async def test_what_is_typed_behind_a_question_answers_it(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 5)
    async with Cockpit(written.run).run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        burst(pilot, "!", "n", "ctrl+k", *"foy", "escape", "8")
        await until(pilot, lambda: shown(screen) == "alerts" and pilot.app.screen is screen)
        burst(pilot, "!")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        burst(pilot, "n", "ctrl+k")
        await until(pilot, lambda: isinstance(pilot.app.screen, TypeIn))


async def test_what_is_typed_behind_a_key_of_the_form_is_the_fields(runs: Runs) -> None:
    runs.completed("owl", 20)
    async with Cockpit(None).run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: bool(pilot.app.screen.query("#runs-table")))
        burst(pilot, "n", *"wolf", "enter", "/", *"depth", "enter", "6", "enter")
        await until(
            pilot,
            lambda: (
                isinstance(pilot.app.screen, NewRun)
                and pilot.app.screen.draft.name == "wolf"
                and pilot.app.screen.draft.typed == {"model.depth": "6"}
            ),
        )


class Stuck(OneKeyAtATime[None]):
    """What its one line does with a key does not end while `is_let_go` is not set."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("b", "beep", priority=True)]

    class Line(Static, can_focus=True):
        async def on_key(self) -> None:
            assert isinstance(self.app, Stuck)
            await self.app.is_let_go.wait()

    def compose(self) -> ComposeResult:
        yield self.Line()

    def on_mount(self) -> None:
        self.has_beeped, self.is_let_go = asyncio.Event(), asyncio.Event()
        self.hear_keys()

    def action_beep(self) -> None:
        self.has_beeped.set()


async def test_a_key_that_is_never_done_holds_up_the_next_one_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tui.key_order.MOST_SECONDS", 0.2)
    app = Stuck()
    async with app.run_test() as pilot:
        burst(pilot, "a", "b")
        try:
            async with asyncio.timeout(60):
                await app.has_beeped.wait()
        finally:
            app.is_let_go.set()
