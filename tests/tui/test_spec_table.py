"""A spec beside its preset and other runs: what is marked, and how values are written."""

import pytest

from presets.loader import preset_tables
from trainer_daemon.contract.events import SettingChanged
from trainer_daemon.contract.spec import RunSpec, build_spec, flat_values
from tui.spec_table import (
    description_of,
    differences_by_section,
    preset_of,
    section_of,
    spec_lines,
    spelled,
)

STORIES = build_spec(preset_tables("stories"))
FAST = build_spec(preset_tables("stories"), ["optim.matrix_lr=0.5", "seed=7"])


def test_what_differs_from_preset_or_other_run_or_was_changed_is_special_and_nothing_else() -> None:
    changes = [SettingChanged(40, "eval.every", 20, 25), SettingChanged(60, "eval.every", 50, 20)]
    other = build_spec(preset_tables("stories"), ["model.depth=6"])
    lines = {line.key: line for line in spec_lines(FAST, preset_of(FAST), other, changes)}
    assert list(lines) == list(flat_values(RunSpec()))
    special = {key for key, line in lines.items() if line.is_special}
    assert special == {"seed", "optim.matrix_lr", "model.depth", "eval.every"}
    assert lines["eval.every"].change_words() == "25 → 20 from 41, 20 → 50 from 61"
    assert (lines["model.depth"].value, lines["model.depth"].in_other) == (4, 6)
    assert not any(line.is_special for line in spec_lines(FAST, None))


def test_a_preset_that_is_gone_or_hostile_is_none() -> None:
    assert preset_of(STORIES) == STORIES
    for name in (None, "no-such", "../../etc/passwd", "\x1b[2J"):
        assert preset_of(build_spec({"preset": name})) is None


def test_differences_stand_under_their_sections() -> None:
    assert differences_by_section(STORIES, FAST, STORIES) == {
        "run": {"seed": [42, 7, 42]},
        "optim": {"optim.matrix_lr": [0.16, 0.5, 0.16]},
    }
    assert differences_by_section(FAST, FAST) == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (True, "true"),
        (0.02, "0.02"),
        ("auto", "auto"),
        ("", '""'),
        ("one\ntwo\t\x1b[31mred\u202e", "one↵two red"),
        (["a", "日本"], '["a", "日本"]'),
        ({"web": 0.7}, '{"web": 0.7}'),
    ],
)
def test_a_value_is_one_line_that_steers_no_terminal(value: object, words: str) -> None:
    assert spelled(value) == words


def test_every_key_has_a_section_and_a_description() -> None:
    for key in flat_values(RunSpec()):
        assert description_of(key)
        assert section_of(key)


def test_specs_of_two_families_stand_side_by_side() -> None:
    classic, nanochat = build_spec({}, ["model.family=classic"]), build_spec({})
    lines = {line.key: line for line in spec_lines(classic, nanochat, nanochat)}
    assert lines["adamw.learning_rate"].differs_from_preset
    assert lines["adamw.learning_rate"].in_other is None
    assert "optim.matrix_lr" not in lines
    assert "optim.matrix_lr" in differences_by_section(classic, nanochat)["optim"]
