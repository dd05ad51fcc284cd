"""Tells the world outside: runs the user's command, or posts to the user's address, when something happens to a run.

Each delivery is a process of its own with the message on its stdin and a time limit, so that an address that does not
answer or a command that hangs costs the supervisor nothing. One that fails is told in the journal and not tried again.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from trainer_daemon.contract.events import Alert, Event, Stalled, StateChanged
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.spec import AlertOccasion, AlertsSpec
from trainer_daemon.contract.status import RunStatus

POST = (sys.executable, "-m", "trainer_daemon", "post")
AT_ONCE = 16
"""Deliveries under way; more are left out, which is told."""
SPIKES = frozenset({"loss_spike", "gradient_spike", "not_finite", "rolled_back"})


@dataclass(slots=True)
class Delivery:
    """One process that delivers one message one way."""

    what: str
    """For the reader."""
    process: "subprocess.Popen[bytes]"
    said: IO[bytes]
    until: float
    """Monotonic time at which it is ended."""


def occasion_of(event: Event | None) -> tuple[AlertOccasion, str] | None:
    """What an event is to those who are told, and in which words; None for most."""
    match event:
        case Stalled() as e:
            return "stall", e.in_words()
        case Alert() as e:
            return ("spike" if e.name in SPIKES else "diagnosis"), e.in_words()
        case StateChanged(state="failed" | "crashed", reason=reason):
            return "crash", f"failed: {reason}"
        case StateChanged(state="completed" | "stopped" as state, reason=reason):
            return "finish", f"{state}: {reason}"
        case _:
            return None


def message(run: RunDir, occasion: AlertOccasion, text: str, status: RunStatus) -> dict[str, Any]:
    """What is delivered. `text` is one that chat services show as it is."""
    return {
        "text": f"{run.name} on {socket.gethostname()}: {text}",
        "occasion": occasion,
        "run": run.name,
        "host": socket.gethostname(),
        "folder": str(run.path),
        "state": status.state,
        "step": status.step,
        "total_steps": status.total_steps,
        "loss_nats": status.loss_nats,
        "val_bpb": status.val_bpb,
        "time": time.time(),
    }


class Deliveries:
    """The deliveries of one run. `tell` hears of those that failed."""

    def __init__(self, spec: AlertsSpec, run: RunDir, tell: Callable[[str], None]) -> None:
        self._spec = spec
        self._run = run
        self._tell = tell
        self._under_way: list[Delivery] = []

    @property
    def pids(self) -> frozenset[int]:
        """Of processes that are waited for here and by nobody else."""
        return frozenset(d.process.pid for d in self._under_way)

    def send(self, occasion: AlertOccasion, text: str, status: RunStatus) -> None:
        """Begin to deliver, where the spec asks for it. Returns at once."""
        if occasion not in self._spec.on:
            return
        body = message(self._run, occasion, text, status)
        if self._spec.command:
            self._start(f"alerts.command {self._spec.command[0]}", self._spec.command, body)
        if self._spec.url:
            # the address goes the way of the message: arguments can be read by every user of the machine
            letter = {"url": self._spec.url, "timeout_seconds": self._spec.timeout_seconds, "body": body}
            self._start("alerts.url", POST, letter)

    def _start(self, what: str, command: tuple[str, ...], body: dict[str, Any]) -> None:
        if len(self._under_way) >= AT_ONCE:
            self._tell(f"{what} was not called: {AT_ONCE} calls are under way")
            return
        said = tempfile.TemporaryFile()  # noqa: SIM115  # closed when its process has ended
        try:
            with tempfile.TemporaryFile() as letter:
                letter.write(json.dumps(body).encode())
                letter.seek(0)
                process = subprocess.Popen(
                    command,
                    stdin=letter,
                    stdout=said,
                    stderr=said,
                    cwd=self._run.path,
                    env={**os.environ, "PYTHONSAFEPATH": "1"},
                    start_new_session=True,
                )
        except OSError as e:
            said.close()
            self._tell(f"{what} could not be run: {e}")
            return
        until = time.monotonic() + self._spec.timeout_seconds
        self._under_way.append(Delivery(what, process, said, until))

    def look(self) -> None:
        """Take leave of those that have ended, and end those that take too long."""
        for delivery in list(self._under_way):
            code = delivery.process.poll()
            if code is None and time.monotonic() <= delivery.until:
                continue
            if code is None:
                with suppress(ProcessLookupError):  # its whole session: a command may have children
                    os.killpg(delivery.process.pid, signal.SIGKILL)
                delivery.process.wait()
                self._tell(f"{delivery.what} was ended after {self._spec.timeout_seconds:g} s")
            elif code != 0:
                self._tell(f"{delivery.what} failed with {code}: {_last_line(delivery.said)}")
            delivery.said.close()
            self._under_way.remove(delivery)


def _last_line(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - 2000))
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
