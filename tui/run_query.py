"""One line that picks runs, the same in the cockpit and behind `llmctl ls --where`:

    state:running val<0.9 depth>=12 data:stories -tag:old fox

All terms have to hold. A plain word is part of the name; `-` before a term turns it round; `a,b` is either. Fields are
those of `llmctl status --json` and the keys of the spec, the latter also by their last part where only one ends so. What
is not known of a run holds for no comparison. Pure functions; neither the cockpit's libraries nor numpy are loaded.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from trainer_daemon.contract.errors import SpecError, did_you_mean
from trainer_daemon.contract.events import FINAL_STATES, State
from trainer_daemon.contract.status import RunStatus

if TYPE_CHECKING:
    from trainer_daemon.contract.spec import RunSpec

EXAMPLE = "state:running val<0.9 depth>=12 fox"
Facts = dict[str, Any]
"""What can be asked of one run, by field."""
T = TypeVar("T")

SHORT_NAMES = {
    "val": "val_bpb",
    "best": "min_val_bpb",
    "loss": "loss_nats",
    "eta": "eta_seconds",
    "of": "total_steps",
    "speed": "tokens_per_second",
    "ranks": "world_size",
    "from": "forked_from",
    "data": "data.source",
    "lr": "optim.matrix_lr",
    "batch": "train.global_batch_tokens",
}
_INTERNAL = {"cursors", "settings", "learning_rates", "step_parts", "last_checkpoint", "trained_until"}
GROUPS = {"live": frozenset(get_args(State)) - FINAL_STATES, "ended": FINAL_STATES}
"""What `state:` takes beside the states."""

_WORD = re.compile(r'(?:"[^"]*"|\S)+')
_COMPARISON = re.compile(r"([A-Za-z_][\w.]*)(!=|<=|>=|:|=|<|>)(.*)", re.DOTALL)
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-zA-Z%]*)", re.IGNORECASE)
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SCALES = {"": 1.0, "%": 0.01, "k": 1e3, "M": 1e6, "m": 1e6, "B": 1e9, "b": 1e9, "G": 1e9, "T": 1e12}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed line: what all of its terms ask."""

    text: str
    terms: tuple[Callable[[Facts], bool], ...]

    def holds(self, facts: Facts) -> bool:
        return all(term(facts) for term in self.terms)


class QueryError(SpecError):
    """A query of which a term cannot be understood."""

    def __init__(self, message: str, column: int, understood: Query) -> None:
        super().__init__(message)
        self.column = column
        """Where in the query, in characters from its start."""
        self.understood = understood
        """What the other terms ask."""


def facts_of(status: RunStatus, spec: RunSpec | None, now: float) -> Facts:
    """What can be asked of a run; of the spec nothing where it cannot be read."""
    from trainer_daemon.contract.spec import flat_values

    facts = {name: value for name, value in asdict(status).items() if name not in _INTERNAL}
    facts["age_seconds"] = None if status.updated_at is None else max(0.0, now - status.updated_at)
    facts["error"] = status.error["message"] if status.error else None
    facts["alert"] = status.alert["message"] if status.alert else None
    return facts | (flat_values(spec) if spec else {})


@lru_cache(maxsize=1)
def known_fields() -> tuple[str, ...]:
    """All fields, those of the status first."""
    from trainer_daemon.contract.spec import all_keys

    status = [field.name for field in fields(RunStatus) if field.name not in _INTERNAL]
    return (*dict.fromkeys([*status, "age_seconds", *all_keys()]),)


def field_named(name: str) -> str:
    """The field that is meant by its name, a short name or the last part of a spec's key. Raises SpecError."""
    known = known_fields()
    if name in known:
        return name
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    ends = [field for field in known if field.rpartition(".")[2] == name]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise SpecError(f'"{name}" could be {", ".join(ends)}; say which')
    hint = did_you_mean(name, [*known, *SHORT_NAMES, *(field.rpartition(".")[2] for field in known)])
    raise SpecError(
        f'no field is called "{name[:40]}"{hint or "; fields are those of status --json and of the spec"}'
    )


