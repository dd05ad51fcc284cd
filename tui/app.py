"""The cockpit's way in. Its first frame needs Textual alone and is there at once; numpy, the views and the link are loaded behind it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from trainer_daemon.contract.errors import LlmctlError
from tui.ink import THEMES
from tui.screen_diff import DiffedApp
from tui.settings import DEFAULT_THEME, Settings, load_settings, remember_theme
from tui.terminal import given_back, is_remote
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from trainer_daemon.contract.rundir import RunDir
    from tui.feed import FeedOpener


class Cockpit(DiffedApp[None]):
    """Watches a run, commands it, and leaves it going."""

    TITLE = "llmctl"
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    #opening { height: 1; background: $surface; }
    Toast { background: $surface; width: 72; max-width: 90%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "detach", "detach", id="app.detach", tooltip="Leave; the run goes on"),
        Binding("ctrl+c", "detach", "detach", id="app.leave", show=False, priority=True),
    ]

    def __init__(
        self,
        run: RunDir | None,
        open_feed: FeedOpener | None = None,
        settings: Settings | None = None,
        *,
        is_read_only: bool = False,
    ) -> None:
        """`run`: the one to show first; None opens the list of runs. `open_feed`: where its records come from.
        `is_read_only`: nothing is sent to a run and nothing is changed on disk."""
        super().__init__()
        self._is_read_only = is_read_only
        self.settings = settings or Settings()
        self._first_run = run
        self._open_feed = open_feed
        self._running_loop: asyncio.AbstractEventLoop | None = None
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = self.settings.theme if self.settings.theme in self.available_themes else DEFAULT_THEME
        self.set_keymap(self.settings.keys)
        if is_remote():
            self.animation_level = "none"

    def compose(self) -> ComposeResult:
        name = self._first_run.name if self._first_run else "runs"
        yield Lines([Text.assemble((" ◌ opening", "#56b4e9 bold"), f"  {name}")], id="opening")

    def on_mount(self) -> None:
        self._running_loop = asyncio.get_running_loop()
        self.theme_changed_signal.subscribe(self, lambda theme: self._remember(theme.name))
        self.call_after_refresh(self._load)

    @work(thread=True, group="load")
    def _load(self) -> None:
        from tui.feed import open_link
        from tui.screens.cockpit import CockpitScreen

        screen = CockpitScreen(
            self._first_run,
            self._open_feed or open_link,
            self.settings,
            is_read_only=self._is_read_only,
        )
        self.call_from_thread(self.push_screen, screen)

    def _remember(self, theme: str) -> None:
        try:
            remember_theme(theme)
        except OSError as e:
            self.notify(f"the theme could not be kept: {e}", severity="warning", markup=False)

    def action_detach(self) -> None:
        self.exit()

    def end_soon(self) -> None:
        """End as `q` does; may be called from a signal handler, whatever the loop is doing."""
        if self._running_loop is not None:
            self._running_loop.call_soon_threadsafe(self.exit)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette offers what the keys do, and Textual's own commands."""
        for binding in screen.BINDINGS:
            if isinstance(binding, Binding) and binding.tooltip and binding.id != "pane.escape":
                action = partial(screen.run_action, binding.action)
                yield SystemCommand(binding.description.capitalize(), binding.tooltip, action)
        yield from super().get_system_commands(screen)


def run_cockpit(run: RunDir | None = None, *, is_read_only: bool = False) -> None:
    """Show a run until the reader detaches; without one, the list of runs. The terminal is given back whatever happens.

    Raises LlmctlError where there is no terminal, SpecError for settings that make no sense.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        name = run.name if run else "RUN"
        raise LlmctlError(f"the cockpit needs a terminal; without one, use: llmctl status {name} --json")
    settings = load_settings()
    app = Cockpit(run, settings=settings, is_read_only=is_read_only)
    with given_back(app.end_soon):
        app.run(mouse=settings.mouse)
    if app.return_code:
        sys.exit(app.return_code)  # Textual has shown the traceback
