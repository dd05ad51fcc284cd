"""Every key, with what it does and its id for cockpit.toml, read off the bindings themselves: help that cannot go stale."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.dom import DOMNode
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.ink import SKY, hue, palette_of
from tui.key_names import as_bound, cockpit_of

KEY_WIDTH, NAME_WIDTH = 8, 14
Section = tuple[str, tuple[type[DOMNode], ...]]
"""A heading, and whose keys stand under it."""


class Help(ModalScreen[None]):
    DEFAULT_CSS = """
    Help { align: center middle; background: $background 60%; }
    Help > VerticalScroll {
        width: 104; max-width: 96%; height: auto; max-height: 94%; padding: 1 2; background: $surface;
        border: round $primary; scrollbar-size-vertical: 1;
    }
    Help Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss", "Close", id="help.close", tooltip="Back to the cockpit"),
        Binding("j", "scroll(1)", "Down", id="help.down", tooltip="Scroll down", show=False),
        Binding("k", "scroll(-1)", "Up", id="help.up", tooltip="Scroll up", show=False),
        Binding("g", "scroll_to(0)", "Top", id="help.top", tooltip="To the beginning", show=False),
        Binding("G", "scroll_to(1)", "End", id="help.end", tooltip="To the end", show=False),
    ]

    def __init__(self, sections: Sequence[Section]) -> None:
        super().__init__()
        self._sections = sections

    def compose(self) -> ComposeResult:
        with VerticalScroll() as scroll:
            scroll.border_title = "keys, those of where you are first"
            names = cockpit_of(self.app).key_names
            scroll.border_subtitle = (
                f"{names['help.down']} {names['help.up']} PgDn scroll   {names['help.close']} closes"
            )
            yield Static(self._text())

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def action_scroll_to(self, share: int) -> None:
        scroll = self.query_one(VerticalScroll)
        scroll.scroll_to(y=share * scroll.max_scroll_y, animate=False)

    def _text(self) -> Group:
        ink = palette_of(self.app)

        def table(rows: Iterable[tuple[str, str, str]]) -> Table:
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(width=KEY_WIDTH, style=hue(ink, SKY))
            grid.add_column(width=NAME_WIDTH)
            grid.add_column(style=ink.muted)
            for keys, name, words in rows:
                grid.add_row(f"  {keys}", name, words)
            return grid

        parts: list[Text | Table] = []
        for title, owners in self._sections:
            rows = [
                self._row(b)
                for owner in owners
                for b in owner.BINDINGS
                if isinstance(b, Binding) and b.tooltip
            ]
            parts += [Text(title, ink.title), table(rows), Text()]
        parts.append(
            table(
                [
                    ("tab", "Next", "Chart or view; shift+tab goes back"),
                    ("^p", "Palette", "Any command; themes"),
                ]
            )
        )
        return Group(*parts)

    def _row(self, binding: Binding) -> tuple[str, str, str]:
        bound = as_bound(binding, cockpit_of(self.app).settings.keys)
        keys = " ".join(self.app.get_key_display(single) for single in Binding.make_bindings([bound]))
        return keys, binding.description.capitalize(), f"{binding.tooltip} ({binding.id})"