def parse_query(text: str) -> Query:
    """Raises QueryError saying what is wrong with the first term that cannot be understood."""
    terms: list[Callable[[Facts], bool]] = []
    wrong: list[tuple[int, str]] = []
    for word in _WORD.finditer(text):
        try:
            terms.append(_term(word.group()))
        except SpecError as e:
            wrong.append((word.start(), str(e)))
    query = Query(text, tuple(terms))
    if wrong:
        column, message = wrong[0]
        raise QueryError(message, column, query)
    return query


def _term(word: str) -> Callable[[Facts], bool]:
    if word.count('"') % 2:
        raise SpecError('a quote (") is not closed')
    is_turned = word.startswith("-") and len(word) > 1
    holds = _positive_term(word[1:] if is_turned else word)
    return (lambda facts: not holds(facts)) if is_turned else holds


def _positive_term(word: str) -> Callable[[Facts], bool]:
    if (match := _COMPARISON.fullmatch(word)) is None:
        part = _unquoted(word).casefold()
        return lambda facts: part in f"{facts['name']} {facts['tag']}".casefold()
    name, sign, quoted = match.groups()
    field, value = field_named(name), _unquoted(quoted)
    if not value:
        raise SpecError(f'after "{name}{sign}" comes a value{_such_as(field, sign)}')
    if sign in _ORDER:
        wanted, compare = _number(value, field), _ORDER[sign]
        return lambda facts: (known := _as_number(facts.get(field))) is not None and compare(known, wanted)
    parts = [part for part in value.split(",") if part]
    tests = [_state_test(part) if field == "state" else _value_test(field, sign, part) for part in parts]
    if sign == "!=":
        return lambda facts: not any(test(facts) for test in tests)
    return lambda facts: any(test(facts) for test in tests)


def _unquoted(text: str) -> str:
    return text.replace('"', "")


def _such_as(field: str, sign: str) -> str:
    if field == "state":
        return f", such as {', '.join(get_args(State)[:3])}, live or ended"
    return ", such as 0.9, 12k or 3M" if sign in _ORDER else ""


def _state_test(text: str) -> Callable[[Facts], bool]:
    states = GROUPS.get(text) or {state for state in get_args(State) if state.startswith(text)}
    if not states:
        known = [*get_args(State), *GROUPS]
        raise SpecError(
            f'there is no state "{text[:40]}"{did_you_mean(text, known)}; there are: {", ".join(known)}'
        )
    return lambda facts: facts["state"] in states


def _value_test(field: str, sign: str, text: str) -> Callable[[Facts], bool]:
    """`:` finds a part of a text; `=` and `!=` want the whole; numbers are compared as numbers."""
    folded = text.casefold()
    try:
        number: float | None = _number(text, field)
    except SpecError:
        number = None

    def holds(facts: Facts) -> bool:
        known = facts.get(field)
        if known is None:
            return folded in ("none", "null")
        if isinstance(known, bool):
            return folded in (("yes", "true", "on") if known else ("no", "false", "off"))
        if isinstance(known, int | float):
            return number is not None and math.isclose(known, number, rel_tol=1e-9)
        told = str(known).casefold()
        return folded in told if sign == ":" else folded == told

    return holds


def _number(text: str, field: str) -> float:
    """`0.9`, `12k`, `3M`, `1e18`, `40%`; of a time `90s`, `2h`. Raises SpecError."""
    is_time = field.endswith(("_seconds", "_minutes"))
    scales = _SECONDS if is_time else _SCALES
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in scales:
        example = "90s, 10m or 2h" if is_time else "0.9, 12k or 3M"
        raise SpecError(f'"{text[:40]}" is no number for {field}, such as {example}')
    value = float(match[1]) * scales[match[2]]
    return value / 60 if field.endswith("_minutes") and match[2] else value


def _as_number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if is_number and isinstance(value, int | float) else None


def sorted_by(
    rows: Iterable[T], field: str, facts: Callable[[T], Facts], *, falling: bool = False
) -> list[T]:
    """Rows in the order of a field, numbers before words; those of whom it is not known come last either way."""
    told: list[tuple[tuple[bool, float, str], T]] = []
    untold: list[T] = []
    for row in rows:
        value = facts(row).get(field)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            untold.append(row)
        else:
            number = _as_number(value)
            told.append(
                ((number is None, number or 0.0, "" if number is not None else str(value).casefold()), row)
            )
    return [row for _, row in sorted(told, key=lambda pair: pair[0], reverse=falling)] + untold
