"""The few values of a spec that may change while the run trains; all others are frozen with it.

They are those that decide when something is done and one factor on the learning rate: none changes what a checkpoint
holds or which rows come next. What was changed lies in the run folder as `settings.json`, key to value, and holds for
every later attempt; the journal says from which step on.
"""

import json
from pathlib import Path
from typing import Any

from trainer_daemon.contract.errors import SpecError, did_you_mean
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.spec import RunSpec, build_spec

CHANGEABLE = (
    "checkpoint.every",
    "checkpoint.every_minutes",
    "checkpoint.keep_last",
    "checkpoint.keep_every",
    "eval.every",
    "eval.every_minutes",
    "sample.every",
    "sample.every_minutes",
    "schedule.learning_rate_factor",
)


def changed_spec(spec: RunSpec, key: str, value: Any) -> RunSpec:
    """The spec with one changeable value changed. Raises SpecError for another key, or a value that the key cannot have."""
    if key not in CHANGEABLE:
        raise SpecError(
            f'"{key[:60]}" does not change while a run trains{did_you_mean(key, CHANGEABLE)}; these do: '
            f"{', '.join(CHANGEABLE)}. For any other, begin a new run from a checkpoint: llmctl fork RUN@STEP --set KEY=VALUE"
        )
    section, name = key.split(".")
    tables = spec.model_dump(mode="json")
    tables[section][name] = value
    return build_spec(tables)


def present_spec(run: RunDir) -> RunSpec:
    """The run's spec with what was changed since. Raises what `RunDir.read_spec` raises."""
    spec = run.read_spec()
    for key, value in read_settings(run.settings_file).items():
        spec = changed_spec(spec, key, value)
    return spec


def read_settings(file: Path) -> dict[str, Any]:
    """What was changed, key to value. Raises SpecError when the file is damaged."""
    try:
        settings = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise SpecError(
            f"{file} is damaged; delete it, and repeat what was changed with: llmctl set RUN KEY=VALUE"
        ) from e
    if not isinstance(settings, dict):
        raise SpecError(f"{file} is not a JSON object; delete it")
    return settings
