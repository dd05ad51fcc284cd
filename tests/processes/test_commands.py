"""How a rank hears of what the supervisor wrote for it."""

from math import inf
from pathlib import Path

import pytest

from trainer_daemon.contract.events import Command
from trainer_daemon.contract.journal import JournalWriter
from trainer_daemon.processes import rank
from trainer_daemon.processes.rank import ControlCommands


def test_commands_are_looked_for_now_and_then_and_whoever_takes_one_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step asks whether there is one, and a look costs some steps half a percent. What is taken is never of yesterday:
    the last word of a run answers what came while it was being written."""
    monkeypatch.setattr(rank, "LOOK_SECONDS", inf)
    with JournalWriter(tmp_path, "control", 1) as control:
        control.append(Command("first", "save", {}))
        commands = ControlCommands(tmp_path, 0)
        assert commands.pending()
        assert commands.next() == Command("first", "save", {})
        control.append(Command("second", "stop", {}))
        assert not commands.pending(), "within LOOK_SECONDS of the last look"
        assert commands.stop_wanted()
        assert commands.pending(), "what waits is known"
        assert commands.next() == Command("second", "stop", {})
        assert commands.next() is None


def test_a_command_is_seen_once_the_last_look_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "LOOK_SECONDS", 0.0)
    with JournalWriter(tmp_path, "control", 1) as control:
        control.append(Command("before", "save", {}))
        commands = ControlCommands(tmp_path, 1)
        assert not commands.pending(), "it was asked of earlier ranks"
        control.append(Command("after", "save", {}))
        assert commands.pending()
