"""Which key does what now: by the binding's id, as the reader bound it, so that no row names a key that does nothing.

All words about keys go through here but those of `?`, which has every key of a binding and not only its first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


class KeyNames(Mapping[str, str]):
    """Binding id -> its first key, as short as a last row needs it."""

    def __init__(
        self, app: "Cockpit", first: Iterable[type[DOMNode]], rest: Callable[[], Iterable[type[DOMNode]]]
    ) -> None:
        """`first`: who has the keys that the first frame names. `rest`: everyone else, loaded when one of theirs is asked for."""
        self._app = app
        self._names = self._of(first)
        self._rest: Callable[[], Iterable[type[DOMNode]]] | None = rest

    def __getitem__(self, name: str) -> str:
        return self._names[name] if name in self._names else self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> Mapping[str, str]:
        if self._rest is not None:
            rest, self._rest = self._rest, None
            self._names |= self._of(rest())
        return self._names

    def _of(self, owners: Iterable[type[DOMNode]]) -> dict[str, str]:
        names = {}
        for binding in (b for owner in owners for b in owner.BINDINGS if isinstance(b, Binding) and b.id):
            key = next(iter(Binding.make_bindings([as_bound(binding, self._app.settings.keys)])))
            shown = self._app.get_key_display(key)
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


def fitted_hints(
    hints: Sequence[Hint],
    always: Sequence[Hint],
    width: int,
    names: Mapping[str, str],
    ink: Palette,
    gap: str = "  ",
) -> Text:
    """As many of `hints` as there is room for beside `always`; of these the last, the way out, is left at any width."""
    own, rest = list(hints), list(always)
    line = hint_line([*own, *rest], names, ink, gap)
    while line.cell_len > width and len(own) + len(rest) > 1:
        (own or rest).pop(-1 if own else 0)
        line = hint_line([*own, *rest], names, ink, gap)
    return line


def spelled(ids: str, names: Mapping[str, str]) -> str:
    """The keys of a hint: `[ ]`."""
    return " ".join(names.get(one, one) for one in ids.split())
