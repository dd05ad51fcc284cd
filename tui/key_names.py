"""Which key does what now: by the binding's id, as the reader bound it, so that no row names a key that does nothing.

All words about keys go through here but those of `?`, which has every key of a binding and not only its first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode

from tui.chart.palette import Palette
from tui.ink import SKY, hue

if TYPE_CHECKING:
    from tui.app import Cockpit

Hint = tuple[str, str]
"""(a binding's id, or several with blanks between, or a key that is always the same; the word for what it does)"""
SHORT = {"space": "␣"}


def as_bound(binding: Binding, own: Mapping[str, str]) -> Binding:
    """With the reader's own keys, where there are some. `own`: id -> keys."""
    key = own.get(binding.id or "")
    return replace(binding, key=key) if key else binding


def key_names(app: "Cockpit", owners: Iterable[type[DOMNode]]) -> Mapping[str, str]:
    """Binding id -> its first key, as short as a last row needs it."""
    bindings = [b for owner in owners for b in owner.BINDINGS if isinstance(b, Binding) and b.id]
    names = {}
    for binding in bindings:
        first = next(iter(Binding.make_bindings([as_bound(binding, app.settings.keys)])))
        shown = app.get_key_display(first)
        names[binding.id or ""] = SHORT.get(shown, shown)
    return names


def cockpit_of(app: App[object]) -> "Cockpit":
    """The app, as what it is."""
    from tui.app import Cockpit  # which loads all that needs this behind its first frame

    assert isinstance(app, Cockpit)
    return app


def hint_line(hints: Sequence[Hint], names: Mapping[str, str], ink: Palette, gap: str = "  ") -> Text:
    """`/ ask  P pause`"""
    return Text(gap).join(
        Text.assemble((spelled(ids, names), hue(ink, SKY)), (f" {word}", ink.muted)) for ids, word in hints
    )


def spelled(ids: str, names: Mapping[str, str]) -> str:
    """The keys of a hint: `[ ]`."""
    return " ".join(names.get(one, one) for one in ids.split())
