"""The named runs: one TOML beside this file each, holding only what differs from the spec's defaults.

A file's opening comment is part of the preset: its first line is the summary that `llmctl presets` lists.
"""

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from trainer_daemon.contract.errors import SpecError, did_you_mean
from trainer_daemon.contract.spec import load_toml

DEFAULT = "stories"
"""What `llmctl run` trains when it is not told: needs no download and no GPU."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One named run."""

    name: str
    summary: str
    """What it is for, in one sentence."""
    path: Path

    def opening_comment(self) -> str:
        """All of what the file says of itself before its first table: purpose, cost, expected val_bpb."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return "\n".join(
            line.removeprefix("#").strip() for line in takewhile(lambda x: x.startswith("#"), lines)
        )


def list_presets() -> list[Preset]:
    """Every preset: the default first, then by depth."""
    files = Path(__file__).parent.glob("*.toml")
    presets = [Preset(path.stem, _first_line(path), path) for path in files]
    return sorted(presets, key=lambda p: (p.name != DEFAULT, len(p.name), p.name))


def find_preset(name: str) -> Preset:
    """Raises SpecError with the nearest name when there is no such preset."""
    presets = {p.name: p for p in list_presets()}
    if name not in presets:
        raise SpecError(
            f'unknown preset "{name}"{did_you_mean(name, presets)}; there are: {", ".join(presets)}'
        )
    return presets[name]


def preset_tables(name: str) -> dict[str, Any]:
    """The tables of a preset, ready for `build_spec`. Raises SpecError with the nearest name when there is none."""
    return {"preset": name, **load_toml(find_preset(name).path)}


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
