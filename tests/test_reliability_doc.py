"""docs/RELIABILITY.md promises by tests: each that it names must exist, and every fault that blocks a release has one."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "RELIABILITY.md").read_text()
BLOCKING = {
    *range(1, 13), *range(14, 26), *range(28, 38), *range(39, 50), 51, 52, 57, 58,
}  # fmt: skip
"""The faults without which nothing is released, by their numbers."""
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", TEXT)


def test_every_test_that_a_promise_names_is_there() -> None:
    assert len(NAMED) > 40
    missing = [
        f"{file}::{name}"
        for file, name in NAMED
        if not (ROOT / file).exists()
        or name
        not in {
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
    ]
    assert missing == []


def test_every_promise_names_a_test() -> None:
    rows = [
        line
        for line in TEXT.splitlines()
        if line.startswith("| ") and not line.startswith(("| promise", "| number"))
    ]
    assert len(rows) > 25
    assert [row for row in rows if "::test_" not in row] == []


def test_every_fault_that_blocks_a_release_is_held_by_a_named_test() -> None:
    held = [int(number) for number in re.findall(r"^\| (\d+) \|.*::test_", TEXT, flags=re.MULTILINE)]
    assert held == sorted(BLOCKING)


def test_what_make_fault_cannot_show_is_said() -> None:
    said = TEXT.partition("What no machine without a GPU can show")[2].partition("\n## ")[0]
    assert {int(number) for number in re.findall(r"\b(\d\d)\b(?! hours)", said)} == {24, 33, 34, 54, 59}
