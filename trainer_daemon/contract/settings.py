"""The few values of a spec that may change: some while the run trains, some more when it is resumed, all others never.

None of them changes which function is trained, what a checkpoint holds or which rows come next, but for one factor on
the learning rate. What was changed lies in the run folder as `settings.json`, key to value, and holds for every later
attempt; `spec.json` stays as it was, and the journal says from which step on. A spec that was changed by hand is held
against the one in the checkpoint, so that a run never goes on as another one unnoticed; that is what a fork is for.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer_daemon.contract.errors import SpecError, did_you_mean
from trainer_daemon.contract.rundir import RunDir, write_json
from trainer_daemon.contract.spec import RunSpec, build_spec, spec_differences

CHANGEABLE = (
    "checkpoint.every",
    "checkpoint.every_minutes",
    "checkpoint.keep_last",
    "checkpoint.keep_every",
    "eval.every",
    "eval.every_minutes",
    "eval.core_every",
    "sample.every",
    "sample.every_minutes",
    "schedule.learning_rate_factor",
)
"""May change while it trains: when something is done, and the factor on every learning rate."""

CHANGEABLE_ON_RESUME = frozenset(
    {
        *CHANGEABLE,
        # words for the reader
        "preset",
        "tag",
        "notes",
        # what the model writes meanwhile: no weight depends on it
        "sample.prompts",
        "sample.max_tokens",
        "sample.temperature",
        "sample.top_k",
        # where the examples of CORE lie and how many are asked
        "eval.core_source",
        "eval.core_tasks",
        "eval.core_examples",
        # the machine: the same function, whose sums are rounded otherwise
        "runtime.nproc",
        "runtime.device",
        "runtime.threads_per_rank",
        "runtime.compile",
        "runtime.attention",
        "runtime.activation_checkpointing",
        "runtime.deterministic",
        "train.micro_batch_size",
        # how long it may run, what is done and who is told when something goes wrong, how a checkpoint is written
        "runtime.time_limit_minutes",
        "alerts.command",
        "alerts.url",
        "alerts.on",
        "alerts.timeout_seconds",
        "runtime.max_restarts",
        "runtime.restart_delay_seconds",
        "health.hang_seconds",
        "health.check_replicas_every",
        "checkpoint.asynchronous",
        # where the text lies: whether it is the same text, its fingerprint says
        "data.source",
    }
)
"""May differ from the checkpoint's when a run goes on. Not the horizon: every rate, momentum and decay after a step
follows from it. Not runtime.precision: tables and moments are stored in it. Not eval.tokens: val_bpb would no longer
compare within the run. A fork may change these and more."""


def changed_spec(spec: RunSpec, key: str, value: Any) -> RunSpec:
    """The spec with one changeable value changed. Raises SpecError for another key, or a value that the key cannot have."""
    if key not in CHANGEABLE:
        raise SpecError(
            f'"{key[:60]}" does not change while a run trains{did_you_mean(key, CHANGEABLE)}; these do: '
            f"{', '.join(CHANGEABLE)}. For any other, begin a new run from a checkpoint: llmctl fork RUN@STEP --set KEY=VALUE"
        )
    return build_spec(_with_value(spec, key, value))


def check_resumable(spec: RunSpec, before: RunSpec, whose: str) -> None:
    """Raises SpecError, naming both values, where a run with the spec `before` cannot go on with `spec`."""
    refused = [
        f"{key} is {value!r}, {whose} has {earlier!r}"
        for key, (earlier, value) in spec_differences(before, spec).items()
        if key not in CHANGEABLE_ON_RESUME
    ]
    if refused:
        raise SpecError(
            f"{'; '.join(refused)}. A run goes on as it began: set it back, or begin a new run from the checkpoint: "
            f"llmctl fork RUN@STEP --set KEY=VALUE. On resume may change: {', '.join(sorted(CHANGEABLE_ON_RESUME))}"
        )


def check_against_checkpoint(spec: RunSpec, checkpoint: Path) -> None:
    """Raises SpecError where the run that saved this checkpoint cannot go on with `spec`."""
    try:
        before = RunSpec.model_validate_json((checkpoint / "spec.json").read_bytes())
    except FileNotFoundError:  # not one of ours; its tensors will tell
        return
    except ValidationError as e:
        raise SpecError(f"the spec in {checkpoint} was written by another version: {e}") from e
    check_resumable(spec, before, checkpoint.name)


def settings_on_resume(run: RunDir, overrides: list[str]) -> dict[str, Any]:
    """The values that `KEY=VALUE` overrides change, by key. Raises SpecError for one that may not change on resume."""
    spec = present_spec(run)
    changed = build_spec(spec.model_dump(mode="json"), overrides)
    check_resumable(changed, spec, run.name)
    return {key: value for key, (_, value) in spec_differences(spec, changed).items()}


def change_settings(run: RunDir, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Remember what a resume changes; returns the values before. The caller holds run.lock."""
    spec = present_spec(run)
    after = spec
    for key, value in changes.items():
        after = build_spec(_with_value(after, key, value))
    check_resumable(after, spec, run.name)
    if changes:
        write_json(run.settings_file, {**read_settings(run.settings_file), **changes})
    return {key: before for key, (before, _) in spec_differences(spec, after).items()}


def _with_value(spec: RunSpec, key: str, value: Any) -> dict[str, Any]:
    tables = spec.model_dump(mode="json")
    section, dot, name = key.partition(".")
    if dot:
        tables[section][name] = value
    else:
        tables[key] = value
    return tables


def present_spec(run: RunDir) -> RunSpec:
    """The run's spec with what was changed since. Raises what `RunDir.read_spec` raises."""
    spec = run.read_spec()
    for key, value in read_settings(run.settings_file).items():
        if key not in CHANGEABLE_ON_RESUME:
            raise SpecError(f'{run.settings_file}: "{key[:60]}" may not change; take it out')
        spec = build_spec(_with_value(spec, key, value))
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
