"""A spec as a table: each value by section, with what it is in the preset, in other runs, and when it was changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import SettingChanged
from trainer_daemon.contract.text import printable
from tui.wording import UNKNOWN, count

if TYPE_CHECKING:
    from trainer_daemon.contract.spec import RunSpec

TOP_SECTION = "run"
"""Heading of the keys that stand in no section."""
NAME, PRESET = "name", "preset"
"""Rows of the form of a new run that are no choice of what is computed."""


@dataclass(frozen=True, slots=True)
class SpecLine:
    """One value."""

    key: str
    """As `--set` takes it."""
    value: Any
    in_preset: Any
    in_other: Any
    """Of the run compared with."""
    differs_from_preset: bool
    differs_from_other: bool
    changes: tuple[SettingChanged, ...]
    """What became of it while the run trained."""

    @property
    def is_special(self) -> bool:
        """Whether there is anything to say but the value."""
        return self.differs_from_preset or self.differs_from_other or bool(self.changes)

    def change_words(self) -> str:
        """`0.5 → 0.2 from 121`, the newest last."""
        return ", ".join(
            f"{spelled(c.before)} → {spelled(c.value)} from {count(c.first_step)}" for c in self.changes
        )


def spec_lines(
    spec: RunSpec,
    preset: RunSpec | None,
    other: RunSpec | None = None,
    changes: Sequence[SettingChanged] = (),
) -> list[SpecLine]:
    """Every value of `spec` in the order of its sections. None: nothing to compare with, or a value that the other's family
    does not have."""
    from trainer_daemon.contract.spec import flat_values

    values = flat_values(spec)
    preset_values = flat_values(preset) if preset else values
    other_values = flat_values(other) if other else values
    return [
        SpecLine(
            key=key,
            value=value,
            in_preset=preset_values.get(key),
            in_other=other_values.get(key),
            differs_from_preset=preset_values.get(key) != value,
            differs_from_other=other_values.get(key) != value,
            changes=tuple(change for change in changes if change.key == key),
        )
        for key, value in values.items()
    ]


def preset_of(spec: RunSpec) -> RunSpec | None:
    """The preset that a spec was made from, as it is today; None where there is none such."""
    from presets.loader import preset_tables
    from trainer_daemon.contract.spec import build_spec

    if spec.preset is None:
        return None
    try:
        return build_spec(preset_tables(spec.preset))
    except LlmctlError:
        return None


def section_of(key: str) -> str:
    return key.rpartition(".")[0] or TOP_SECTION


def name_in_section(key: str) -> str:
    return key.rpartition(".")[2]


def differences_by_section(*specs: RunSpec) -> dict[str, dict[str, list[Any]]]:
    """`{"optim": {"optim.matrix_lr": [0.02, 0.03]}}`: only what is not the same in all of them."""
    from trainer_daemon.contract.spec import spec_differences

    grouped: dict[str, dict[str, list[Any]]] = {}
    for key, values in spec_differences(*specs).items():
        grouped.setdefault(section_of(key), {})[key] = values
    return grouped


def spelled(value: Any) -> str:
    """A value on one line, as TOML has it but for quotes; a dash where the dial or the machine decides."""
    if value is None:
        return UNKNOWN
    if isinstance(value, str):
        return printable(value).replace("\n", "↵").replace("\t", " ") or '""'
    return printable(json.dumps(value, ensure_ascii=False))


def description_of(key: str) -> str:
    """The docstring of the field, on one line."""
    from trainer_daemon.contract.spec import meaning_of

    return meaning_of(key)
