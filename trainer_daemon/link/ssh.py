"""A run of another machine, watched and steered from here. The system's ssh is the only way in, with its keys and hosts:

    ssh HOST llmctl status RUN --json   what it is, and in which sockets its supervisor answers
    ssh HOST llmctl events RUN --raw    its journal so far, of a long run a thinned part
    ssh -N -L HERE/ev:THERE/ev …        the sockets themselves: what happens, and what is commanded

The journal that came goes into a folder that looks like a run's, so feed, log and commands work on a far run as on one
of this machine. A link that drops (sleep, another network) is made anew; what happened meanwhile is fetched by its
sequence numbers, through the sockets while there is a supervisor and out of the journal once there is none.
"""

import json
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.errors import LlmctlError, RefusedError, SpecError, WaitTimeoutError, error_from
from trainer_daemon.contract.events import FINAL_STATES
from trainer_daemon.contract.journal import STREAMS, Record, Stream, decode_line
from trainer_daemon.contract.rundir import (
    NAME_PATTERN,
    record_sockets,
    recorded_sockets,
    socket_folder,
    write_json,
)
from trainer_daemon.contract.text import printable
from trainer_daemon.link.far import FarRun
from trainer_daemon.link.ways import UnixWay

if TYPE_CHECKING:
    from trainer_daemon.link.client import LinkState

URL = re.compile(r"ssh://(?P<host>(?:[\w.-]+@)?\w[\w.-]*)(?::(?P<port>\d+))?/(?P<run>[^/]+)", re.ASCII)
PLAIN_PATH = re.compile(r"~?[\w./+-]+", re.ASCII)
"""What ssh and a remote shell take as it stands: no colon, which splits -L, no %, $ or blank, which they expand or split."""
OPTIONS = (
    "-T",
    *("-o", "Compression=yes"),
    *("-o", "ConnectTimeout=10"),
    # a machine that slept finds a dead connection: ssh notices after three of these
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
)
WITHOUT_ASKING = ("-o", "BatchMode=yes")
"""While the cockpit has the terminal, ssh must not ask for a password there."""
FORWARDING = (
    "-N",
    *("-o", "ExitOnForwardFailure=yes"),
    *("-o", "StreamLocalBindUnlink=yes"),  # a killed ssh leaves its sockets behind
    *("-o", "StreamLocalBindMask=0177"),
    *("-o", "ControlPath=none"),  # a shared connection would keep the forwarding when this ssh ends
)
NOT_FOUND = 127
"""What a shell says of a command that it does not know; ssh itself ends with 255."""
OWN_FAILURE = 255

ASK_SECONDS = 120.0
"""Longest wait for an answer to one command, a password that someone types included."""
READY_SECONDS = 30.0
"""Longest wait for the supervisor to be heard through a new forwarding, once it answers calls."""
LOOK_SECONDS = 0.2
SILENCE_SECONDS = 8.0
"""Of a link that stands: then it is asked anew what became of the run."""
ENDED_LOOK_SECONDS = 60.0
"""Between two looks whether a run that has ended was resumed."""
ORPHANED_LOOK_SECONDS = 5.0
"""And whether there is a supervisor again, for a run that has lost its own."""
STEADY_SECONDS = 10.0
"""A link that held for so long was good: the next attempt comes at once."""
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
SLEPT_SECONDS = 5.0
"""By how much the clock on the wall may run ahead of our own until that means that the machine slept."""


@dataclass(frozen=True, slots=True)
class Address:
    """`ssh://[user@]host[:port]/RUN`, and how llmctl is called over there."""

    host: str
    """`host` or `user@host`, as ssh takes it."""
    port: str | None
    run: str
    program: str = "llmctl"

    @classmethod
    def parse(cls, url: str, program: str = "llmctl") -> "Address":
        """Raises SpecError for what could be an option of ssh or words of a shell, as well as for what is no address."""
        match = URL.fullmatch(url)
        if match is None or not (NAME_PATTERN.fullmatch(match["run"]) or match["run"] == "@last"):
            raise SpecError(f'"{url}" should look like ssh://[user@]host[:port]/RUN')
        if not PLAIN_PATH.fullmatch(program) or program.startswith("-"):
            raise SpecError(
                f'"{program}" is no plain path; give llmctl over there a name without blanks and signs'
            )
        return cls(match["host"], match["port"], match["run"], program)

    def ask_command(self, *words: str, may_ask: bool) -> list[str]:
        """ssh that runs llmctl over there. `may_ask`: for a password, on the terminal."""
        silence = () if may_ask else WITHOUT_ASKING
        return ["ssh", *OPTIONS, *silence, *self._place(), "--", f"{self.program} {shlex.join(words)}"]

    def forward_command(self, here: Path, there: Path, *, may_ask: bool) -> list[str]:
        """ssh that forwards a supervisor's two sockets. Raises RefusedError for a path that -L would misread."""
        for folder in (here, there):
            if not PLAIN_PATH.fullmatch(str(folder)) or not folder.is_absolute():
                raise RefusedError(
                    f"ssh cannot forward a socket in {printable(str(folder))!r}; set XDG_RUNTIME_DIR to a folder whose path has "
                    "letters, digits and ._+-/ alone"
                )
        pairs = (f"{here / name}:{there / name}" for name in ("ev", "ctl"))
        return [
            "ssh",
            *OPTIONS,
            *(() if may_ask else WITHOUT_ASKING),
            *FORWARDING,
            *(word for pair in pairs for word in ("-L", pair)),
            *self._place(),
        ]

    def _place(self) -> list[str]:
        return [*(["-p", self.port] if self.port else []), self.host]


