"""Text that someone else wrote, made safe to show in a terminal.

A sample, a log line or an error may hold escape sequences that move the cursor, rename the window or type into the
shell, and bidirectional overrides that show something other than what is there. They are dropped, not quoted: what is
left is what a reader can read.
"""

import re

_ESCAPE_SEQUENCES = re.compile(
    r"""
    (?:\x1b\[ | \x9b) [0-?]* [ -/]* [@-~]                  # CSI: colours, cursor movement, modes
    | (?:\x1b[\]PX^_] | [\x90\x98\x9d-\x9f]) [^\x07\x1b\x9c\n]* (?:\x07 | \x1b\\ | \x9c)?  # OSC, DCS, SOS, PM, APC
    | \x1b [ -/]* [0-~]?                                   # two-byte escapes, and one that stands alone
    """,
    re.VERBOSE,
)
_DROPPED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks, embeddings, overrides, isolates
    "\u2028\u2029\ufeff\ud800-\udfff]"  # separators that break a line, byte order mark, lone surrogates
)


def printable(text: str) -> str:
    """`text` without control characters other than newline and tab, escape sequences and bidirectional overrides."""
    return _DROPPED.sub("", _ESCAPE_SEQUENCES.sub("", text))
