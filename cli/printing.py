"""What reaches the terminal: data on stdout, narration on stderr, numbers the way people read them."""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MINUTE, HOUR, DAY = 60, 3600, 86400


def out(text: str = "", end: str = "\n") -> None:
    """Data: what the command was asked for."""
    print(text, end=end, flush=True)


def say(text: str) -> None:
    """Narration: what the reader should know beside the data."""
    print(text, file=sys.stderr, flush=True)


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
    import textwrap
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
