"""Faults on purpose, done to whole runs as in the end-to-end tests. docs/RELIABILITY.md promises by these tests."""

from tests.e2e.conftest import runs
from tests.rounds import IS_FULL, rounds

__all__ = ["IS_FULL", "rounds", "runs"]
