"""The cockpit: one run in sight, some views of it, a prompt line, and the keys that command it.

    Watch (thread) -> RunState (fold, a slice a tick) -> what changed -> the view in sight draws

One timer does both: it folds what came, and a few times a second it has the view in sight draw what changed. Nothing is
drawn that did not change, and no frame is begun while the terminal still takes the last one. With nothing left to do the timer
stands still, until `wake`; of what may fall silent the header is looked at once a second.
"""

import asyncio
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widget import Widget

from trainer_daemon.contract.ahead import CourseAhead
from trainer_daemon.contract.errors import LlmctlError, did_you_mean
from trainer_daemon.contract.events import RESUMABLE_STATES, Notice
from trainer_daemon.contract.rundir import RunDir, find_run
from trainer_daemon.contract.text import printable
from trainer_daemon.link.far import FarRun
from tui import headline
from tui.acknowledged import Acknowledged
from tui.chart.export import ENDINGS, write_chart
from tui.chart.figure import Figure
from tui.chart.symbols import SYMBOLS
from tui.chart.view import View
from tui.chart.widget import Chart
from tui.clipboard import fitting
from tui.errands import Errand, said_of_checkpoint
from tui.feed import FeedOpener, LinkState, Shelf, Watch, place_of
from tui.ink import SKY, hue, palette_of
from tui.key_names import cockpit_of, fitted_hints
from tui.overlay import MOST_RUNS, Overlay
from tui.panes.charts import ChartGrid
from tui.panes.pane import Pane
from tui.panes.views import Around, PaneViews
from tui.prompting import Prompting
from tui.run_state import WATCHED_ROWS, Area, RunState
from tui.screens.cockpit_keys import COCKPIT_BINDINGS, key_sections, keys_line
from tui.screens.confirm import Confirm
from tui.screens.help import Help, Section
from tui.screens.jump import Jump
from tui.screens.type_in import TypeIn
from tui.settings import Settings
from tui.terminal import is_remote, is_writing
from tui.widgets.lines import Lines
from tui.widgets.prompt import PromptInput, PromptLine, typing_hints
from tui.widgets.ready import Backdrop
from tui.wording import count

if TYPE_CHECKING:  # each is loaded when it is first looked at
    from tui.app import Cockpit
    from tui.panes.alerts import AlertsPane
    from tui.panes.checkpoints import CheckpointsPane
    from tui.panes.runs import RunsPane

TICK_SECONDS = 1 / 20
FRAME_SECONDS, REMOTE_FRAME_SECONDS = 1 / 10, 1 / 4
CLOCK_SECONDS = 1.0
FILL_SECONDS = 3.0
"""How long keys wait at most for the view that the one before them opened."""
HISTORY_SECONDS = 0.3
"""How long a run that is opened may be read before what is known of it by then is drawn. Most are read by then, and drawn once."""
FOLD_SECONDS = 0.02
"""Of each tick, at most, while history is read: keys stay quick."""
ALL_AREAS: frozenset[Area] = frozenset(
    {"status", "curves", "checkpoints", "samples", "notes", "system", "alerts"}
)


