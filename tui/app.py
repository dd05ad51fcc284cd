"""The cockpit's way in. Its first frame needs Textual alone and is there at once; numpy, the views and the link are loaded behind it."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.screen import Screen

from trainer_daemon.contract.errors import LlmctlError
from tui.clipboard import fitting, is_in_tmux, osc52
from tui.ink import THEMES
from tui.key_order import OneKeyAtATime
from tui.meter import Meter, metered
from tui.screen_diff import DiffedApp
from tui.settings import DEFAULT_THEME, SIXTEEN_COLOURS_THEME, Settings, load_settings, remember_theme
from tui.terminal import given_back, is_remote
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from textual.driver import Driver

    from trainer_daemon.contract.ahead import CourseAhead
    from trainer_daemon.contract.rundir import RunDir
    from tui.feed import FeedOpener


UNLISTED = {"pane.escape", "prompt.earlier", "prompt.later", "prompt.line", "prompt.leave"}
"""Keys that make no sense as a command of the palette."""


class Cockpit(OneKeyAtATime[None], DiffedApp[None]):
    """Watches a run, commands it, and leaves it going."""

    TITLE = "llmctl"
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    #opening { height: 1; background: $surface; }
    Toast { background: $surface; width: 72; max-width: 90%; }
    ToastRack { margin-bottom: 2; } /* the line that one types in stays in sight, and the keys */
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
        ahead: CourseAhead | None = None,
    ) -> None:
        """`run`: the one to show first; None opens the list of runs. `open_feed`: where its records come from.
        `is_read_only`: nothing is sent to a run and nothing is changed on disk. `ahead`: who reads the run's history already."""
        self.meter = Meter()
        super().__init__()
        self._is_read_only = is_read_only
        self.settings = settings or Settings()
        self._first_run = run
        self._open_feed = open_feed
        self._ahead = ahead
        self._is_loading = False
        self._has_process = False
        """Nothing else lives in this process."""
        self._running_loop: asyncio.AbstractEventLoop | None = None
        for theme in THEMES:
            self.register_theme(theme)
        usual = SIXTEEN_COLOURS_THEME if self.console.color_system == "standard" else DEFAULT_THEME
        self.theme = self.settings.theme if self.settings.theme in self.available_themes else usual
        self.set_keymap(self.settings.keys)
        if is_remote():
            self.animation_level = "none"

    @cached_property
    def key_names(self) -> Mapping[str, str]:
        """Binding id -> the key that does it, as the reader bound it."""
        from tui.key_names import KeyNames
        from tui.screens.cockpit import CockpitScreen
        from tui.screens.cockpit_keys import key_sections

        def everyone() -> list[type[DOMNode]]:
            return [owner for _, owners in key_sections() for owner in owners]

        return KeyNames(self, [Cockpit, CockpitScreen], everyone)

    def compose(self) -> ComposeResult:
        name = self._first_run.name if self._first_run else "runs"
        yield Lines([Text.assemble((" ◌ opening", "#56b4e9 bold"), f"  {name}")], id="opening")

    def on_mount(self) -> None:
        self._running_loop = asyncio.get_running_loop()
        self.theme_changed_signal.subscribe(self, lambda theme: self._remember(theme.name))

    @work(thread=True, group="load")
    def _load(self) -> None:
        _load_numpy()
        from tui.feed import open_link
        from tui.screens.cockpit import CockpitScreen

        if not gc.isenabled():  # `run_cockpit` left it out for the loading
            self._has_process = True
            self.keep_what_is_there()
            gc.enable()
        screen = CockpitScreen(
            self._first_run,
            self._open_feed or open_link,
            self.settings,
            is_read_only=self._is_read_only,
            ahead=self._ahead,
        )
        self.call_from_thread(self.push_screen, screen)

    def keep_what_is_there(self) -> None:
        """It stays as long as the cockpit does, and is not looked through for garbage any more: that held up frames."""
        if self._has_process:
            gc.freeze()

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

    def get_driver_class(self) -> type[Driver]:
        return metered(super().get_driver_class(), self.meter)

    def _display(self, screen: Screen[object], renderable: RenderableType | None) -> None:
        self.meter.frames += renderable is not None
        super()._display(screen, renderable)
        if not self._is_loading and renderable is not None:
            self._is_loading = (
                True  # at once: `call_after_refresh` would come one or two of Textual's frames later
            )
            self._load()

    def copy_to_clipboard(self, text: str) -> None:
        """Textual's own way, and what tmux and a size limit ask for besides."""
        fits = fitting(text)
        self._clipboard = fits
        if self._driver is not None:
            self._driver.write(osc52(fits, in_tmux=is_in_tmux()))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette offers whatever a key does now, and Textual's own commands."""
        seen: set[str] = set()
        for node in _with_keys(screen):
            for binding in node.BINDINGS:
                if not isinstance(binding, Binding) or not binding.tooltip or binding.id in seen | UNLISTED:
                    continue
                seen.add(binding.id or "")
                action = partial(self.run_action, binding.action, default_namespace=node)
                yield SystemCommand(binding.description.capitalize(), binding.tooltip, action)
        yield from super().get_system_commands(screen)


def _load_numpy() -> None:
    """Without the threads that OpenBLAS begins with it: nothing here multiplies matrices, and they cost as much as all of numpy."""
    if (name := "OPENBLAS_NUM_THREADS") in os.environ:
        return
    os.environ[name] = "1"
    try:
        import numpy as np  # noqa: F401
    finally:
        del os.environ[name]  # runs that are started from here choose for themselves


def _with_keys(screen: Screen[object]) -> Iterator[DOMNode]:
    """Whose keys work now: what has the focus and what it lies in, then the first of each kind that is in sight."""
    focused = screen.focused
    if focused is not None:
        yield from focused.ancestors_with_self
    yield screen
    yield screen.app
    yield from (widget for widget in screen.query("*") if widget.is_on_screen)


def run_cockpit(
    run: RunDir | None = None, *, is_read_only: bool = False, ahead: CourseAhead | None = None
) -> None:
    """Show a run until the reader detaches; without one, the list of runs. The terminal is given back whatever happens.
    `ahead`: who reads the run's history already.

    Raises LlmctlError where there is no terminal, SpecError for settings that make no sense.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        name = run.name if run else "RUN"
        raise LlmctlError(f"the cockpit needs a terminal; without one, use: llmctl status {name} --json")
    settings = load_settings()
    app = Cockpit(run, settings=settings, is_read_only=is_read_only, ahead=ahead)
    gc.disable()  # until all is loaded, which is there to stay: a sixth of loading is looking for garbage in it
    with given_back(app.end_soon):
        app.run(mouse=settings.mouse)
    if app.return_code:
        sys.exit(app.return_code)  # Textual has shown the traceback
