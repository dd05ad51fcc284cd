"""The cockpit in a browser, from the browser's side: real pages and websockets of a real server."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil
import pytest

pytest.importorskip("textual_serve", reason="the extra `web` is not installed: pip install 'llmctl[web]'")
import aiohttp

if TYPE_CHECKING:
    from tests.tui.conftest import Runs

PATIENCE_SECONDS = 120.0
SERVE = "import sys; from cli.main import main; sys.exit(main(['attach', 'fox', '--web', '--readonly']))"


@pytest.fixture
def server(runs: "Runs") -> Iterator["subprocess.Popen[str]"]:
    runs.completed()
    process = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def listening(pid: int) -> list[Any]:
    """The TCP sockets on which a process takes connections."""
    return [line for line in psutil.Process(pid).net_connections("tcp") if line.status == psutil.CONN_LISTEN]


@pytest.mark.slow
async def test_a_page_shows_the_cockpit_to_those_who_have_the_token_and_to_nobody_else(
    server: "subprocess.Popen[str]",
) -> None:
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{40,}", address), address
    place = address.partition("/?")[0]
    every_ip = aiohttp.CookieJar(unsafe=True)  # 127.0.0.1 has no name
    async with aiohttp.ClientSession(cookie_jar=every_ip) as browser:
        for path in ("/", "/ws", "/static/js/textual.js", "/?token=guessed"):
            async with browser.get(place + path) as refused:
                assert refused.status == 403, path
        async with browser.get(address) as page:
            assert (page.status, str(page.url)) == (200, f"{place}/"), "the token has left the address"
            assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        for other in ({"Host": "evil.example"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": "null"}):
            async with browser.get(f"{place}/ws", headers=other) as refused:
                assert refused.status == 403, f"{other} has the cookie, and is not our page"
        shown = b""
        async with browser.ws_connect(
            f"{place}/ws?width=120&height=40", headers={"Origin": place}
        ) as terminal:
            while not (b"completed" in shown and b"loss nats" in shown):
                message = await terminal.receive(PATIENCE_SECONDS)
                assert message.type is aiohttp.WSMsgType.BINARY, (message, shown[-300:])
                shown += message.data
            shown = b""
            await terminal.send_json(["stdin", "3"])
            while b"138.4 MB" not in shown:
                message = await terminal.receive(PATIENCE_SECONDS)
                assert message.type is aiohttp.WSMsgType.BINARY, (message, shown[-300:])
                shown += message.data
            (cockpit,) = psutil.Process(server.pid).children(recursive=True)[-1:]
            assert {line.laddr.ip for line in listening(server.pid)} == {"127.0.0.1"}
        # the page is closed
        psutil.wait_procs([cockpit], timeout=PATIENCE_SECONDS)
        assert not cockpit.is_running()
    os.kill(server.pid, signal.SIGINT)
    server.wait(PATIENCE_SECONDS)
    assert server.returncode == 0
