"""Commands against a real daemon; its ranks are stand-ins that need no torch."""

import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import Llmctl
from tests.supervisor.conftest import Daemons, events, kill_and_wait
from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import Command
from trainer_daemon.contract.journal import read_all
from trainer_daemon.contract.status import observe
from trainer_daemon.link import client
from trainer_daemon.supervisor.sweep import kill_unheard_run, run_processes


def test_a_run_is_paused_saved_resumed_and_stopped_by_name(daemons: Daemons, llmctl: Llmctl) -> None:
    daemons.start("live")
    assert llmctl("wait", "live", "--for", "step=2", "--timeout", "30").code == 0

    paused = llmctl("pause", "live")
    assert (paused.code, paused.out) == (0, "live done\n")
    assert llmctl("status", "live", "--json").json()["state"] == "paused"
    again = llmctl("pause", "live")
    assert again.code == 6
    assert "paused already" in again.err

    assert llmctl("save", "live").code == 0
    assert llmctl("status", "live", "--json").json()["last_checkpoint"] is not None
    assert llmctl("resume", "live").code == 0
    assert llmctl("resume", "live").code == 6  # it is not paused any more

    stopped = llmctl("stop", "live")
    assert stopped.code == 0
    assert stopped.out.startswith("live stopped at step")
    assert llmctl("stop", "live").code == 6
    assert llmctl("wait", "live").code == 0


def test_kill_ends_a_run_at_once(daemons: Daemons, llmctl: Llmctl) -> None:
    daemons.start("live")
    assert llmctl("wait", "live", "--for", "step=2", "--timeout", "30").code == 0
    killed = llmctl("kill", "live", "-y")
    assert killed.code == 0, killed
    assert llmctl("status", "live", "--json").json()["state"] in {"stopped", "failed", "crashed"}


@pytest.mark.parametrize("has_sockets", [True, False])
def test_kill_ends_a_run_whose_supervisor_cannot_be_asked(
    daemons: Daemons, llmctl: Llmctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_sockets: bool
) -> None:
    monkeypatch.setattr(client, "KILL_SECONDS", 0.1)
    monkeypatch.setenv("FAULT", "orphan")
    run = daemons.start("live", nproc=2)
    assert llmctl("wait", "live", "--for", "step=2", "--timeout", "30").code == 0
    psutil.Process(daemons.pid).suspend()
    if not has_sockets:
        shutil.rmtree(tmp_path / "runtime")
    killed = llmctl("kill", "live", "-y")
    assert killed.code == 0, killed
    assert "does not answer" in killed.err
    assert run_processes(run) == []
    assert not run.supervisor_is_alive()
    assert not run.ranks_are_alive()
    status = llmctl("status", "live", "--json").json()
    assert status["state"] == "stopped", "somebody was left to say that it was no crash"
    assert "killed on request" in list(read_all(run.journal))[-1].event.reason  # type: ignore[union-attr]


def test_a_process_that_does_not_hold_the_lock_is_not_taken_for_the_supervisor(
    daemons: Daemons, llmctl: Llmctl
) -> None:
    """The journal's last pid may be that of a supervisor long dead, and another process's by now."""
    run = daemons.start("live")
    assert llmctl("wait", "live", "--for", "step=2", "--timeout", "30").code == 0
    with subprocess.Popen(["sleep", "60"]) as other:
        for pid in (other.pid, None):
            with pytest.raises(RefusedError, match="nobody answers for live"):
                kill_unheard_run(run, pid)
        assert other.poll() is None
        other.kill()
    assert run.supervisor_is_alive()
    assert run.ranks_are_alive()


def test_a_stop_that_takes_too_long_is_waited_for_no_longer(
    daemons: Daemons, llmctl: Llmctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "deaf")
    daemons.start("live")
    assert llmctl("wait", "live", "--for", "step=2", "--timeout", "30").code == 0
    late = llmctl("stop", "live", "--timeout", "0.1")
    assert late.code == 5
    assert "live is stopping" in late.err


def test_a_stop_that_did_not_save_says_so(
    daemons: Daemons, llmctl: Llmctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "deaf")
    monkeypatch.setenv("STOP_SECONDS", "0.3")
    daemons.start("live")
    assert llmctl("wait", "live", "--for", "step=2", "--timeout", "30").code == 0
    stopped = llmctl("stop", "live", "--timeout", "30")
    assert stopped.code == 4
    assert "before they could save" in stopped.err


def test_a_run_that_cannot_save_is_not_stopped_and_can_be_asked_again_or_killed(
    daemons: Daemons, llmctl: Llmctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it ended, and what it had learnt since its last checkpoint was gone."""
    monkeypatch.setenv("FAULT", "full")
    run = daemons.start("live")
    assert llmctl("wait", "live", "--for", "step=2", "--timeout", "30").code == 0
    for _ in range(2):
        refused = llmctl("stop", "live", "--timeout", "30")
        assert refused.code == 6
        assert "could not be saved" in refused.err
        assert "llmctl kill live" in refused.err
        status = llmctl("status", "live", "--json").json()
        assert (status["state"], status["error"]) == ("running", None)
        assert llmctl("wait", "live", "--for", f"step={status['step'] + 2}", "--timeout", "30").code == 0
    kill_and_wait(daemons.pid, signal.SIGTERM)  # the machine goes down: nobody could decide anew
    assert observe(run).state == "stopped"


def test_a_value_is_changed_by_its_key_and_a_wrong_one_is_refused_before_anyone_is_asked(
    daemons: Daemons, llmctl: Llmctl
) -> None:
    run = daemons.start("live")
    assert llmctl("wait", "live", "--for", "step=2", "--timeout", "30").code == 0
    assert llmctl("set", "live", "eval.every=5").code == 0
    for wrong, told in (
        ("eval.evry=5", "eval.every"),
        ("model.depth=3", "fork"),
        ("eval.every", "KEY=VALUE"),
    ):
        refused = llmctl("set", "live", wrong)
        assert refused.code == 2
        assert told in refused.err
    (command,) = events(run, Command)
    assert (command.name, command.arguments) == ("set", {"key": "eval.every", "value": 5})


def test_a_run_without_its_supervisor_wants_to_be_taken_over_first(daemons: Daemons, llmctl: Llmctl) -> None:
    daemons.start("live")
    assert llmctl("wait", "live", "--for", "step=2", "--timeout", "30").code == 0
    kill_and_wait(daemons.pid)
    orphan = llmctl("pause", "live")
    assert orphan.code == 6
    assert "llmctl resume live" in orphan.err


@pytest.mark.parametrize("command", ["pause", "resume", "stop", "save", "eval", "kill"])
def test_no_command_finds_a_run_that_is_not_there(llmctl: Llmctl, command: str) -> None:
    assert llmctl(command, "nobody").code == 3
