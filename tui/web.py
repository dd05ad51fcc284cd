"""The cockpit in a browser of this machine: textual-serve gives each page a cockpit process of its own and carries its screen.

textual-serve lets everyone in who reaches its port, other users of the machine and any web page in the browser among them,
and a cockpit can stop a run. So it listens on loopback alone, and a guard before it asks for a token: it comes with the
address that is printed, and is then a cookie. A page of another origin is refused even with the cookie, and nothing is
loaded from elsewhere. Needs the extra `web`.
"""

import hmac
import secrets
import shlex
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from textual_serve.server import Server

from trainer_daemon.contract.rundir import RunDir
from tui.app import Cockpit
from tui.settings import load_settings

LOOPBACK = "127.0.0.1"
GOODBYE_SECONDS = 2.0
"""How long open pages may take to close their cockpits after Ctrl-C."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: ws:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class CockpitServer(Server):
    """Serves one run's cockpit, or the list of runs, to those who have the token."""

    def __init__(self, listener: socket.socket, run: RunDir | None, *, is_read_only: bool) -> None:
        """`listener`: bound to loopback."""
        self.token = secrets.token_urlsafe(32)
        self._listener = listener
        port = listener.getsockname()[1]
        folder = [str(run.path)] if run else []
        options = ["--readonly"] if is_read_only else []
        program = shlex.join([sys.executable, "-P", "-m", "tui.web", *options, *folder])
        super().__init__(program, LOOPBACK, port, title=f"llmctl {run.name if run else 'runs'}")

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"{self.public_url}/?token={self.token}"

    def serve_until_signalled(self) -> None:
        """Answer until Ctrl-C or SIGTERM."""
        web.run_app(
            self._guarded_app(),
            sock=self._listener,
            access_log=None,
            print=None,
            shutdown_timeout=GOODBYE_SECONDS,
        )

    async def _guarded_app(self) -> web.Application:
        app: web.Application = await self._make_app()
        app.middlewares.append(self._guard)
        return app

    async def on_startup(self, app: web.Application) -> None:
        """Nothing: the command line has said what is to be said."""

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Raises HTTPForbidden for whoever has no token, and HTTPSeeOther to turn the address's token into a cookie."""
        cookie = f"llmctl-{self.port}"
        # a name that someone pointed at 127.0.0.1 is another site than ours, and so is every other port
        is_ours = request.host == f"{LOOPBACK}:{self.port}"
        if not is_ours or request.headers.get("Origin", self.public_url) != self.public_url:
            raise web.HTTPForbidden(text=f"this is only for pages of {self.public_url}\n")
        if self._is_token(request.query.get("token")):
            moved = web.HTTPSeeOther("/", headers=HEADERS)
            moved.set_cookie(cookie, self.token, httponly=True, samesite="Strict")
            raise moved
        if not self._is_token(request.cookies.get(cookie)):
            raise web.HTTPForbidden(
                text="open the address that `llmctl attach --web` printed, with its token\n"
            )
        response = await handler(request)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _is_token(self, told: str | None) -> bool:
        return told is not None and hmac.compare_digest(told.encode(), self.token.encode())


def main(arguments: list[str]) -> int | None:
    """What runs behind one page: `[--readonly] [RUN FOLDER]`."""
    run = next((RunDir(Path(folder)) for folder in arguments if folder != "--readonly"), None)
    app = Cockpit(run, settings=load_settings(), is_read_only="--readonly" in arguments)
    app.run()
    return app.return_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