class Tunnel(Closing):
    """The way to one far run, kept open by a thread from `open` to `close`."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.has_supervisor = False
        """Whether there was one when the other machine was asked last."""
        self.has_ended = False
        self._scratch = Path(tempfile.mkdtemp(prefix="llmctl-far-"))
        self._run: FarRun | None = None
        self._ssh: subprocess.Popen[bytes] | None = None
        self._cursors: dict[Stream, int] = dict.fromkeys(STREAMS, 0)
        """Per stream, the newest record that is here, in the folder or in the feed's hands."""
        self._asked_at = 0.0
        self._forwarded_at = 0.0
        self._silent_since: float | None = None
        self._trouble: str | None = None
        self._next_try = 0.0
        self._clocks_apart = time.time() - time.monotonic()
        self._is_reconnecting = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"ssh {address.host}", daemon=True)

    @property
    def run(self) -> FarRun:
        assert self._run is not None, "open it first"
        return self._run

    @property
    def way(self) -> UnixWay:
        """To the sockets here, which ssh forwards."""
        return UnixWay(recorded_sockets(self.run))

    @property
    def words(self) -> str:
        """The other machine, and what is wrong with the way there."""
        if self._trouble is not None:
            wait = max(0.0, self._next_try - time.monotonic())
            return f"{self.address.host}: {self._trouble}, again in {wait:.0f} s"
        return f"{self.address.host}: reconnecting" if self._is_reconnecting else self.address.host

    def open(self) -> FarRun:
        """Find the run, fetch its history and forward its sockets; ssh may ask for a password.

        Raises SpecError, NotFoundError and what else llmctl answers over there, RefusedError when ssh or a path does not
        do, WaitTimeoutError.
        """
        self._connect(may_ask=True)
        self._thread.start()
        return self.run

    def close(self) -> None:
        self._stopping.set()
        self._drop()
        if self._thread.is_alive():
            self._thread.join(2 * LOOK_SECONDS)
        if self._run is not None:
            sockets = socket_folder(self._run.path)
            for name in ("ev", "ctl"):
                (sockets / name).unlink(missing_ok=True)
            with suppress(OSError):
                sockets.rmdir()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def ask_command(self, *words: str) -> list[str]:
        """ssh that runs llmctl over there, without asking for a password."""
        return self.address.ask_command(*words, may_ask=False)

    def hear(self, state: "LinkState | None", records: list[Record]) -> None:
        """The feed says what it got, and whether it hears the supervisor; None when nobody listens any more."""
        for record in records:
            self._cursors[record.stream] = max(self._cursors[record.stream], record.seq)
        if state != "lost":
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()

    # The thread

    def _keep(self) -> None:
        failures = 0
        while not self._stopping.wait(LOOK_SECONDS):
            if self._stands() or time.monotonic() < self._next_try:
                continue
            if self._trouble is None and time.monotonic() - self._forwarded_at > STEADY_SECONDS:
                failures = 0
            self._is_reconnecting = True
            try:
                self._drop()
                self._connect(may_ask=False)
                self._trouble = None
            except (LlmctlError, OSError) as e:
                self._trouble = printable(str(e)).splitlines()[-1].rpartition(": ")[2][:40]
            # after an attempt that went well too: a link that falls at once must not be made five times a second
            self._next_try = time.monotonic() + BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
            failures += 1
            self._is_reconnecting = False

    def _stands(self) -> bool:
        """Whether there is nothing to do."""
        now = time.monotonic()
        if abs(time.time() - now - self._clocks_apart) > SLEPT_SECONDS:
            self._clocks_apart = time.time() - now
            return False
        if not self.has_supervisor:
            return now - self._asked_at < (ENDED_LOOK_SECONDS if self.has_ended else ORPHANED_LOOK_SECONDS)
        is_heard = self._silent_since is None or now - self._silent_since < SILENCE_SECONDS
        return is_heard and self._ssh is not None and self._ssh.poll() is None

    def _connect(self, *, may_ask: bool) -> None:
        is_new = self._run is None
        status = self._ask_status(may_ask=may_ask)
        sockets = status.get("sockets")
        if is_new or not sockets:
            self._fetch_history(may_ask=may_ask)
        if sockets:
            self._forward(Path(str(sockets)), may_ask=may_ask)
        self.has_ended = status.get("state") in FINAL_STATES
        # last of all: from now on the folder is believed, or the sockets
        self.has_supervisor = bool(sockets)
        self._silent_since = None

    def _ask_status(self, *, may_ask: bool) -> dict[str, Any]:
        wanted = self._run.name if self._run else self.address.run
        try:
            status = json.loads(self._ask("status", wanted, "--json", may_ask=may_ask))
            name = status["name"]
            if not (isinstance(name, str) and NAME_PATTERN.fullmatch(name)):
                raise ValueError(f"{name!r} is no name of a run")
        except (ValueError, TypeError, KeyError) as e:
            raise RefusedError(f"llmctl on {self.address.host} gave no status that can be read: {e}") from e
        if "sockets" not in status:
            raise RefusedError(f"llmctl on {self.address.host} is older than this; update it over there")
        if self._run is None:
            folder = self._scratch / name
            (folder / "journal").mkdir(parents=True)
            self._run = FarRun(folder, self)
            record_sockets(self._run, socket_folder(folder))
        write_json(self._run.state_file, status)
        self._asked_at = time.monotonic()
        return dict(status)

    def _fetch_history(self, *, may_ask: bool) -> None:
        lines = self._ask("events", self.run.name, "--raw", may_ask=may_ask).splitlines(keepends=True)
        for stream in STREAMS:
            mark = stream.encode() + b" "
            # the reader of a stream may have it open: what is new is only ever appended
            with (self.run.journal / f"{stream}-000001.jsonl").open("ab") as file:
                for line in (line.removeprefix(mark) for line in lines if line.startswith(mark)):
                    record = decode_line(line, stream)
                    if record is not None and record.seq > self._cursors[stream]:
                        file.write(line)
                        self._cursors[stream] = record.seq

    def _forward(self, there: Path, *, may_ask: bool) -> None:
        from trainer_daemon.link.client import Link

        here = socket_folder(self.run.path)
        command = self.address.forward_command(here, there, may_ask=may_ask)
        ssh = self._start(command, may_ask=may_ask, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + (ASK_SECONDS if may_ask else READY_SECONDS)
        with Link(UnixWay(here), self.run.name) as link:
            while ssh.poll() is None:
                with suppress(RefusedError, WaitTimeoutError):
                    link.request("ping", tries=1)
                    self._forwarded_at = time.monotonic()
                    return
                if time.monotonic() > deadline:
                    raise WaitTimeoutError(f"the supervisor of {self.run.name} is not heard through ssh")
                if self._stopping.wait(LOOK_SECONDS):
                    break
        raise RefusedError(f"ssh {self.address.host}: {self._complaint()}")

    # ssh itself

    def _ask(self, *words: str, may_ask: bool) -> bytes:
        """What llmctl prints over there. Raises the error that it ends with."""
        command = self.address.ask_command(*words, may_ask=may_ask)
        ssh = self._start(command, may_ask=may_ask, stdout=subprocess.PIPE)
        try:
            answer, _ = ssh.communicate(timeout=ASK_SECONDS)
        except subprocess.TimeoutExpired as e:
            raise WaitTimeoutError(f"no answer from {self.address.host} within {ASK_SECONDS:.0f} s") from e
        code = ssh.returncode
        if code == NOT_FOUND:
            raise RefusedError(
                f"there is no {self.address.program} on {self.address.host} where ssh looks; say where: --remote-llmctl PATH"
            )
        if code == OWN_FAILURE or code < 0:
            raise RefusedError(f"ssh {self.address.host}: {self._complaint()}")
        if code:
            raise error_from(code, f"{self.address.host}: {self._complaint().removeprefix('error: ')}")
        return answer

    def _start(self, command: list[str], *, may_ask: bool, stdout: int) -> subprocess.Popen[bytes]:
        self._drop()
        with (self._scratch / "ssh.err").open("wb") as complaints:
            try:
                self._ssh = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=complaints,
                    # ssh asks on the terminal, which it must not have while the cockpit draws there
                    start_new_session=not may_ask,
                )
            except FileNotFoundError as e:
                raise RefusedError("there is no ssh here; install OpenSSH's client") from e
        return self._ssh

    def _complaint(self) -> str:
        said = (self._scratch / "ssh.err").read_text(encoding="utf-8", errors="replace").strip()
        return printable(said.splitlines()[-1]) if said else "the connection ended"

    def _drop(self) -> None:
        """End the ssh that was started last, and whoever waits for it."""
        ssh, self._ssh = self._ssh, None
        if ssh is not None:
            ssh.kill()
            ssh.wait()
