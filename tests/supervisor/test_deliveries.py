"""What the world outside is told, by a real command and a real address."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.supervisor.conftest import Daemons, events, kind_is, states, wait_until_over, watch
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import Notice, Stalled, StateChanged, from_fields
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.link.client import send_command
from trainer_daemon.supervisor.deliveries import occasion_of

NOTE = "import json, sys; open('told', 'a').write(sys.stdin.read() + chr(10))"


class Inbox:
    """An address that keeps what is posted to it."""

    def __init__(self, status: int = 200) -> None:
        self.letters: list[dict[str, Any]] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.letters.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.close()


def notices(run: Any) -> list[str]:
    return [e.text for e in events(run, Notice) if "alerts." in e.text]


def test_a_command_and_an_address_hear_of_a_crash_and_of_the_end(
    daemons: Daemons, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "crash")
    alerts = {"command": [sys.executable, "-c", NOTE], "url": inbox.url, "timeout_seconds": 60}
    run = daemons.start(max_restarts=1, sections={"alerts": alerts})
    wait_until_over(run, daemons.pid)
    told = [json.loads(line) for line in (run.path / "told").read_text().splitlines()]
    for messages in (told, inbox.letters):
        # two processes that deliver may overtake each other
        assert sorted(m["text"].split(":")[1].split()[0] for m in messages) == ["failed", "restart"]
        assert all("the third step is cursed" in m["text"] for m in messages)
        assert {m["occasion"] for m in messages} == {"crash"}
        assert {m["run"] for m in messages} == {"a"}
    assert notices(run) == []


def test_only_the_occasions_that_were_asked_for_are_told(daemons: Daemons, inbox: Inbox) -> None:
    run = daemons.start(
        steps=3, sections={"alerts": {"url": inbox.url, "on": ["finish"], "timeout_seconds": 60}}
    )
    wait_until_over(run, daemons.pid)
    (letter,) = inbox.letters
    assert (letter["occasion"], letter["state"], letter["step"]) == ("finish", "completed", 3)
    quiet = daemons.start("b", steps=3, sections={"alerts": {"url": inbox.url, "on": ["crash"]}})
    wait_until_over(quiet, daemons.pid)
    assert len(inbox.letters) == 1


def test_one_that_hangs_or_fails_is_ended_and_told_and_holds_up_nothing(daemons: Daemons) -> None:
    """The command's grandchild would keep the run's folder busy for ten minutes."""
    hang = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    alerts = {
        "command": [sys.executable, "-c", hang],
        "url": "http://127.0.0.1:1/nobody",
        "timeout_seconds": 2,
    }
    run = daemons.start(steps=200, sections={"alerts": alerts})
    watch(run, kind_is("train_step"))
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    assert states(run)[-1] == "stopped"
    told = notices(run)
    assert any("alerts.command" in text and "was ended after 2 s" in text for text in told)
    assert any("alerts.url" in text for text in told)


def test_a_command_that_is_not_there_is_told(daemons: Daemons) -> None:
    run = daemons.start(steps=3, sections={"alerts": {"command": ["/nowhere/at/all"]}})
    wait_until_over(run, daemons.pid)
    assert states(run)[-1] == "completed"
    assert ["could not be run" in text for text in notices(run)] == [True]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "example.org", ""])
def test_only_web_addresses_are_taken(url: str) -> None:
    with pytest.raises(SpecError, match=r"alerts\.url"):
        build_spec({"alerts": {"url": url}})


def test_what_is_an_occasion() -> None:
    def entered(state: Any) -> StateChanged:
        return StateChanged(state, "because", 1, 1)

    found = {state: occasion_of(entered(state)) for state in ("starting", "running", "stopping")}
    assert set(found.values()) == {None}
    assert occasion_of(entered("failed")) == ("crash", "failed: because")
    assert occasion_of(entered("stopped")) == ("finish", "stopped: because")
    stall = occasion_of(Stalled(70.0, 1.0))
    assert stall is not None
    assert stall[0] == "stall"
    for name, occasion in (("loss_spike", "spike"), ("early_plateau", "diagnosis")):
        values = {"name": name, "step": 3, "seen": "s", "cause": "c", "fix": "f"}
        told = occasion_of(from_fields("alert", values))
        assert told is not None
        assert told[0] == occasion
    assert occasion_of(None) is None
