"""Telling a story: a pure function of (seed, index, level), so the corpus needs no file, no order and no state.

Randomness is our own splitmix64, keyed by seed and index, because a corpus must not change with Python's `random`. A word
is drawn at its first mention, so that every draw shows in the text and the bits of a story can be counted: the corpus
carries its own entropy floor, which no downloaded text can.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trainer_daemon.engine.data.stories.grammar import Choice, Plot, Slot, Template, parse_plots
from trainer_daemon.engine.data.stories.lexicon import HIDING, LEVELS, NUMBERS, POOLS, Entry, Pool
from trainer_daemon.engine.data.stories.plots import FRAGMENTS, PLOTS

GENERATOR_VERSION = 1
"""Part of a dataset's fingerprint; goes up with any change that changes any story."""

HELD_OUT_EVERY = 100

ROLES: Mapping[str, str] = MappingProxyType(
    {
        "hero": "children",
        "friend": "children",
        "adult": "adults",
        "neighbour": "neighbours",
        "pet": "pets",
        "kitten": "kinds of pet",
        "animal": "animals",
        "animal2": "animals",
        "thing": "things",
        "toy": "toys",
        "colour": "colours",
        "place": "places",
        "fruit": "fruit",
        "treat": "treats",
        "n": "addends",
        "m": "addends",
    }
)
"""Who or what a slot speaks of, and the pool it draws from. Two roles of one pool are never the same, numbers apart.
Two more follow from others: `hiding` is a spot in `place`, `sum` is n + m."""


@dataclass(frozen=True, slots=True)
class Story:
    """One document of the corpus."""

    text: str
    bits: float
    """log2 of the number of stories that were as likely as this one: the sum over its choices of log2 of their ways. An
    upper bound on the information in the text, tight where each choice shows in it and no two ways read the same."""
    facts: Mapping[str, str]
    """What holds throughout the story, by role as in `ROLES` (hero, thing, colour, place, sum, ...), and its `plot`. Roles
    that the story never mentions are absent."""


def story(seed: int, index: int, level: int = 1) -> Story:
    """The story number `index` >= 0 of the corpus `seed`; the same for ever within a `GENERATOR_VERSION`.

    Raises ValueError for a level that is not 1, 2 or 3.
    """
    plot, telling = tell(seed, index, level)
    facts = {role: entry[""] for role, entry in telling.cast.items()}
    return Story("".join(telling.parts), math.log2(telling.ways), {"plot": plot.title, **facts})


def is_held_out(index: int) -> bool:
    """Whether a story is for validation and never for training; holds for every seed."""
    return index % HELD_OUT_EVERY == 0


def held_out_index(position: int) -> int:
    """The index of the held-out story number `position` >= 0."""
    return position * HELD_OUT_EVERY


def train_index(position: int) -> int:
    """The index of the training story number `position` >= 0: counts up and passes over the held-out ones."""
    return position + position // (HELD_OUT_EVERY - 1) + 1


def floor_bits_per_byte(seed: int, indices: Iterable[int], level: int = 1) -> float:
    """The bits per byte that a perfect model of the grammar reaches on these stories: sum of bits / sum of UTF-8 bytes.

    An upper bound on the true entropy, by the word of `Story.bits`. Separators between documents are not counted.
    Raises ValueError where there are no indices.
    """
    bits, size = 0.0, 0
    for index in indices:
        told = story(seed, index, level)
        bits += told.bits
        size += len(told.text.encode())
    if size == 0:
        raise ValueError("floor_bits_per_byte needs at least one story index")
    return bits / size


_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    """The output function of splitmix64 (Steele, Lea & Flood 2014): a bijection of 64-bit words that scatters neighbours."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class Telling:
    """A story while it is told: what has been said, what it has fixed, and in how many ways it could have gone."""

    __slots__ = ("_pools", "_state", "cast", "mentions", "parts", "ways")

    def __init__(self, key: int, pools: Mapping[str, Pool]) -> None:
        self._state = key
        self._pools = pools
        self.cast: dict[str, Entry] = {}
        self.parts: list[str] = []
        self.mentions: list[tuple[str, int]] = []
        """(role, position in `parts`) of each slot said, in order."""
        self.ways = 1

    def draw(self, ways: int) -> int:
        """A number below `ways`, each as likely."""
        self.ways *= ways
        self._state = (self._state + _GOLDEN) & _MASK
        return (_mix(self._state) * ways) >> 64

    def say(self, template: Template) -> None:
        for node in template:
            if isinstance(node, str):
                self.parts.append(node)
            elif isinstance(node, Slot):
                entry = self.cast.get(node.role) or self._introduce(node.role)
                self.mentions.append((node.role, len(self.parts)))
                self.parts.append(entry[node.form])
            else:
                self.say(node.ways[self.draw(len(node.ways))])

    def _introduce(self, role: str) -> Entry:
        entry = self.cast[role] = self._choose(role)
        return entry

    def _choose(self, role: str) -> Entry:
        if role == "sum":
            return NUMBERS[
                sum(NUMBERS.index(self.cast.get(addend) or self._introduce(addend)) for addend in ("n", "m"))
            ]
        if role == "hiding":
            place = self.cast.get("place") or self._introduce("place")
            pool = HIDING[place[""]]
        else:
            pool = self._pools[ROLES[role]]
            rival = self.cast.get(_RIVALS.get(role, ""))
            if rival is not None:
                pool = tuple(entry for entry in pool if entry is not rival)
        return pool[self.draw(len(pool))]


_RIVALS = {"hero": "friend", "friend": "hero", "animal": "animal2", "animal2": "animal"}
"""Roles that draw from one pool and must differ; two numbers may be equal."""


def tell(seed: int, index: int, level: int) -> tuple[Plot, Telling]:
    """`story` with its parts still apart."""
    if level not in POOLS:
        raise ValueError(f"level {level} is not one of {', '.join(map(str, LEVELS))}")
    corpus = _mix((_mix(seed & _MASK) + level) & _MASK)
    telling = Telling(_mix((corpus + index * _GOLDEN) & _MASK), POOLS[level])
    plot = _PLOTS[telling.draw(len(_PLOTS))]
    for beat in plot.beats:
        if telling.parts:
            telling.parts.append(" ")
        telling.say((beat,))
    return plot, telling


def check_slots(plots: tuple[Plot, ...]) -> tuple[Plot, ...]:
    """Raises ValueError where a plot says a role or a form that no pool has: at import, not in story 4,711."""
    examples = {role: POOLS[1][pool][0] for role, pool in ROLES.items()}
    examples |= {"hiding": HIDING["garden"][0], "sum": NUMBERS[4]}

    def check(template: Template, title: str) -> None:
        for node in template:
            if isinstance(node, Choice):
                for way in node.ways:
                    check(way, title)
            elif isinstance(node, Slot) and node.role not in examples:
                raise ValueError(
                    f"plot {title!r}: {node} is neither a fragment nor one of {sorted(examples)}"
                )
            elif isinstance(node, Slot) and node.form not in examples[node.role]:
                raise ValueError(
                    f"plot {title!r}: {node} has a form that is not in {sorted(examples[node.role])}"
                )

    for plot in plots:
        check(plot.beats, plot.title)
    return plots


_PLOTS = check_slots(parse_plots(PLOTS, FRAGMENTS))
