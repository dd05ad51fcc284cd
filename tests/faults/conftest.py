"""Faults on purpose, done to whole runs as in the end-to-end tests. docs/RELIABILITY.md promises by these tests.

CI runs few rounds of each; `make fault` runs the numbers that the promises are stated with.
"""

import os

from tests.e2e.conftest import runs

__all__ = ["runs"]

IS_FULL = os.environ.get("LLMCTL_FAULTS") == "full"


def rounds(quick: int, full: int) -> int:
    """How often a fault is repeated: `full` under `make fault`."""
    return full if IS_FULL else quick
