"""The form of a new run without its screen: fields read off the spec, what is typed, the commands it comes to."""

from itertools import pairwise

import pytest

from presets.loader import list_presets, preset_tables
from tests.tui.conftest import Runs
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import runs_folder
from trainer_daemon.contract.spec import RunSpec, all_keys, build_spec, flat_values
from tui.spec_form import COMMON, Draft, as_override, draft_of_fork, form_fields
from tui.spec_table import NAME


def spec_of(words: list[str]) -> RunSpec:
    """What a command of the form would train."""
    overrides = [value for option, value in pairwise(words) if option == "--set"]
    return build_spec(preset_tables(words[words.index("--preset") + 1]), overrides)


def test_every_field_of_the_spec_can_be_filled_in_and_says_what_it_takes() -> None:
    fields = form_fields()
    assert [key for key in fields if key != NAME] == all_keys()
    assert all(field.description for field in fields.values())
    assert set(COMMON) <= set(fields)
    assert fields["model.depth"].rule == "whole number from 1 to 128"
    assert fields["optim.matrix_lr"].rule == "number above 0 to 100"
    assert fields["eval.every"].rule == "whole number from 1, or off"
    assert fields["runtime.device"].choices == ("auto", "cpu", "cuda", "mps")
    assert fields["health.skip_spikes"].choices == ("false", "true")
    assert fields["preset"].choices == tuple(preset.name for preset in list_presets())


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("model.depth", "6", 6),
        ("optim.matrix_lr", "1e-2", 0.01),
        ("train.micro_batch_size", "8", 8),
        ("train.micro_batch_size", "auto", "auto"),
        ("train.num_iterations", "none", None),
        ("eval.every", "off", "off"),
        ("health.skip_spikes", "true", True),
        ("notes", "42", "42"),
        ("notes", 'he said "no"', 'he said "no"'),
        ("notes", "\x1b[2J日本 = [x]", "\x1b[2J日本 = [x]"),
        ("alerts.url", "http://box/hook", "http://box/hook"),
        ("data.source", "my texts/*.txt", "my texts/*.txt"),
        ("data.source", "{ web = 0.7, code = 0.3 }", {"web": 0.7, "code": 0.3}),
        ("sample.prompts", "Once upon", ["Once upon"]),
        ("sample.prompts", '["a", "b"]', ["a", "b"]),
        ("optim.embedding_betas", "[0.7, 0.9]", [0.7, 0.9]),
    ],
)
def test_what_is_typed_is_taken_as_it_is_meant_and_reaches_the_command_line(
    runs: Runs, key: str, typed: str, value: object
) -> None:
    draft = Draft().with_typed(key, typed)
    for spec in (draft.spec(), spec_of(draft.start_words()), spec_of(draft.plan_words())):
        assert flat_values(spec)[key] == value


@pytest.mark.parametrize(
    ("key", "typed", "words"),
    [
        ("model.depth", "0", "model.depth: input should be greater than or equal to 1"),
        ("model.depth", "deep", "model.depth: input should be a valid integer"),
        ("eval.every", "sometimes", "eval.every"),
        ("runtime.device", "gpu", "runtime.device: input should be 'auto', 'cpu', 'cuda' or 'mps'"),
        ("preset", "storeis", 'did you mean "stories"?'),
        (NAME, "../etc", "is not allowed"),
        (NAME, "fox", 'there is a run called "fox" already'),
    ],
)
def test_what_cannot_be_is_refused_in_the_field_s_own_words(
    runs: Runs, key: str, typed: str, words: str
) -> None:
    (runs_folder() / "fox").mkdir(parents=True)
    with pytest.raises(SpecError) as caught:
        Draft().with_typed(key, typed)
    assert words in str(caught.value)


def test_a_rule_across_fields_is_told_where_it_is_broken() -> None:
    draft = Draft().with_typed("runtime.device", "cpu")
    with pytest.raises(SpecError, match="fp8 needs an NVIDIA GPU"):
        draft.with_typed("runtime.precision", "fp8")


def test_what_is_typed_back_to_the_preset_s_value_is_no_change() -> None:
    draft = Draft().with_typed("model.depth", "6")
    assert draft.shown_keys("") == Draft().shown_keys("")
    assert draft.with_typed("model.depth", "4") == draft.without("model.depth") == Draft()
    assert draft.with_typed("preset", "d6").typed == {}, "the other preset has that depth itself"


def test_only_the_common_fields_and_the_changed_ones_stand_open_the_rest_is_found() -> None:
    common = [key for key in form_fields() if key in COMMON]
    assert Draft().shown_keys("") == [key for key in common if not key.startswith(("adamw.", "muon."))]
    assert "optim.muon_beta2" in Draft().with_typed("optim.muon_beta2", "0.8").shown_keys("")
    assert Draft().shown_keys("NorMuon evens") == ["optim.muon_beta2"]
    assert Draft().shown_keys("no such thing") == []


def test_a_run_and_a_fork_come_to_their_commands() -> None:
    draft = Draft(name="mine").with_typed("model.depth", "6").with_typed("train.num_iterations", "none")
    assert draft.start_words() == [
        *("run", "--preset", "stories"),
        *("--set", "model.depth=6", "--set", "train.num_iterations=none"),
        *("--name", "mine", "--detach", "--json"),
    ]
    before = build_spec(preset_tables("stories"), ["optim.matrix_lr=0.5"])
    fork = draft_of_fork("fox@500", before).with_typed("seed", "7")
    assert fork.start_words() == ["fork", "fox@500", "--set", "seed=7", "--detach", "--json"]
    assert spec_of(fork.plan_words()) == build_spec(
        preset_tables("stories"), ["optim.matrix_lr=0.5", "seed=7"]
    )
    assert "preset" not in fork.shown_keys("")
    stranger = draft_of_fork("fox@500", build_spec({"preset": "gone", "model": {"depth": 3}}))
    assert spec_of(stranger.plan_words()).model.depth == 3


def test_an_override_of_a_mixture_and_of_a_word_like_none_is_what_was_typed() -> None:
    assert as_override("notes", "none") == 'notes="none"'
    assert as_override("data.source", "none") == 'data.source="none"'
    assert as_override("alerts.url", "none") == "alerts.url=none"


def test_a_run_of_the_other_family_is_filled_in_with_its_own_fields(runs: Runs) -> None:
    draft = Draft().with_typed("preset", "pile-406m")
    shown = draft.shown_keys("")
    assert "adamw.learning_rate" in shown
    assert "optim.matrix_lr" not in shown
    assert draft.shown_keys("momentum") == []
    changed = draft.with_typed("adamw.learning_rate", "1e-4")
    assert spec_of(changed.start_words()).adamw.learning_rate == 1e-4
    assert changed.start_words()[:3] == ["run", "--preset", "pile-406m"]
    with pytest.raises(SpecError, match=r"optim\.matrix_lr: not of model\.family classic"):
        draft.with_typed("optim.matrix_lr", "0.1")
