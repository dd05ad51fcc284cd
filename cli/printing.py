"""What reaches the terminal: data on stdout, narration on stderr, numbers the way people read them."""

import json
import os
import re
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

MINUTE, HOUR, DAY = 60, 3600, 86400


def out(text: str = "", end: str = "\n") -> None:
    """Data: what the command was asked for."""
    print(text, end=end, flush=True)


def say(text: str) -> None:
    """Narration: what the reader should know beside the data."""
    if width := terminal_width(sys.stderr):
        text = "\n".join(_broken_at_words(line, width) for line in text.split("\n"))
    print(text, file=sys.stderr, flush=True)


def _broken_at_words(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    return "\n".join(textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False))


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal that a stream, stdout if none is given, goes to; None where it goes elsewhere."""
    stream = sys.stdout if stream is None else stream
    return shutil.get_terminal_size().columns if stream.isatty() else None


_PARTS = re.compile(r"\n|[^\S\n]+|\S+")
"""A line's end, blanks, a word."""


class WordWrap:
    """Text that comes in pieces, its lines broken between words: a word waits until it is whole."""

    def __init__(self, width: int | None) -> None:
        """`width`: of a line, in columns; None breaks nothing."""
        self._width = width
        self._held = ""
        """What has come of the last word, or of the blanks before it."""
        self._column = 0
        self._is_inside_word = False
        """What was shown last is the beginning of a word that is longer than a line."""

    def push(self, text: str) -> str:
        """What may be shown by now."""
        if self._width is None:
            return text
        parts = _PARTS.findall(self._held + text)
        last = parts.pop() if parts and parts[-1] != "\n" and len(parts[-1]) < self._width else ""
        if (
            last and parts and parts[-1] != "\n" and parts[-1].isspace()
        ):  # blanks wait for the word behind them
            last = parts.pop() + last
        self._held = last
        return self._laid_out(parts)

    def finish(self) -> str:
        """What was held back."""
        parts, self._held = _PARTS.findall(self._held), ""
        return self._laid_out(parts)

    def _laid_out(self, parts: list[str]) -> str:
        from rich.cells import cell_len

        width, shown, blanks = self._width or 0, "", ""
        for part in parts:
            if part == "\n":
                shown, blanks, self._column = shown + part, "", 0
                self._is_inside_word = False
            elif part.isspace():
                blanks = part
            else:
                cells = cell_len(blanks) + cell_len(part)
                goes_on = self._is_inside_word and not blanks
                if self._column and self._column + cells > width and not goes_on:
                    shown, blanks, self._column = shown + "\n", "", 0
                    cells = cell_len(part)
                shown, blanks, self._column = shown + blanks + part, "", self._column + cells
                self._is_inside_word = cell_len(part) >= width or goes_on
                if self._column > width > 0:  # the terminal itself breaks such a word
                    self._column %= width
        return shown


def out_json(value: Any) -> None:
    """One JSON value, indented; NaN and infinities are our own mistake."""
    out(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def out_json_line(value: Any) -> None:
    """One JSON value on one line, for streams."""
    out(json.dumps(value, ensure_ascii=False, allow_nan=False))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Aligned columns; the first `left` to the left, the others, numbers, to the right."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        sides = (
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(sides).rstrip()

    return "\n".join(line(cells) for cells in (headers, *rows))


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, aligned."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def side_by_side(left: str, right: str, width: int) -> str:
    """Two texts as columns of together `width` cells."""
    from itertools import zip_longest

    column = max(10, (width - 3) // 2)
    columns = [
        [part for line in text.splitlines() for part in textwrap.wrap(line, column) or [""]]
        for text in (left, right)
    ]
    return "\n".join(f"{a:<{column}} │ {b}".rstrip() for a, b in zip_longest(*columns, fillvalue=""))


def number(value: float | None, digits: int = 3) -> str:
    """A figure with `digits` decimals; a dash for the unknown."""
    return "-" if value is None else f"{value:,.{digits}f}"


def count(value: float | None, units: str = "kMBT") -> str:
    """`1_234_567` -> `1.23M`."""
    if value is None:
        return "-"
    for power, unit in reversed(list(enumerate(units, 1))):
        # a unit begins where rounding to three figures reaches it
        if abs(value) >= 0.9995 * 1000**power:
            return f"{value / 1000**power:.3g}{unit}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """Bytes in decimal units, as disks are sold."""
    return "-" if value is None else f"{count(value, units='kMGT')}B"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def duration(seconds: float | None) -> str:
    """`93` -> `1m33s`."""
    if seconds is None:
        return "-"
    if seconds < MINUTE:
        return f"{seconds:.0f}s"
    if seconds < HOUR:
        return f"{seconds // MINUTE:.0f}m{seconds % MINUTE // 1:02.0f}s"
    if seconds < 2 * DAY:
        return f"{seconds // HOUR:.0f}h{seconds % HOUR // MINUTE:02.0f}m"
    return f"{seconds // DAY:.0f}d{seconds % DAY // HOUR:02.0f}h"


def clock(wall: float | None) -> str:
    """Local date and time of a wall clock reading."""
    return "-" if wall is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall))


def ready_streams() -> None:
    """What every program of ours does first."""
    # a reader that goes away, such as `head`, ends us quietly, as it does any filter
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end a command


def on_terminal() -> bool:
    """Whether a person sits at all ends: only then is the screen taken over."""
    is_there = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    return is_there and os.environ.get("TERM", "dumb") != "dumb"


def command_name() -> str:
    """`llmctl` as the reader can type it: by name where PATH has it, else by the path it was started with."""
    started = Path(sys.argv[0])
    if started.name != "llmctl" or shutil.which("llmctl"):
        return "llmctl"
    absolute = started.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
