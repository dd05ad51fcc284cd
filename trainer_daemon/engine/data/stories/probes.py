"""Questions with one right answer, cut out of held-out stories: does a model keep the names, the things, the colours?

A probe is a story cut right before a later mention of one of its facts, with the fact and three other words of the same
kind that occur nowhere in the story. Sums are cut before the first mention of the total, once both addends are known.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from itertools import count as count_from
from typing import Literal, TypeAlias, get_args

from trainer_daemon.engine.data.stories.generator import ROLES, Telling, held_out_index, tell
from trainer_daemon.engine.data.stories.lexicon import LARGEST_ADDEND, NUMBERS, POOLS, Entry

ProbeKind: TypeAlias = Literal["name", "object", "colour", "place", "sum"]
PROBE_KINDS: tuple[ProbeKind, ...] = get_args(ProbeKind)

_ROLE_OF_KIND: dict[ProbeKind, tuple[str, ...]] = {
    "name": ("hero",),
    "object": ("thing", "toy"),
    "colour": ("colour",),
    "place": ("place",),
    "sum": ("sum",),
}


@dataclass(frozen=True, slots=True)
class Probe:
    """A multiple-choice question: `prefix`, one space, then the choice whose tokens cost the model least each."""

    prefix: str
    """The story up to the answer, without the space before it."""
    choices: tuple[str, str, str, str]
    gold: int
    """Which of `choices` the story goes on with. Chance is 0.25."""
    kind: ProbeKind
    index: int
    """The story it was cut from; always a held-out one."""


def probes(seed: int, count: int, level: int = 1) -> Iterator[Probe]:
    """`count` probes of the corpus `seed`, the kinds in turn, each from a story of its own; the same for ever within a
    `GENERATOR_VERSION`. Raises ValueError for a level that is not 1, 2 or 3."""
    indices = map(held_out_index, count_from())
    for number in range(count):
        kind = PROBE_KINDS[number % len(PROBE_KINDS)]
        yield next(probe for index in indices if (probe := probe_story(seed, index, level, kind)) is not None)


def probe_story(seed: int, index: int, level: int, kind: ProbeKind) -> Probe | None:
    """The question of this kind that story `index` can ask, or None where it has no such fact or says it only once."""
    _, telling = tell(seed, index, level)
    role = next((role for role in _ROLE_OF_KIND[kind] if role in telling.cast), None)
    cut = None if role is None else _cut(telling, role)
    if role is None or cut is None:
        return None
    gold = telling.cast[role]
    text = "".join(telling.parts)
    said = set(re.findall(r"\w+", text.lower()))
    others = [entry[""] for entry in _alike(gold, role, level) if entry[""].lower() not in said]
    if len(others) < 3:
        return None
    choices = [others.pop(telling.draw(len(others))) for _ in range(3)]
    place = telling.draw(4)
    choices.insert(place, gold[""])
    a, b, c, d = choices
    return Probe(text[:cut], (a, b, c, d), place, kind, index)


def _cut(telling: Telling, role: str) -> int | None:
    """Where the probe's prefix ends: at the space before the last mention that can be asked for."""
    word = telling.cast[role][""]
    starts = list(accumulate(map(len, telling.parts), initial=0))
    mentions = [part for said, part in telling.mentions if said == role]
    if role == "sum":
        addends = {said for said, part in telling.mentions if part < mentions[0]} & {"n", "m"}
        mentions = mentions[:1] if len(addends) == 2 else []
    else:
        mentions = mentions[1:]
    text = "".join(telling.parts)
    for part in reversed(mentions):
        start = starts[part + 1] - len(word)
        # a capital opens a sentence, where anything may follow; an article gives the first letter away
        if text.startswith(f" {word}", start - 1) and not text.endswith((" a", " an"), 0, start - 1):
            return start - 1
    return None


def _alike(gold: Entry, role: str, level: int) -> list[Entry]:
    """The words that fit where `gold` stands: a name of the same pronouns, a place with the same preposition."""
    if role == "sum":
        return list(NUMBERS[4 : 2 * LARGEST_ADDEND[level] + 1])
    pool = POOLS[level][ROLES[role]]
    if role == "hero":
        return [entry for entry in pool if entry["he"] == gold["he"]]
    if role == "place":
        return [entry for entry in pool if entry["in"].split()[0] == gold["in"].split()[0]]
    return list(pool)
