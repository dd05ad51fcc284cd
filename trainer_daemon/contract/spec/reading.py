"""From what a user wrote to a spec: TOML tables, `KEY=VALUE` on top, and what is wrong in the spec's own words."""

import tomllib
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer_daemon.contract.errors import SpecError, did_you_mean
from trainer_daemon.contract.spec.run_spec import RunSpec
from trainer_daemon.contract.spec.section import Section, section_of


def load_toml(path: Path) -> dict[str, Any]:
    """The raw tables of a spec file. Raises SpecError when it is missing or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise SpecError(f"cannot read the spec {path}: {e}") from e
    except tomllib.TOMLDecodeError as e:
        raise SpecError(f"{path} is not valid TOML: {e}") from e


def parse_override(text: str) -> tuple[list[str], Any]:
    """`"train.num_iterations=20"` -> `(["train", "num_iterations"], 20)`. The value is TOML; a bare word is a string."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise SpecError(f'a value is set as KEY=VALUE, for example train.num_iterations=20; got "{text}"')
    try:
        return parts, tomllib.loads(f"value = {value}")["value"]
    except ValueError:  # not TOML, or a number of thousands of digits
        return parts, None if value.strip() in {"none", "null"} else value


def build_spec(tables: dict[str, Any], overrides: list[str] | None = None) -> RunSpec:
    """Validate raw tables with `KEY=VALUE` overrides on top. Raises SpecError naming the field and what to change."""
    merged = deepcopy(tables)
    for text in overrides or []:
        parts, value = parse_override(text)
        target = merged
        for part in parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise SpecError(f'--set {text}: "{part}" is a value, not a section')
        target[parts[-1]] = value
    try:
        return RunSpec.model_validate(merged)
    except ValidationError as e:
        raise SpecError(_explain(e)) from e


def _explain(invalid: ValidationError) -> str:
    """What pydantic found, in the spec's own terms: a sentence for each key."""
    by_key: dict[tuple[str, ...], list[Any]] = {}
    for error in invalid.errors():
        # a union such as int | "auto" adds its branch to the location; the spec's own keys are what a user can type
        branches = ("literal[", "int", "constrained", "dict[")
        location = tuple(str(part) for part in error["loc"] if not str(part).startswith(branches))
        by_key.setdefault(location, []).append(error)
    return "; ".join(_explain_key(location, errors) for location, errors in by_key.items())


def _explain_key(location: tuple[str, ...], errors: list[Any]) -> str:
    """What is wrong at one key; a union has an error for each of its branches."""
    key, error = ".".join(location), errors[0]
    if error["type"] == "extra_forbidden":
        return f'unknown key "{key}"{did_you_mean(location[-1], known := _keys_near(location), shown=known)}'
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    wanted = [e["msg"].removeprefix("Input should be ").partition(", unable to parse")[0] for e in errors]
    wanted[0] = errors[0]["msg"].partition(", unable to parse")[0]
    message = " or ".join(wanted).replace("a valid tuple", 'a list, as in ["one", "two"]')
    return f"{key}: {message[:1].lower()}{message[1:]} (got {error['input']!r})"


def _keys_near(location: tuple[str, ...]) -> dict[str, str]:
    """The keys that an unknown one may be meant for, by their last word: a namesake in another section, else its section's."""
    *path, last = location
    for name, field in RunSpec.model_fields.items():
        section = section_of(field.annotation)
        if section is not None and last in section.model_fields:
            return {last: f"{name}.{last}"}
    return {name: ".".join((*path, name)) for name in _section_at(path).model_fields}


def _section_at(path: Sequence[str]) -> type[Section]:
    section: type[Section] = RunSpec
    for part in path:
        found = section_of(section.model_fields[part].annotation)
        assert found is not None, path
        section = found
    return section
