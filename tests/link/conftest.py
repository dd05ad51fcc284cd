"""The same daemons as the supervisor's tests, and two ways to another machine that is this one."""

import asyncio
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.supervisor.conftest import END_SECONDS, daemons
from trainer_daemon.contract.journal import STREAMS, Record, read_all
from trainer_daemon.contract.rundir import RunDir

__all__ = ["daemons"]


def assert_each_once_and_in_order(run: RunDir, seen: list[Record]) -> None:
    """What a feed gave is the journal itself, up to where it looked last."""
    written = list(read_all(run.journal))
    for stream in STREAMS:
        of_stream = [r for r in seen if r.stream == stream]
        assert [r.seq for r in of_stream] == list(range(1, len(of_stream) + 1)), stream
        assert of_stream == [r for r in written if r.stream == stream][: len(of_stream)]


@dataclass
class Way:
    """How an `ssh` that is first on PATH gets to the machine `box`, which is this one."""

    url: str
    notes: Path

    @property
    def down(self) -> Path:
        """While this file is there, no host is reached."""
        return self.notes.with_suffix(".down")

    def commands(self) -> list[list[str]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()]


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    folder.mkdir()
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


LLMCTL = f'exec {sys.executable} -c "from cli.main import app; raise SystemExit(app())" "$@"'


@pytest.fixture
def way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Way:
    stand_in = Path(__file__).with_name("ssh_stand_in.py")
    put_on_path(tmp_path / "bin", monkeypatch, llmctl=LLMCTL, ssh=f'exec {sys.executable} {stand_in} "$@"')
    notes = tmp_path / "ssh.notes"
    monkeypatch.setenv("SSH_NOTES", str(notes))
    return Way("ssh://me@box/a", notes)


@pytest.fixture
def real_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """OpenSSH's client, and asyncssh as the server: it runs commands and connects to unix sockets."""
    asyncssh = pytest.importorskip("asyncssh", reason="asyncssh, the server of this test, is not installed")
    ssh = shutil.which("ssh") or pytest.skip("OpenSSH's client is not installed")

    class Server(asyncssh.SSHServer):  # type: ignore[misc, name-defined, unused-ignore]
        def begin_auth(self, username: str) -> bool:  # noqa: ARG002
            return False

        def unix_connection_requested(self, dest_path: str) -> bool:  # noqa: ARG002
            return True

    async def run_command(process: object) -> None:
        child = await asyncio.create_subprocess_shell(
            process.command,  # type: ignore[attr-defined]
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await child.communicate()
        process.stdout.write(out)  # type: ignore[attr-defined]
        process.stderr.write(err)  # type: ignore[attr-defined]
        process.exit(child.returncode)  # type: ignore[attr-defined]

    async def listen() -> int:
        server = await asyncssh.create_server(
            Server,
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            process_factory=run_command,
            encoding=None,
        )
        return int(server.get_port())

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port = asyncio.run_coroutine_threadsafe(listen(), loop).result(END_SECONDS)
    own = "-F /dev/null -o HostName=127.0.0.1 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    put_on_path(tmp_path / "bin", monkeypatch, llmctl=LLMCTL, ssh=f'exec {ssh} {own} "$@"')
    yield Way(f"ssh://me@box:{port}/a", tmp_path / "ssh.notes")
    loop.call_soon_threadsafe(loop.stop)
    thread.join(END_SECONDS)
