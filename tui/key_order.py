"""Keys that come in a burst do what they would have done one by one.

Textual hands each key to whatever has the focus when the key arrives, and what a key does takes a few messages more. After a
link that stood still for a second `/Once upon` comes at once, and its letters would be taken for commands. So a key waits
until the one before is done, up to `MOST_SECONDS`; in a line that one types in letters go through as they come. The first waits
until there is a view, `hear_keys`.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from textual import events
from textual.app import App

if TYPE_CHECKING:
    from textual.dom import DOMNode
    from textual.screen import Screen
    from textual.widget import Widget

ReturnType = TypeVar("ReturnType")
Place = tuple["Screen[object]", "Widget | None"]
"""A screen, and what has the focus there."""

MOST_SECONDS = 3.0
"""For one key: what takes longer, or was taken away with its queue, holds up nothing."""
LEAST_ROUNDS = 2
"""A message that a key's handler posts comes behind the first."""
LOOK_SECONDS = 0.005
"""Between two looks whether a screen that was opened can have keys."""


class OneKeyAtATime(App[ReturnType]):
    def __init__(self) -> None:
        super().__init__()
        self._typed: deque[events.Key | events.Paste] = deque()
        """Came, and wait."""
        self._under_way: events.Event | None = None
        """The key that was handed on last; None: it is done."""
        self._handed_to: Screen[object] | None = None
        self._is_hearing = False
        """There is something for keys to act on."""

    def hear_keys(self) -> None:
        """The first view is there: have what was typed meanwhile done, and from now on whatever is typed."""
        self.call_later(self._begin_to_hear)

    async def _begin_to_hear(self) -> None:
        self._is_hearing = True
        await self._hand_on()

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif not self._is_hearing and self._is_own(event):
            await super().on_event(event)  # one may leave before anything is there
        else:
            self._typed.append(event)
            if self._is_hearing and self._under_way is None:
                await self._hand_on()

    async def _hand_on(self) -> None:
        """As many of the keys that came as need not wait for each other."""
        self._under_way = None
        while self._typed:
            event = self._typed.popleft()
            if self._is_text(event):
                await super().on_event(event)
                continue
            self._handed_to = self.screen
            self._under_way = event
            self.set_timer(MOST_SECONDS, partial(self._is_done, event))
            await super().on_event(event)
            self._go_round(event, LEAST_ROUNDS)
            return

    async def _is_done(self, key: events.Event) -> None:
        if key is self._under_way:
            await self._hand_on()

    def _is_own(self, event: events.Key | events.Paste) -> bool:
        """It is the app that acts on it, whatever is in sight."""
        active = self.screen.active_bindings.get(event.key) if isinstance(event, events.Key) else None
        return active is not None and active.node is self

    def _is_text(self, event: events.Key | events.Paste) -> bool:
        """It only becomes a part of the line that has the focus."""
        from textual.widgets import Input  # there by now; the first frame does not wait for it

        is_printable = isinstance(event, events.Paste) or event.is_printable
        return isinstance(self.focused, Input) and is_printable

    def _go_round(self, key: events.Event, rounds: int) -> None:
        """Follow the key on its way from what has the focus up to the app, so many times."""
        way = [*(self.focused or self.screen).ancestors_with_self]
        self._follow(way, (self.screen, self.focused), key, rounds)

    def _follow(self, way: list[DOMNode], began: Place, key: events.Event, rounds: int) -> None:
        if key is not self._under_way or not self.is_running:
            return  # it was given up, and another key is under way
        while way:
            if way.pop(0).call_later(self._follow, way, began, key, rounds):
                return  # the next one takes its turn behind the key
        if rounds > 1:
            self._go_round(key, rounds - 1)
        elif self._is_ready and began == (self.screen, self.focused):
            self.call_later(self._is_done, key)
        else:
            self.set_timer(LOOK_SECONDS, partial(self._go_round, key, 1))

    @property
    def _is_ready(self) -> bool:
        """A screen that the key opened is put together, and what is to have its keys has them."""
        screen = self.screen
        is_new = screen is not self._handed_to
        return not is_new or (screen.is_mounted and (screen.focused is not None or not screen.focus_chain))
