"""OSC 52: text for the clipboard of the terminal that the reader sits at, through ssh and tmux."""

import base64
import os

MOST_BASE64 = 74_994
"""xterm, tmux and others drop a sequence longer than 100,000 bytes without a word; hterm, the strictest, takes this much."""
MOST_BYTES = MOST_BASE64 // 4 * 3


def fitting(text: str) -> str:
    """The beginning of `text` that a terminal takes."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= MOST_BYTES else data[:MOST_BYTES].decode("utf-8", "ignore")


def osc52(text: str, *, in_tmux: bool) -> str:
    """What to write to the terminal so that its clipboard holds `text`.

    tmux takes the sequence itself where set-clipboard is on, and hands it through in its own envelope where
    allow-passthrough is; which of them is set cannot be known from inside, and both together do no harm.
    """
    sequence = f"\x1b]52;c;{base64.b64encode(text.encode('utf-8', 'replace')).decode()}\x07"
    if not in_tmux:
        return sequence
    return sequence + "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"


def is_in_tmux() -> bool:
    return "TMUX" in os.environ
