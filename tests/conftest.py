"""`make fault` runs every test that docs/RELIABILITY.md promises by, also those that are quick and kill nothing."""

import re
from pathlib import Path

import pytest

from tests.rounds import IS_FULL

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(tryfirst=True)  # before `-m fault` leaves out what has no such mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not IS_FULL:
        return
    promised = set(
        re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (ROOT / "docs/RELIABILITY.md").read_text())
    )
    for item in items:
        if (item.path.relative_to(ROOT).as_posix(), item.name.partition("[")[0]) in promised:
            item.add_marker("fault")
