"""The template language the plots are written in: parsed once into nested tuples, so that telling a story is a walk.

`{a|b|c}` is one of several ways to say it (they nest, and one may be empty); `{thing}` is a word from the lexicon, the same
one wherever the story says it again; `{friend.him}` is another form of it, `{a thing}` the word with its article, and a
capital (`{He}`, `{A colour}`) makes the first letter one. `{he} {him} {his} {himself} {child}` are the hero's. Words that
return in many plots are named once as a fragment (`{One day}`), which stands for its own alternatives.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Slot:
    """A word the story fixes at its first mention: `role` says whose word it is, `form` how it is said."""

    role: str
    form: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Alternatives, each as likely as the other."""

    ways: tuple["Template", ...]


Template: TypeAlias = tuple[str | Slot | Choice, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A title and the beats in order; a beat is told in one of several ways."""

    title: str
    beats: tuple[Choice, ...]


HEROS_OWN = ("he", "him", "his", "himself", "child")
"""Forms that a template may write without saying whose they are."""

CAPITAL = "^"
"""The form of a bare word that opens a sentence (`{Food}`)."""

_MARK = re.compile(r"([{|}])")


def parse_plots(text: str, fragments: Mapping[str, str]) -> tuple[Plot, ...]:
    """Read plots: `# title`, then beats divided by blank lines; each line is one way to tell its beat, an indented line
    goes on with the one above. Raises ValueError, naming the plot, where braces do not match or alternatives are equal.
    """
    known: dict[str, Template] = {}
    for name, way in fragments.items():
        known[name] = parse_template(way, known)
    plots = []
    for block in re.split(r"^# ", text.strip(), flags=re.MULTILINE)[1:]:
        title, _, body = block.partition("\n")
        try:
            beats = [_parse_beat(beat, known) for beat in re.split(r"\n\s*\n", body.strip("\n"))]
        except ValueError as error:
            raise ValueError(f"plot {title.strip()!r}: {error}") from error
        plots.append(Plot(title.strip(), tuple(beats)))
    return tuple(plots)


def _parse_beat(beat: str, fragments: Mapping[str, Template]) -> Choice:
    lines = re.sub(r"\n +", " ", beat.strip()).split("\n")
    return _choice([parse_template(line, fragments) for line in lines])


def parse_template(text: str, fragments: Mapping[str, Template]) -> Template:
    """Raises ValueError where braces do not match, alternatives are equal, or `|` stands outside braces."""
    marks = [mark for mark in _MARK.split(text) if mark]
    ways, end = _parse_ways(marks, 0, fragments)
    if end != len(marks) or len(ways) != 1:
        raise ValueError(f"a {'brace' if end != len(marks) else 'bar'} too many in {text!r}")
    return ways[0]


def _parse_ways(marks: list[str], at: int, fragments: Mapping[str, Template]) -> tuple[list[Template], int]:
    """Read alternatives up to the closing brace or the end; returns them and where it stopped."""
    ways: list[Template] = []
    nodes: list[str | Slot | Choice] = []
    while at < len(marks) and marks[at] != "}":
        if marks[at] == "|":
            ways.append(tuple(nodes))
            nodes = []
        elif marks[at] == "{":
            inner, at = _parse_ways(marks, at + 1, fragments)
            if at == len(marks):
                raise ValueError(f"a brace is not closed in {''.join(marks)!r}")
            nodes.extend(_reference(inner[0], fragments) if len(inner) == 1 else (_choice(inner),))
        else:
            nodes.append(marks[at])
        at += 1
    ways.append(tuple(nodes))
    return ways, at


def _choice(ways: list[Template]) -> Choice:
    if len(set(ways)) < len(ways):
        raise ValueError(f"two alternatives are equal, so their choice would not show: {ways}")
    return Choice(tuple(ways))


def _reference(inner: Template, fragments: Mapping[str, Template]) -> Template:
    """What braces without a bar hold: a fragment's name or a slot."""
    if len(inner) != 1 or not isinstance(inner[0], str):
        raise ValueError(f"braces without a bar hold one name, not {inner}")
    name = inner[0]
    if name in fragments:
        return fragments[name]
    article, _, rest = name.rpartition(" ")
    role, _, form = rest.partition(".")
    form = article or form
    if role.lower() in HEROS_OWN:
        return (Slot("hero", role),)
    if role[:1].isupper():
        role, form = role.lower(), form.capitalize() or CAPITAL
    return (Slot(role, form),)
