"""The line that picks runs: what it finds, and what it says when it cannot be understood."""

from typing import get_args

import pytest

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.spec import Family, RunSpec, build_spec
from trainer_daemon.contract.status import RunStatus
from tui.run_query import (
    EXAMPLE,
    Facts,
    QueryError,
    facts_of,
    field_named,
    known_fields,
    parse_query,
    sorted_by,
)

NOW = 10_000.0


def run(name: str, spec: RunSpec | None = None, **values: object) -> Facts:
    status = RunStatus(name=name)
    for key, value in values.items():
        setattr(status, key, value)
    status.tag = spec.tag if spec else ""
    return facts_of(status, spec or RunSpec(), NOW)


DEEP = build_spec({"model": {"depth": 24}, "tag": "muon-0.03"})
STORIES = build_spec({"data": {"source": "my stories/*.txt"}, "runtime": {"deterministic": True}})
FLEET = [
    run("fox", DEEP, state="running", val_bpb=0.85, step=900, tokens=2_000_000, updated_at=NOW - 30),
    run("fox-2", state="paused", val_bpb=0.95, step=10, eta_seconds=7000.0, updated_at=NOW - 7200),
    run("owl", STORIES, state="completed", val_bpb=None, step=400, forked_from="fox@300"),
]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", "fox fox-2 owl"),
        ("   ", "fox fox-2 owl"),
        ("fox", "fox fox-2"),
        ("FOX 2", "fox-2"),
        ("muon", "fox"),
        ("-fox", "owl"),
        ("name=fox", "fox"),
        ("state:running", "fox"),
        ("state:run", "fox"),
        ("state:live", "fox fox-2"),
        ("state:ended", "owl"),
        ("state:running,completed", "fox owl"),
        ("state!=running", "fox-2 owl"),
        ("val<0.9", "fox"),
        ("val_bpb>=0.95", "fox-2"),
        ("-val<0.9", "fox-2 owl"),
        ("val:none", "owl"),
        ("depth>=24", "fox"),
        ("model.depth=20", "fox-2 owl"),
        ("tokens>1.5M", "fox"),
        ("eta<2h", "fox-2"),
        ("eta>2h", ""),
        ("age_seconds<1m", "fox"),
        ("data:stories", "fox fox-2 owl"),
        ('data:"my stories"', "owl"),
        ("data=stories", "fox fox-2"),
        ("deterministic:yes", "owl"),
        ("from:fox", "owl"),
        ("step>5 step<500 -state:paused", "owl"),
    ],
)
def test_a_query_picks_the_runs_of_which_every_term_holds(query: str, names: str) -> None:
    picked = parse_query(query)
    assert " ".join(facts["name"] for facts in FLEET if picked.holds(facts)) == names


@pytest.mark.parametrize(
    ("query", "column", "words"),
    [
        ("vla<0.9", 0, 'no field is called "vla"; did you mean "val"?'),
        ("fox every>3", 4, '"every" could be eval.every, sample.every, checkpoint.every; say which'),
        ("fox state:runing", 4, 'there is no state "runing"; did you mean "running"?'),
        ("val<", 0, 'after "val<" comes a value, such as 0.9, 12k or 3M'),
        ("state:", 0, "such as starting, running, evaluating, live or ended"),
        ("val<low", 0, '"low" is no number for val_bpb, such as 0.9, 12k or 3M'),
        ("eta<2x", 0, '"2x" is no number for eta_seconds, such as 90s, 10m or 2h'),
        ('fox "my', 4, 'a quote (") is not closed'),
        ("step>1e999999999x", 0, "is no number for step"),
    ],
)
def test_a_query_that_cannot_be_understood_says_what_is_wrong_and_where(
    query: str, column: int, words: str
) -> None:
    with pytest.raises(QueryError) as caught:
        parse_query(query)
    assert words in str(caught.value)
    assert caught.value.column == column
    assert len(caught.value.understood.terms) == len(query.split()) - 1


@pytest.mark.parametrize(
    "junk", ["\x1b[2J", "a" * 10_000, "=", "<<", ":", "--", "-", "\u202efox", "[bold]", "日本<3"]
)
def test_no_text_makes_a_query_fall_over(junk: str) -> None:
    try:
        picked = parse_query(junk)
    except QueryError:
        return
    assert [facts for facts in FLEET if picked.holds(facts)] != FLEET


def test_the_example_can_be_parsed_and_every_field_is_found_by_its_name() -> None:
    parse_query(EXAMPLE)
    families = [run(family, build_spec({"model": {"family": family}})) for family in get_args(Family)]
    for field in known_fields():
        assert field_named(field) == field
        assert any(field in facts for facts in families)


def test_a_run_without_a_readable_spec_is_still_found_by_its_status() -> None:
    facts = facts_of(RunStatus(name="odd", state="failed"), None, NOW)
    assert parse_query("odd state:failed").holds(facts)
    assert not parse_query("depth>=1").holds(facts)


def test_the_unknown_comes_last_whichever_way_one_sorts() -> None:
    def order(field: str, *, falling: bool = False) -> str:
        return " ".join(f["name"] for f in sorted_by(FLEET, field, lambda facts: facts, falling=falling))

    assert order("val_bpb") == "fox fox-2 owl"
    assert order("val_bpb", falling=True) == "fox-2 fox owl"
    assert order("name", falling=True) == "owl fox-2 fox"
    assert order("train.micro_batch_size") == "fox fox-2 owl"
    with pytest.raises(SpecError):
        field_named("colour")
