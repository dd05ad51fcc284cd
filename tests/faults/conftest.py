"""Whole runs, as in the end-to-end tests: here something is done to them."""

from tests.e2e.conftest import runs

__all__ = ["runs"]