class CockpitScreen(Screen[None], Backdrop):
    DEFAULT_CSS = """
    CockpitScreen { layout: vertical; }
    CockpitScreen #headline { height: 1; background: $surface; }
    CockpitScreen #banner { height: auto; max-height: 5; }
    CockpitScreen #panes { height: 1fr; }
    CockpitScreen #keys { height: 1; }
    CockpitScreen #meter { height: 1; display: none; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = COCKPIT_BINDINGS

    def __init__(
        self,
        run: RunDir | None,
        open_feed: FeedOpener,
        settings: Settings,
        *,
        is_read_only: bool = False,
        ahead: CourseAhead | None = None,
    ) -> None:
        """`is_read_only`: nothing is sent to a run and nothing is changed on disk. `ahead`: who reads the run's history already."""
        super().__init__()
        self.is_read_only = is_read_only
        self._errands: list[tuple[Errand, RunState]] = []
        self._own_keys = settings.keys
        self.run_folder: RunDir | None = None
        self.state = RunState("no run")
        self.overlay = Overlay(open_feed, self.wake)
        self.prompting = Prompting(self._send)
        self._shelf = Shelf()
        self._acknowledged = Acknowledged(keeps=not is_read_only)
        self.views = PaneViews(
            Around(self.overlay, self._shelf, self._acknowledged, SYMBOLS[settings.symbols]), id="panes"
        )
        self._first_run = run
        self._ahead = ahead
        self._open_feed = open_feed
        self._watch: Watch | None = None
        self._changed: set[Area] = set(ALL_AREAS)
        self._frame_seconds = REMOTE_FRAME_SECONDS if is_remote() else FRAME_SECONDS
        self._next_frame = 0.0
        self._draws_from = 0.0
        """When the run in sight is drawn though its history be not read yet (monotonic)."""
        self._keys_said: tuple[object, ...] = ()
        """What decides on the last row as it stands."""
        self._is_clock_due = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_woken = False
        """The timer has been told, and has not begun since."""
        self._link: LinkState | None = None
        self._is_folding_on = False
        self._fitted_to: tuple[str, ...] = ()
        """The runs whose whole histories the axes were last fitted to."""
        self._is_shown = False
        """The whole history of the run in sight has been drawn."""
        self.frames = 0
        """How often it was looked whether anything is to be drawn."""

    def compose(self) -> ComposeResult:
        yield Lines([Text()], id="headline")
        yield Lines(id="meter")
        yield Lines(id="banner")
        yield self.views
        yield PromptLine()
        yield Lines([Text()], id="keys")

    async def on_mount(self) -> None:
        if not self.query(ChartGrid):
            return  # the reader left while this was being put together, and nothing is composed any more
        self.app.theme_changed_signal.subscribe(self, lambda _: self._redraw_all())
        self._loop = asyncio.get_running_loop()
        self._ticking = self.set_interval(TICK_SECONDS, self._tick)
        self.set_interval(CLOCK_SECONDS, self._on_clock)
        self._warn_of_unknown_keys()
        if self._first_run is None:
            await self._bring("runs")
        else:
            self.open_run(self._first_run)
            self.query_one(ChartGrid).charts[0].focus()
        self._begin_to_hear()

    @work(group="keys")
    async def _begin_to_hear(self) -> None:
        """Not waited for in `on_mount`, which the first drawing waits for."""
        await self._until_filled()
        self.cockpit.hear_keys()

    def on_unmount(self) -> None:
        self._let_go()
        self.overlay.close()

    def on_resize(self) -> None:
        self._redraw_all()

    # The run in sight

    def open_run(self, run: RunDir) -> None:
        """Put another run in sight; the one before goes on without us."""
        if run.name in self.overlay.names:
            self.overlay.toggle(run)
        self._turn_to(run)
        ahead, self._ahead = self._ahead, None
        self._watch = Watch(run, self._open_feed, self.wake, is_shown_first=True, ahead=ahead)
        self._watch.start()
        self._draws_from = time.monotonic() + HISTORY_SECONDS

    def _turn_to(self, run: RunDir | None) -> None:
        """Nothing is known of it yet."""
        self._let_go()
        self.run_folder = run
        self.state = RunState(run.name if run else "no run", WATCHED_ROWS)
        self.prompting.turn_to(run, self.state)
        self._link, self._fitted_to, self._is_shown = None, (), False
        self._shelf.take(None, frozenset())
        self.views.follow(run)
        self._redraw_all()

    async def _close_deleted_run(self) -> None:
        """Whoever deleted it: there is nothing to look at any more, but other runs."""
        self._turn_to(None)
        await self.action_show_pane("runs")

    def _let_go(self) -> None:
        self.prompting.let_go()
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    @property
    def pane(self) -> Pane:
        return self.views.in_sight

    @property
    def is_caught_up(self) -> bool:
        """All that is known of the run by now is folded, and on screen with the next frame."""
        watch = self._watch
        return watch is not None and watch.is_caught_up and not watch.has_more

    @property
    def is_settled(self) -> bool:
        """All that is known of the runs by now is on screen, and every view is at hand; of a run in training true for moments
        only."""
        return self._is_fitted and not self._changed and self.views.are_all_there

    # The clock

    def wake(self) -> None:
        """There is something to fold or to draw. For any thread, and as often as one likes."""
        if self._loop is None or self._is_woken:
            return
        self._is_woken = True
        with suppress(RuntimeError):  # the reader has left, and the loop is closed
            self._loop.call_soon_threadsafe(self._begin_ticking)

    def _begin_ticking(self) -> None:
        self._ticking.resume()
        if self._fitted_to != self._in_sight:  # a history is read; what comes later can wait for its tick
            self._fold_soon()

    def _on_clock(self) -> None:
        self._read_meter()
        if self._link == "live" or isinstance(self.run_folder, FarRun):
            self._is_clock_due = (
                True  # the header tells of silence and of the way there, which nothing reports
            )
            self.wake()

    def on_screen_resume(self) -> None:
        self.wake()

    def _tick(self) -> None:
        self._is_woken = False  # what comes from here on wakes once more
        self._fold()
        now = time.monotonic()
        is_readable = self._is_fitted or now >= self._draws_from
        is_awaited = self._is_fitted and not self._is_shown  # and comes on top of what is being written
        if is_readable and now >= self._next_frame and (is_awaited or not is_writing(self.app)):
            self._next_frame = now + self._frame_seconds
            self._paint()
        if self.is_at_rest:
            self._ticking.pause()

    @property
    def is_at_rest(self) -> bool:
        """There is nothing to do that nothing will wake it for."""
        is_drawn = not (self._changed or self._is_clock_due) or not self.is_current
        return is_drawn and not self.prompting.is_under_way and not self._errands

    def _fold(self) -> None:
        watch = self._watch
        if watch is not None and watch.is_gone:
            self._say(f"{watch.run_folder.name} was deleted; these are the runs there are", "warning")
            self._let_go()
            self.call_later(self._close_deleted_run)
        elif watch is not None:
            if watch.failure is not None:
                failure, watch.failure = watch.failure, None
                if not isinstance(failure, LlmctlError | OSError):
                    raise failure
                self._say(str(failure), "error")
            deadline = time.monotonic() + FOLD_SECONDS
            while watch.has_more and time.monotonic() < deadline:
                self._changed |= self.state.apply(watch.take())
            if watch.has_more:
                self._fold_soon()
            if watch.is_caught_up and not watch.has_more:
                self._changed |= self.state.judge(watch.observed)
            if watch.link_state != self._link:
                self._link = watch.link_state
                self._changed.add("status")
            if self._shelf.take(watch.stored, watch.pinned):
                self._changed.add("checkpoints")
        if self.overlay.fold(time.monotonic() + FOLD_SECONDS):
            self._changed.add("curves")
        self._fit_once()
        was_answering = self.prompting.is_under_way
        answered, notices = self.prompting.fold()
        self._changed |= answered
        if self.prompting.is_under_way != was_answering:
            self._changed.add("status")  # the last row says what escape does
        for notice in notices:
            self._say(notice, "information")
        for errand, state in [(e, s) for e, s in self._errands if e.is_over]:
            self._errands.remove((errand, state))
            self._tell_of(errand, state)
        while self.state.refusals:
            self._say(self.state.refusals.pop(0), "error")

    @property
    def _in_sight(self) -> tuple[str, ...]:
        return self.state.status.name, *self.overlay.names

    @property
    def _is_fitted(self) -> bool:
        """The axes are those of all that was known of each run when its history had been read."""
        return self.is_caught_up and self.overlay.is_caught_up and self._fitted_to == self._in_sight

    def _fit_once(self) -> None:
        """When the history of a run is read, whole, forget the axes of a part of it: a run looks the same however it came in."""
        if self._fitted_to != self._in_sight and self.is_caught_up and self.overlay.is_caught_up:
            self._fitted_to = self._in_sight
            for chart in self.query(Chart):
                chart.forget_axes()
            self._changed |= {"curves", "checkpoints"}
            self._next_frame = 0.0

    def _go_on(self) -> None:
        """Begin what waited for the curves to be on screen."""
        if self._watch is not None:
            self._watch.shown()
        if not self.views.are_all_there:
            self._complete_views()

    @work(group="views")
    async def _complete_views(self) -> None:
        await self.views.complete()
        self.cockpit.keep_what_is_there()

    def _fold_soon(self) -> None:
        """Behind the keys that wait, and not a whole tick later."""
        if not self._is_folding_on:
            self._is_folding_on = True
            self.call_later(self._fold_on)

    def _fold_on(self) -> None:
        self._is_folding_on = False
        self._tick()

    def _paint(self) -> None:
        if not self.is_current:
            return
        self.frames += 1
        changed, self._changed = self._changed, set()
        is_clock_due, self._is_clock_due = self._is_clock_due, False
        if is_clock_due and not changed:
            self._paint_headline()
        if changed:
            if self._paint_frame():  # the view gets another height, and is drawn once it has it
                self._changed, self._next_frame = changed, 0.0
                self.call_after_refresh(self._fold_soon)
                return
            self.pane.draw(self.state, changed)
            self._paint_keys(self.size.width)  # those of the view, which may depend on what it shows now
            if not self.pane.FILLS_ITSELF:
                self.pane.is_filled.set()
            if self._is_fitted and not self._is_shown:
                self._is_shown = True
                self.call_after_refresh(self._go_on)

    def _paint_frame(self) -> bool:
        """Header, banner, prompt and keys. Each repaints only what differs. Whether the banner has another height."""
        ink, width = palette_of(self.app), self.size.width
        self._paint_headline()
        hides_alert = self.views.current == "alerts" or self._acknowledged.hides_banner(self.state)
        is_moved = self._lines("banner").show(
            headline.banner(self.state, width, ink, self.cockpit.key_names, hides_alert=hides_alert)
        )
        placeholder = "a beginning for the model to continue" if self.run_folder else "open a run first"
        sampling = Text(str(self.prompting.sampling), ink.muted) if width >= 60 else Text()
        answerer = self.prompting.target_words(is_live=self._is_live)
        target = Text.assemble((f"{answerer} ".lstrip(), ink.muted), ("›", hue(ink, SKY)))
        self.query_one(PromptLine).show(target, sampling, placeholder)
        return is_moved

    def _paint_headline(self) -> None:
        ink, width = palette_of(self.app), self.size.width
        if self.run_folder is None:
            self._lines("headline").show([headline.without_run(self.cockpit.key_names, ink)])
            return
        silent = time.time() - (self.state.status.updated_at or time.time())
        unseen = self._acknowledged.unseen(self.state)
        self._lines("headline").show(
            [headline.headline(self.state, self._link, silent, width, ink, self._place_words(), unseen)]
        )

    def _place_words(self) -> str:
        words = [place_of(self.run_folder), "read-only" if self.is_read_only else ""]
        return " · ".join(word for word in words if word)

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#{name}", Lines)

    def _paint_keys(self, width: int) -> None:
        """Put together only when anything in it changes: it cost as much as a chart, at every frame."""
        pane, ink = self.pane, palette_of(self.app)
        unseen, state = self._acknowledged.unseen(self.state), self.state.status.state
        is_typing, is_answering = isinstance(self.focused, PromptInput), self.prompting.is_under_way
        said = width, pane, pane.hints, unseen, state, self.is_read_only, ink, is_typing, is_answering
        if said == self._keys_said:
            return
        self._keys_said = said
        names = self.cockpit.key_names
        if is_typing:
            hints, out = typing_hints(is_answering=is_answering)
            line = Text(" ") + fitted_hints(hints, out, width - 1, names, ink)
        else:
            line = keys_line(
                width=width,
                current=pane,
                unseen_alerts=unseen,
                state=state,
                is_read_only=self.is_read_only,
                names=names,
                ink=ink,
            )
        self._lines("keys").show([line])

    def _redraw_all(self) -> None:
        self._next_frame = 0.0
        self._change(ALL_AREAS)

    def _change(self, areas: AbstractSet[Area]) -> None:
        """Have these drawn with the next frame."""
        self._changed |= areas
        self.wake()

    def _say(self, words: str, severity: Literal["information", "warning", "error"]) -> None:
        self.notify(printable(words), severity=severity, timeout=10, markup=False)

    # Keys

    async def action_show_pane(self, name: str) -> None:
        """Keys that follow wait behind this one until the view has something for them to act on."""
        await self._bring(name)
        await self._until_filled()
        if not any(pane.id == name for pane in self.views.there):
            return  # the reader has left meanwhile
        if self.focused is not self.pane.first_focus and self.views.current == name:
            self.focus_pane()  # what has the keys may only be there since it is filled

    async def _bring(self, name: str) -> None:
        await self.views.bring(name)
        self.focus_pane()
        self._redraw_all()

    async def _until_filled(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.pane.is_filled.wait(), FILL_SECONDS)

    def _show_charts(self) -> None:
        """The view that is always at hand."""
        self.views.current = "charts"
        self.focus_pane()
        self._redraw_all()

    def focus_pane(self) -> None:
        """Give the keys to what is in sight."""
        self.set_focus(self.pane.first_focus)

    def action_turn(self, pages: int) -> None:
        self.pane.turn(pages)
        self._redraw_all()

    def action_go_back(self) -> None:
        if self.pane.go_back():
            self._redraw_all()
        elif self.views.current != "charts":
            self._show_charts()

    def action_help(self) -> None:
        """What has the keys now comes first."""
        chain = self.focused.ancestors_with_self if self.focused else [self]

        def is_elsewhere(section: Section) -> bool:
            return not any(isinstance(node, section[1]) for node in chain if node not in (self, self.app))

        self.app.push_screen(Help(sorted(key_sections(), key=is_elsewhere)))

    def action_copy(self) -> None:
        selected = self.get_selected_text()
        mine = ("the selection", selected) if selected else self.pane.to_copy(self.state)
        what, text = mine or ("a command", f"llmctl attach {self.state.status.name}")
        text = printable(text)
        self.app.copy_to_clipboard(text)
        kept = len(fitting(text))
        self._say(
            f"copied {what}: {count(kept)} characters"
            + (f" of {count(len(text))}, a terminal takes no more" if kept < len(text) else ""),
            "information",
        )

    def action_jump(self) -> None:
        targets = [w for w in self.query("*") if w.focusable and w.is_on_screen and w.region.area]
        self.app.push_screen(Jump(targets), self._jump_to)

    def _jump_to(self, target: Widget | None) -> None:
        if target is not None:
            self.set_focus(target)

    def action_meter(self) -> None:
        meter = self._lines("meter")
        meter.display = not meter.display
        self._read_meter()

    def action_differ(self) -> None:
        app = self.cockpit
        app.is_diffing = not app.is_diffing
        app.action_repaint()
        self._read_meter()

    def _read_meter(self) -> None:
        line = self._lines("meter")
        if line.display:
            app = self.cockpit
            differ = "on" if app.IS_DIFFED and app.is_diffing else "off"
            line.show([Text(f" {app.meter.read()}  differ {differ}", palette_of(self.app).muted)])

    @property
    def cockpit(self) -> "Cockpit":
        return cockpit_of(self.app)

    def _warn_of_unknown_keys(self) -> None:
        """The reader's own keys are given by id, and an id can be mistyped."""
        if not self._own_keys:
            return
        known = set(self.cockpit.key_names)
        for name in sorted(set(self._own_keys) - known):
            self._say(f'cockpit.toml: no key is called "{name}"{did_you_mean(name, known)}', "warning")

    def action_talk(self) -> None:
        self.query_one(PromptInput).focus()

    def action_compare_answers(self) -> None:
        from tui.screens.talk import TalkScreen

        self.app.push_screen(TalkScreen(self.run_folder, self.prompting.sampling))

    def action_pause_or_resume(self) -> None:
        state, run = self.state.status.state, self.run_folder
        if run is not None and state in RESUMABLE_STATES and not self.is_read_only:
            self.app.push_screen(
                Confirm(
                    f"Resume {run.name}?",
                    "It goes on from its newest good checkpoint; steps after that are made again.",
                ),
                lambda is_sure: self.send_errand(["resume", run.name]) if is_sure else None,
            )
        else:
            self.action_command("resume" if state == "paused" else "pause")

    def action_command(self, name: str) -> None:
        run = self.run_folder
        if run is None:
            self._say(f"open a run first: press {self.cockpit.key_names['pane.runs']}", "warning")
        elif not self.may_steer():
            return
        elif self.state.has_ended:
            state = self.state.status.state
            advice = "continue it" if state in RESUMABLE_STATES else "begin another from it"
            verb = "resume" if state in RESUMABLE_STATES else "fork"
            self._say(f"this run has ended ({state}); {advice} with: llmctl {verb} {run.name}", "warning")
        else:
            self._send(run, name, {}, None)

    def may_steer(self) -> bool:
        """Whether runs may be commanded and checkpoints touched; where not, the reader is told."""
        if self.is_read_only:
            self._say("this cockpit was opened with --readonly: it only looks", "warning")
        return not self.is_read_only

    def action_stop(self) -> None:
        if self.run_folder is None or self.state.has_ended or self.is_read_only:
            self.action_command("stop")
            return
        name = self.run_folder.name
        self.app.push_screen(
            Confirm(
                f"Stop {name}?",
                f"It saves a checkpoint at the next step, then ends. Continue it later with: llmctl resume {name}\n"
                f"What hangs and cannot save is ended with {self.cockpit.key_names['run.kill']}.",
            ),
            self._stop_if,
        )

    def _stop_if(self, is_sure: bool | None) -> None:
        if is_sure:
            self.action_command("stop")

    def action_set(self) -> None:
        run = self.run_folder
        if run is None or self.state.has_ended or self.is_read_only:
            self.action_command("set")
            return
        from trainer_daemon.contract.settings import CHANGEABLE

        self.app.push_screen(
            TypeIn(
                f"Change a value of {run.name}?",
                f"From the next step on, as KEY=VALUE. While it trains these may change: {', '.join(CHANGEABLE)}.",
            ),
            lambda typed: (
                self.send_errand(["set", run.name, typed.strip()]) if typed and typed.strip() else None
            ),
        )

    def action_kill(self) -> None:
        run = self.run_folder
        if run is None or self.state.has_ended or self.is_read_only:
            self.action_command("kill")
            return
        lost = self.state.status.step - (self.state.status.last_checkpoint or {"step": 0})["step"]
        self.app.push_screen(
            TypeIn(
                f"Kill {run.name}?",
                f"Every process of it ends at once, and {count(lost)} steps since its last checkpoint are lost. To do it, "
                "type the run's name:",
                expected=run.name,
            ),
            lambda typed: self.send_errand(["kill", run.name, "--yes"]) if typed else None,
        )

    # What llmctl does for us

    def send_errand(self, words: Sequence[str], run: RunDir | None = None) -> None:
        """Have llmctl do it; what it says is told when it is done. `run`: which it is about, else the one in sight."""
        about = run or self.run_folder
        assert about is not None
        errand = Errand(about, words)
        self._errands.append((errand, self.state))
        self._change(said_of_checkpoint(errand, self.state))

    def _tell_of(self, errand: Errand, state: RunState) -> None:
        words = f"{errand.words[0]}: {errand.said}"
        if errand.words[0] == "rm" and self.views.current == "runs":
            self._look_at_runs()
        changed = state.tell(Notice("error" if errand.has_failed else "info", words), time.time())
        changed |= said_of_checkpoint(errand, state)
        if state is self.state:
            self._change(changed)
        self._say(words, "error" if errand.has_failed else "information")
        is_here = state is self.state and not isinstance(self.run_folder, FarRun)
        if errand.words[0] == "fork" and not errand.has_failed and is_here:
            self._show_run(find_run(errand.out.split()[-1]))

    def on_checkpoints_pane_wanted(self, message: "CheckpointsPane.Wanted") -> None:
        from tui.screens import checkpoint_acts

        run, checkpoint = self.run_folder, self.state.checkpoints.get(message.path)
        if run is None or checkpoint is None:
            return
        if self._shelf.lacks(message.path):
            self._say(f"the checkpoint of step {count(checkpoint.step)} was pruned", "warning")
        elif message.act == "verify" or self.may_steer():
            is_pinned = message.path in self._shelf.pinned
            checkpoint_acts.begin(
                self.app, message.act, run.name, checkpoint.step, is_pinned=is_pinned, send=self.send_errand
            )

    @work(thread=True, group="command")
    def _send(self, run: RunDir, name: str, arguments: dict[str, object], request_id: str | None) -> None:
        from trainer_daemon.link.client import send_command

        try:
            send_command(run, name, arguments, request_id)
        except (LlmctlError, OSError) as e:
            self.app.call_from_thread(self._refused, name, str(e), request_id)

    def _refused(self, name: str, error: str, request_id: str | None) -> None:
        if request_id is not None:
            self._change(self.state.fail_sample(request_id, error))
        else:
            self._say(f"{name}: {error}", "error")

    # Talking to the model

    @property
    def _is_live(self) -> bool:
        """There is a model in training that answers."""
        return self._link == "live" and not self.state.has_ended

    def action_next_target(self) -> None:
        self.prompting.next_target(self._shelf.stored)
        self._change({"status"})

    def on_checkpoints_pane_chosen(self, message: "CheckpointsPane.Chosen") -> None:
        self.prompting.target = message.path
        self._change({"status"})
        self.action_talk()

    @on(PromptLine.Asked)
    async def _ask(self, message: PromptLine.Asked) -> None:
        prompting, is_live = self.prompting, self._is_live
        if message.text.startswith("/"):
            try:
                prompting.sampling = prompting.sampling.changed(message.text[1:])
                self._change({"status"})
            except ValueError as e:
                self._say(str(e), "warning")
            return
        if self.run_folder is None:
            self._say(f"open a run first: press {self.cockpit.key_names['pane.runs']}", "warning")
            return
        if nobody := prompting.why_nobody_answers(is_live=is_live):
            self._say(nobody, "warning")
            return
        if prompting.answering(is_live=is_live) is None and not self.may_steer():
            return  # a text of the model in training costs it time
        self._change(prompting.ask(message.text, is_live=is_live))
        if self.views.current != "samples":
            await self.views.bring("samples")
            self._redraw_all()

    @on(PromptInput.Left)
    def _leave_prompt(self) -> None:
        if self.prompting.is_under_way:
            self.prompting.stop()
        else:
            self.focus_pane()

    def on_descendant_focus(self) -> None:
        self._change({"status"})  # the last row says what keys do there

    def on_alerts_pane_sought(self, message: "AlertsPane.Sought") -> None:
        self.query_one(ChartGrid).look_at(self.state, message.step)

    def on_alerts_pane_turned(self) -> None:
        self._next_frame = 0.0
        self._change({"alerts"})

    @on(ChartGrid.ExportWanted)
    def _export(self, message: ChartGrid.ExportWanted) -> None:
        """Ask where to, then write what the chart shows."""
        chart, name = message.chart, self.state.status.name
        if self.run_folder is None or not self.may_steer():
            return

        def write(file: str | None) -> None:
            if file:
                self._write_chart(Path(file).expanduser(), *chart.shown_figure(), name)

        self.app.push_screen(
            TypeIn(
                f"Write the chart of {chart.spec.title} to a file?",
                f"Its ending says what it becomes: {', '.join(ENDINGS)}. A file that is there is written anew.",
                initial=f"{name}-{chart.spec.name}.svg",
            ),
            write,
        )

    @work(thread=True, group="export")
    def _write_chart(self, file: Path, figure: Figure, view: View, run: str) -> None:
        try:
            write_chart(file, figure, view, run)
        except LlmctlError as e:
            self.app.call_from_thread(self._say, str(e), "error")
        else:
            self.app.call_from_thread(self._say, f"wrote {file.absolute()}", "information")

    def on_runs_pane_found(self) -> None:
        self._change({"status"})

    def on_runs_pane_chosen(self, message: "RunsPane.Chosen") -> None:
        if self.run_folder is None or message.run.path != self.run_folder.path:
            self.open_run(message.run)
        self._show_charts()

    def action_new_run(self) -> None:
        if isinstance(self.run_folder, FarRun):
            self._say("this cockpit looks at another machine; begin runs there", "warning")
        elif self.may_steer():
            from tui.screens.new_run import NewRun
            from tui.spec_form import Draft  # and pydantic with it, which no frame waits for

            self.app.push_screen(NewRun(Draft()), lambda run: self._show_run(run) if run else None)

    def _show_run(self, run: RunDir) -> None:
        self.open_run(run)
        self._show_charts()

    def _resume(self, run: RunDir) -> None:
        self._show_run(run)
        self.send_errand(["resume", run.name])

    def on_runs_pane_wanted(self, message: "RunsPane.Wanted") -> None:
        from tui.screens import run_acts

        if self.may_steer():
            run_acts.begin(self.app, message.act, message.row, resume=self._resume, show=self._show_run)

    def _look_at_runs(self) -> None:
        from tui.panes.runs import RunsPane

        self.query_one(RunsPane).look()

    def on_runs_pane_doomed(self, message: "RunsPane.Doomed") -> None:
        from tui.screens import run_acts

        if self.may_steer():
            removing = run_acts.remove(
                self.app, message.rows, lambda words: self.send_errand(words, message.rows[0].run)
            )
            self.run_worker(removing, group="remove", exclusive=True)

    def on_runs_pane_overlaid(self, message: "RunsPane.Overlaid") -> None:
        open_path = self.run_folder.path if self.run_folder else None
        others = [run for run in message.runs if run.path != open_path]
        if not others:
            self._say("this is the run in sight; choose another to lay over it", "warning")
        elif not self.overlay.turn(others):
            key = self.cockpit.key_names["runs.overlay"]
            self._say(f"at most {MOST_RUNS} runs lie over this one; take one out with {key}", "warning")
        self._redraw_all()
