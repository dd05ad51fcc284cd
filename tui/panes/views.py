"""The cockpit's views. One of eight is seen when a run is opened, and the others would take longer to load, compose and style than its
curves to read and draw: so each is put together when it is first asked for, or by `complete` while nobody waits."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from textual.app import ComposeResult

from trainer_daemon.contract.rundir import RunDir
from tui.acknowledged import Acknowledged
from tui.chart.symbols import Symbols
from tui.feed import Shelf
from tui.overlay import Overlay
from tui.panes.charts import ChartsPane
from tui.panes.pane import Pane
from tui.widgets.ready import Views

PANES = ("charts", "samples", "checkpoints", "log", "runs", "system", "spec", "alerts")


@dataclass(frozen=True)
class Around:
    """What views show beside the run in sight; kept by the cockpit, read by them."""

    overlay: Overlay
    shelf: Shelf
    acknowledged: Acknowledged
    symbols: Symbols
    """Of curves and bars."""


class PaneViews(Views):
    """One of `PANES` in sight. The charts are there from the beginning."""

    def __init__(self, around: Around, *, id: str) -> None:  # noqa: A002  Textual's name
        super().__init__(initial="charts", id=id)
        self._around = around
        self._run: RunDir | None = None
        self._mounting = asyncio.Lock()

    def compose(self) -> ComposeResult:
        yield ChartsPane(self._around.overlay, self._around.symbols, id="charts")

    @property
    def there(self) -> Sequence[Pane]:
        """Those that were put together so far."""
        return [pane for pane in self.children if isinstance(pane, Pane)]

    @property
    def in_sight(self) -> Pane:
        pane = self.visible_content
        assert isinstance(pane, Pane)
        return pane

    @property
    def are_all_there(self) -> bool:
        return len(self.children) == len(PANES) and not self._mounting.locked()

    def follow(self, run: RunDir | None) -> None:
        """Have all of them show this run from now on, or none."""
        self._run = run
        for pane in self.there:
            pane.follow(run)

    async def bring(self, name: str) -> None:
        """Put a view in sight."""
        await self._put_together(name)
        self.current = name

    async def complete(self) -> None:
        """Put all views together, one after the other, so that keys are heard in between."""
        for name in PANES:
            await self._put_together(name)

    async def _put_together(self, name: str) -> None:
        async with self._mounting:
            if any(pane.id == name for pane in self.children):
                return
            pane = await asyncio.to_thread(make_pane, name, self._around)  # which loads its modules
            if not self.is_attached:  # the reader has left meanwhile
                return
            pane.display = False
            await self.mount(pane)
            if self._run is not None:
                pane.follow(self._run)


def make_pane(name: str, around: Around) -> Pane:
    """The view of that name, one of `PANES`; its modules are loaded first."""
    match name:
        case "samples":
            from tui.panes.samples import SamplesPane

            return SamplesPane(id=name)
        case "checkpoints":
            from tui.panes.checkpoints import CheckpointsPane

            return CheckpointsPane(around.shelf, around.symbols, id=name)
        case "log":
            from tui.panes.log import LogPane

            return LogPane(id=name)
        case "runs":
            from tui.panes.runs import RunsPane

            return RunsPane(around.overlay, id=name)
        case "system":
            from tui.panes.system import SystemPane

            return SystemPane(around.symbols, id=name)
        case "spec":
            from tui.panes.spec import SpecPane

            return SpecPane(id=name)
        case "alerts":
            from tui.panes.alerts import AlertsPane

            return AlertsPane(around.acknowledged, id=name)
    raise AssertionError(f"no view is called {name}")
