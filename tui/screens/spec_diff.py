"""In what the specs of several runs differ: only that, by section, a column a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui.ink import SKY, hue, palette_of
from tui.key_names import cockpit_of, hint_line
from tui.spec_table import differences_by_section, name_in_section, spelled
from tui.widgets.lines import Lines
from tui.widgets.spec_sheet import SheetRow, SpecSheet
from tui.widgets.table import Table

if TYPE_CHECKING:
    from trainer_daemon.contract.spec import RunSpec

LONG = 16
"""A value of more cells is told in full below the table."""


class SpecDiff(Screen[None]):
    DEFAULT_CSS = """
    SpecDiff { layout: vertical; }
    SpecDiff #diff-title { height: 1; background: $surface; margin-bottom: 1; }
    SpecDiff SpecSheet { padding: 0 2; }
    SpecDiff #diff-keys { height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,d", "dismiss", "back", id="diff.back", tooltip="Back to the list of runs"),
    ]

    def __init__(self, runs: Sequence[tuple[str, RunSpec]]) -> None:
        """`runs`: names with specs, the one to compare with first."""
        super().__init__()
        self._names = [name for name, _ in runs]
        self._differences = differences_by_section(*(spec for _, spec in runs))

    def compose(self) -> ComposeResult:
        yield Lines([Text()], id="diff-title")
        yield SpecSheet(id="diff-sheet")
        yield Lines([Text()], id="diff-keys")

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        self.query_one(Table).focus()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        ink = palette_of(self.app)
        number = sum(map(len, self._differences.values()))
        told = f"{number} values differ" if number else "their specs are the same"
        title = Text.assemble(
            (" Δ ", hue(ink, SKY)), (" · ".join(self._names), ink.title), (f"   {told}", ink.muted)
        )
        self.query_one("#diff-title", Lines).show([title])
        rows = []
        for keys in self._differences.values():
            for key, values in keys.items():
                first, *others = values
                cells = [Text(spelled(first))]
                cells += [Text(spelled(v), hue(ink, SKY) if v != first else ink.muted) for v in others]
                rows.append(SheetRow(key, Text(name_in_section(key)), cells, self._long_values(values)))
        self.query_one(SpecSheet).show([Text(name) for name in self._names], rows)
        self.query_one("#diff-keys", Lines).show(
            [Text(" ") + hint_line([("diff.back", "back")], cockpit_of(self.app).key_names, ink)]
        )

    def _long_values(self, values: Sequence[Any]) -> list[Text]:
        """What a cell may have cut, run by run."""
        told = [spelled(value) for value in values]
        if max(map(len, told)) <= LONG:
            return []
        return [Text(f"{name}: {words}") for name, words in zip(self._names, told, strict=True)]
