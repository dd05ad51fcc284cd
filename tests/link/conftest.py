"""The same daemons as the supervisor's tests."""

from tests.supervisor.conftest import daemons

__all__ = ["daemons"]
