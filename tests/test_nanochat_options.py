"""Every option that users of nanochat know has a typed field here, with its meaning and its bounds."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cli.main import commands
from trainer_daemon.contract.spec import RunSpec, flat_values, meaning_of

DOCUMENT = (Path(__file__).parent.parent / "docs" / "nanochat-options.md").read_text()
ROWS = [
    (re.findall(r"`(--[a-z0-9-]+)`", left), re.sub(r"`", "", right).strip())
    for left, right in re.findall(r"^\| (`--.*?`) \| (.*?) \|", DOCUMENT, flags=re.MULTILINE)
]
OPTIONS = {
    *("--run", "--device-type", "--fp8", "--fp8-recipe", "--depth", "--aspect-ratio", "--head-dim"),
    *("--max-seq-len", "--window-pattern", "--num-iterations", "--target-flops", "--target-param-data-ratio"),
    *("--device-batch-size", "--total-batch-size", "--embedding-lr", "--unembedding-lr", "--matrix-lr"),
    *("--scalar-lr", "--weight-decay", "--adam-beta1", "--adam-beta2", "--warmup-steps", "--warmdown-ratio"),
    *("--final-lr-frac", "--resume-from-step", "--eval-every", "--eval-tokens", "--core-metric-every"),
    *("--core-metric-max-per-task", "--sample-every", "--save-every", "--model-tag"),
}


def schema_of(key: str) -> dict[str, Any]:
    """The JSON schema of one key of the spec, unions and all."""
    schema = RunSpec.model_json_schema()
    node: dict[str, Any] = schema
    for part in key.split("."):
        node = node["properties"][part]
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def test_the_table_has_every_option_once() -> None:
    named = [option for options, _ in ROWS for option in options]
    assert len(named) == len(set(named))
    assert set(named) == OPTIONS


@pytest.mark.parametrize(
    ("options", "here"), ROWS, ids=lambda x: " ".join(x) if isinstance(x, list) else None
)
def test_what_carries_an_option_exists_and_says_what_it_means(options: list[str], here: str) -> None:
    if here.startswith("llmctl "):
        assert here.split()[1] in get_command(commands).commands  # type: ignore[attr-defined]  # a group
    else:
        assert meaning_of(here)


def is_bounded(node: dict[str, Any]) -> bool:
    """Whether a schema lets through neither any number nor any word."""
    if "anyOf" in node:
        return all(is_bounded(branch) for branch in node["anyOf"])
    if node.get("type") in {"integer", "number"}:
        return bool({"minimum", "exclusiveMinimum"} & set(node))
    return True


def test_every_number_of_the_spec_has_a_bound() -> None:
    assert [key for key in flat_values(RunSpec()) if not is_bounded(schema_of(key))] == []
