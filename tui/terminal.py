"""The terminal, given back as it was found. Textual restores it when an app ends by itself; a SIGTERM, or the SIGHUP of a
dropped ssh, would leave the reader in the alternate screen with a hidden cursor and a keyboard that types garbage."""

import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from textual.app import App

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""asyncio's own way with SIGINT, to cancel the main task, is lost where Textual takes a cancellation for a child's."""
PATIENCE_SECONDS = 2.0
"""How long the app may take to end in its own way after a signal."""
RESTORE = (
    "\x1b[?2026l"  # synchronised output
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"  # mouse
    "\x1b[?1004l\x1b[?2004l\x1b[?2048l"  # focus reports, bracketed paste, resize reports
    "\x1b[<u"  # the kitty keyboard, popped before its screen is left
    "\x1b[?7h\x1b[?1049l\x1b[?25h\x1b[0m"  # line wrap, main screen, cursor, colours
)


def is_remote() -> bool:
    """Whether each byte drawn goes through ssh."""
    return "SSH_CONNECTION" in os.environ or "SSH_TTY" in os.environ


def is_writing(app: App[None]) -> bool:
    """Whether the terminal has not taken all of the last frame yet: the next one can wait, and carry more."""
    # Textual queues 30 writes and then blocks the event loop, keys included; there is no public way to ask
    writer = getattr(app._driver, "_writer_thread", None)  # noqa: SLF001
    return writer is not None and not writer._queue.empty()  # noqa: SLF001


@contextmanager
def given_back(end: Callable[[], None]) -> Iterator[None]:
    """Run an app inside: on a signal `end` is called, from the main thread at any moment; if that does not end the block
    in time, the terminal is restored here and the process ends."""
    fd = sys.__stdin__.fileno() if sys.__stdin__ else -1
    try:
        found = termios.tcgetattr(fd)
    except termios.error:
        found = None
    restored = threading.Lock()

    def restore() -> None:
        if not restored.acquire(blocking=False):
            return
        with suppress(OSError):  # after a SIGHUP there is no terminal to write to
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, RESTORE.encode())
        if found is not None:
            with suppress(termios.error):
                termios.tcsetattr(fd, termios.TCSANOW, found)

    received: list[int] = []

    def last_resort() -> None:
        restore()
        os._exit(_exit_code(received[0]))

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            timer.start()
            end()

    timer = threading.Timer(PATIENCE_SECONDS, last_resort)
    timer.daemon = True
    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield
    except BaseException:
        restore()
        raise
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        sys.exit(_exit_code(received[0]))


def _exit_code(number: int) -> int:
    """Ctrl-C is a way to leave, and leaves with success."""
    return 0 if number == signal.SIGINT else 128 + number
