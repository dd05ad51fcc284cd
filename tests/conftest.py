"""What holds for all tests: a test sees the machine that it runs on, and nothing of the one who runs it, neither their runs nor
their shell's settings. And `make fault` runs every test that docs/RELIABILITY.md promises by, also those that are quick and
kill nothing."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rounds import IS_FULL

ROOT = Path(__file__).parent.parent
SHELLS_OWN = (
    "SSH_CONNECTION",
    "SSH_TTY",
    "TMUX",
    "SLURM_JOB_ID",
    "OMP_NUM_THREADS",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
)
"""What ours or torch's programs read and a shell may hold."""


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LLMCTL_HOME", str(tmp_path_factory.mktemp("home")))
        for name in SHELLS_OWN:
            monkeypatch.delenv(name, raising=False)
        # one that runs in the background may have been started deaf to Ctrl-C, and so would be all that it starts
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


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
