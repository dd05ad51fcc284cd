"""Every choice of a spec by the key that `--set` takes, `model.depth`: listed, flat, compared."""

from typing import Any

from trainer_daemon.contract.spec.run_spec import RunSpec
from trainer_daemon.contract.spec.section import Section, section_of


def all_keys() -> list[str]:
    """Every key of every family, in the order of the spec."""
    keys: list[str] = []
    for name, field in RunSpec.model_fields.items():
        section = section_of(field.annotation)
        keys += [f"{name}.{inner}" for inner in section.model_fields] if section else [name]
    return keys


def flat_values(spec: RunSpec) -> dict[str, Any]:
    """Every choice by the key that `--set` takes: `{"seed": 42, "model.depth": 4, …}`, values as JSON has them."""
    flat: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json").items():
        if isinstance(getattr(spec, name), Section):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def spec_differences(*specs: RunSpec) -> dict[str, list[Any]]:
    """`{"optim.matrix_lr": [0.02, 0.03]}`: each key whose value is not the same in all of the specs, with all its values;
    None where a spec's family does not have it."""
    all_values = [flat_values(spec) for spec in specs]
    keys = dict.fromkeys(key for values in all_values for key in values)
    rows = {key: [values.get(key) for values in all_values] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}
