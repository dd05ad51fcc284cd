"""A run as one puts it together: a preset or a checkpoint to begin with, and what is to be otherwise.

The fields, their bounds and choices are read off the spec's own schema, so a field that is added there can be filled in
here. What was typed becomes `KEY=VALUE` of the command line, and the command line starts the run. This module loads
pydantic, half as long as the whole cockpit takes to open: the screens get a `Draft` and load it when one is begun.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from presets.loader import DEFAULT, find_preset, list_presets, preset_tables
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import check_name, runs_folder
from trainer_daemon.contract.spec import RunSpec, build_spec, flat_values, meaning_of, spec_differences
from tui.spec_table import NAME, PRESET

COMMON = (
    NAME,
    PRESET,
    "tag",
    "notes",
    "model.depth",
    "model.sequence_len",
    "data.source",
    "tokenizer.vocab_size",
    "optim.matrix_lr",
    "muon.learning_rate",
    "adamw.learning_rate",
    "train.num_iterations",
    "train.target_param_data_ratio",
    "train.micro_batch_size",
    "train.global_batch_tokens",
    "eval.every",
    "sample.every",
    "checkpoint.every",
    "runtime.nproc",
    "runtime.device",
    "runtime.precision",
)
"""Shown without being searched for."""


@dataclass(frozen=True, slots=True)
class FormField:
    """One field of the spec as a form needs it."""

    key: str
    description: str
    choices: tuple[str, ...]
    """The words that it takes, beside numbers and texts."""
    bounds: str
    """Of its numbers, in words."""
    takes_text: bool
    """Whether what is typed stands for itself."""
    is_list: bool

    @property
    def rule(self) -> str:
        """What may be typed, on one line."""
        return ", or ".join(part for part in (self.bounds, " · ".join(self.choices)) if part)


@lru_cache(maxsize=1)
def form_fields() -> Mapping[str, FormField]:
    """Every field by its key, in the order of the spec."""
    schema = RunSpec.model_json_schema()
    fields = [
        FormField(
            NAME, "The run's name; else the preset's, numbered.", (), "", takes_text=True, is_list=False
        )
    ]
    for name, top in schema["properties"].items():
        reference = str(top.get("$ref", "")).rpartition("/")[2]
        if reference:
            inner = schema["$defs"][reference]["properties"]
            fields += [_form_field(f"{name}.{key}", value) for key, value in inner.items()]
        else:
            fields.append(_form_field(name, top))
    return {each.key: each for each in fields}


def _form_field(key: str, schema: dict[str, Any]) -> FormField:
    branches = schema.get("anyOf", [schema])
    choices = [word for branch in branches for word in _words(branch)]
    if key == PRESET:
        choices = [preset.name for preset in list_presets()]
    texts = [b for b in branches if b.get("type") == "string"]
    return FormField(
        key=key,
        description=meaning_of(key),
        choices=tuple(choices),
        bounds=", ".join(filter(None, map(_bounds, branches))),
        takes_text=bool(texts),
        is_list=any(branch.get("type") == "array" and "items" in branch for branch in branches),
    )


def _words(branch: dict[str, Any]) -> list[str]:
    if "const" in branch:
        return [str(branch["const"])]
    if branch.get("type") == "boolean":
        return ["false", "true"]
    return ["none"] if branch.get("type") == "null" else [str(word) for word in branch.get("enum", ())]


def _bounds(branch: dict[str, Any]) -> str:
    if branch.get("type") not in ("integer", "number"):
        return ""
    low, high = branch.get("minimum"), branch.get("maximum")
    above, below = branch.get("exclusiveMinimum"), branch.get("exclusiveMaximum")
    start = f"from {low:,}" if low is not None else f"above {above:,}" if above is not None else ""
    end = f"to {high:,}" if high is not None else f"below {below:,}" if below is not None else ""
    kind = "whole number" if branch["type"] == "integer" else "number"
    return " ".join(part for part in (kind, start, end) if part)


def as_override(key: str, typed: str) -> str:
    """`KEY=VALUE` as `--set` takes it: a text is quoted, so that a note of digits stays a note."""
    known = form_fields()[key]
    text = typed.strip()
    if known.is_list and not text.startswith("["):
        text = json.dumps([text] if text else [], ensure_ascii=False)
    elif known.takes_text and not (text.startswith("{") or (text == "none" and "none" in known.choices)):
        is_number = bool(known.bounds) and _is_number(text)
        text = text if is_number else json.dumps(text, ensure_ascii=False)
    return f"{key}={text}"


def _is_number(text: str) -> bool:
    try:
        float(text.replace("_", ""))
    except ValueError:
        return False
    return True


def toml_value(value: Any) -> str:
    """A JSON value as `--set` takes it."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(key)} = {toml_value(each)}" for key, each in value.items())
        return f"{{ {inner} }}"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """A run that is not started yet."""

    preset: str = DEFAULT
    name: str = ""
    """Empty: chosen when it starts."""
    typed: Mapping[str, str] = field(default_factory=dict)
    """What is to be otherwise, key to what was typed."""
    checkpoint: str | None = None
    """RUN@STEP that it begins with."""
    base: RunSpec | None = None
    """The spec of the run of that checkpoint."""

    def starting_point(self) -> RunSpec:
        """Without what was typed. Raises SpecError."""
        return self.base or build_spec(preset_tables(self.preset))

    def spec(self) -> RunSpec:
        """Raises SpecError naming the field that is wrong and what to change."""
        tables = self.base.model_dump(mode="json") if self.base else preset_tables(self.preset)
        return build_spec(tables, [as_override(key, text) for key, text in self.typed.items()])

    def values(self) -> dict[str, Any]:
        """Of every field of the spec, by key, as it stands. Raises SpecError."""
        return flat_values(self.spec())

    def begun_values(self) -> dict[str, Any]:
        """Of every field of the spec, by key, without what was typed. Raises SpecError."""
        return flat_values(self.starting_point())

    @property
    def fields(self) -> Mapping[str, FormField]:
        return form_fields()

    def shown_keys(self, sought: str) -> list[str]:
        """What the form shows of the family's fields: what was searched for, else what is common or was filled in."""
        hidden = {key for key in self.fields if key not in (NAME, *self.values())}
        hidden |= {PRESET} if self.checkpoint else set()
        if sought:
            words = sought.casefold()
            found = [
                key for key, each in self.fields.items() if words in f"{key} {each.description}".casefold()
            ]
            return [key for key in found if key not in hidden]
        wanted = {*COMMON, *self.typed} - hidden
        return [key for key in self.fields if key in wanted]

    def with_typed(self, key: str, text: str) -> "Draft":
        """With one field filled in. Raises SpecError saying what is wrong with it."""
        text = text.strip()
        if key == NAME:
            if text and (runs_folder() / check_name(text)).exists():
                raise SpecError(f'there is a run called "{text}" already')
            return replace(self, name=text)
        if key == PRESET:
            find_preset(text)
            return replace(self, preset=text).without_idle()
        return replace(self, typed={**self.typed, key: text}).without_idle()

    def without(self, key: str) -> "Draft":
        """As it was in the beginning."""
        if key == NAME:
            return replace(self, name="")
        return replace(self, typed={k: text for k, text in self.typed.items() if k != key})

    def without_idle(self) -> "Draft":
        """Without what was typed but is as in the beginning."""
        differing = spec_differences(self.starting_point(), self.spec())
        return replace(self, typed={key: text for key, text in self.typed.items() if key in differing})

    def start_words(self) -> list[str]:
        """The command that starts it. Raises SpecError."""
        values, begun = self.values(), self.begun_values()
        changes = [f"{key}={toml_value(value)}" for key, value in values.items() if value != begun.get(key)]
        options = [word for change in changes for word in ("--set", change)]
        names = ["--name", self.name] if self.name else []
        begin = ["fork", self.checkpoint] if self.checkpoint else ["run", "--preset", self.preset]
        return [*begin, *options, *names, "--detach", "--json"]

    def plan_words(self) -> list[str]:
        """The command that says what it takes, and why it would not start here. Raises SpecError."""
        values, begun = self.values(), flat_values(build_spec(preset_tables(self.preset)))
        changes = [
            f"{key}={toml_value(value)}"
            for key, value in values.items()
            if value != begun.get(key) and key != PRESET
        ]
        options = [word for change in changes for word in ("--set", change)]
        return ["run", "--preset", self.preset, *options, "--dry-run", "--json"]


def draft_of_fork(checkpoint: str, spec: RunSpec) -> Draft:
    """A new run that begins with a checkpoint of one with this spec."""
    known = {preset.name for preset in list_presets()}
    preset = spec.preset if spec.preset in known and spec.preset else DEFAULT
    return Draft(preset=preset, checkpoint=checkpoint, base=spec)
