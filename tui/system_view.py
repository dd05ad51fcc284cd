"""The system view as lines of text, pure functions of what is known: where a step's time goes, what each rank and its
device do, and a strip a rank that shows a straggler at a glance. What is unknown is a dash."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from trainer_daemon.contract.events import DeviceUse, RankUse
from trainer_daemon.contract.text import printable
from tui.chart.axis import compact
from tui.chart.palette import Palette
from tui.chart.symbols import Symbols
from tui.ink import GREEN, ORANGE, SKY, VERMILION, YELLOW, hue
from tui.run_state import RunState
from tui.store import FloatArray
from tui.wording import UNKNOWN, clock, count, fixed, percent, size

PARTS = (
    ("compute_seconds", "forward/backward"),
    ("optimizer_seconds", "optimizer"),
    ("data_seconds", "data"),
    ("wait_seconds", "wait"),
)
"""Of a step, from the foot of the stack to its top: what should be small lies on top."""
SPLIT_ROWS = ((50, 10), (30, 6), (0, 3))
"""(from that height of the view on, rows of the stack)."""
SLIGHT, SLOW, VERY_SLOW = 1.05, 1.15, 1.5
"""Times what is usual, from which a cell of a strip is drawn taller and warmer. 1.15 is what an alert is raised at, too."""
GUTTER = 8
"""Cells before the stack and the strips, which share their x axis: the run from its first to its last step."""
DEVICE_WIDTH = 28
LOWER_BLOCKS = " ▁▂▃▄▅▆▇█"


class Column(NamedTuple):
    """One figure of the table of ranks."""

    title: str
    cells: Sequence[str]
    is_of_device: bool = False
    """Left out where no rank has one."""


def system_lines(state: RunState, width: int, height: int, ink: Palette, symbols: Symbols) -> list[Text]:
    """The whole view, `width` wide; as long as it needs, and calm in `height`."""
    rows = next(rows for least, rows in SPLIT_ROWS if height >= least)
    return [
        _summary(state, width, ink),
        Text(),
        Text("where a step's time goes", ink.title),
        *_split(state, width, rows, ink, symbols),
        Text(),
        Text("ranks", ink.title),
        *_table(state, width, ink),
    ]


def _summary(state: RunState, width: int, ink: Palette) -> Text:
    s, look = state.status, state.machine.latest
    of_steps = [
        ("step", UNKNOWN if s.step_seconds is None else _seconds(s.step_seconds)),
        ("MFU", percent(s.mfu)),
        ("tokens/s", UNKNOWN if s.tokens_per_second is None else compact(s.tokens_per_second)),
    ]
    of_machine = [
        ("cores busy", UNKNOWN if look is None else f"{fixed(look.cores_busy, 1)} of {look.cores}"),
        ("load", UNKNOWN if look is None else fixed(look.load, 1)),
        ("memory", UNKNOWN if look is None else _of(look.memory_bytes, look.memory_total_bytes)),
    ]
    seen = state.machine.seen_at
    pairs = of_steps + of_machine + ([("seen at", clock(seen))] if seen is not None else [])
    line = Text()
    for label, value in pairs:
        piece = Text.assemble((f"{label} ", ink.muted), value, "   ")
        if line.cell_len + piece.cell_len - 3 > width:
            break
        line += piece
    line.rstrip()
    return line


# Where the time goes


def _split(state: RunState, width: int, rows: int, ink: Palette, symbols: Symbols) -> list[Text]:
    """The parts of a step now as a bar, over the run as a stack, and below it every rank's strip."""
    columns = width - GUTTER
    over_time = split_over_time(state, columns)
    if over_time is None:
        return [Text("no step has told yet", ink.muted)]
    shares, first, last = over_time
    stack = zip(_stack_labels(rows), _stack(shares, rows, part_styles(ink), symbols), strict=True)
    strips = _strips(state)
    label = f"step {count(last)}"
    steps = f"step {count(first)}".ljust(max(columns - len(label), 0)) + label
    return [
        *_now(state, width, ink, symbols),
        Text(),
        *(Text.assemble((name.rjust(GUTTER - 1), ink.muted), " ", line) for name, line in stack),
        *(
            Text.assemble((name.ljust(GUTTER), ink.muted), heat_strip(ratios, columns, ink, symbols))
            for name, ratios in strips.items()
        ),
        Text(" " * GUTTER + steps, ink.muted),
        *([Text(" " * GUTTER) + _strip_legend(state, ink, symbols)] if strips else []),
    ]


def _now(state: RunState, width: int, ink: Palette, symbols: Symbols) -> list[Text]:
    """The newest steps' parts: a bar where they are known, and the legend of its colours."""
    styles = part_styles(ink)
    parts = state.status.step_parts or {}
    now = [parts.get(metric.removesuffix("_seconds")) for metric, _ in PARTS]
    total = sum(seconds for seconds in now if seconds is not None)
    shares = [seconds / total if seconds is not None and total else None for seconds in now]
    bar, legend = Text(), Text()
    ends = np.rint(np.cumsum([0.0, *(share or 0.0 for share in shares)]) * width).astype(int)
    for start, end, style in zip(ends, ends[1:], styles, strict=False):
        bar.append(symbols.swatch * int(end - start), style)
    for (_, name), share, style in zip(PARTS, shares, styles, strict=True):
        legend.append(f"{symbols.swatch} ", style)
        legend.append(f"{name} ", ink.muted)
        legend.append(f"{_percent(share)}   ")
    legend.rstrip()
    return [bar, legend] if total else [legend]


def part_styles(ink: Palette) -> list[Style]:
    return [ink.bands[SKY], ink.bands[GREEN], hue(ink, YELLOW), hue(ink, VERMILION)]


def split_over_time(state: RunState, width: int) -> tuple[FloatArray, float, float] | None:
    """((parts, columns) cumulated shares, first step, last step) of the run in at most `width` columns."""
    curves = [state.history.curve(metric) for metric, _ in PARTS]
    whole = next((curve for curve in curves if curve is not None), None)
    if whole is None or not len(whole.x) or width < 1:
        return None
    steps = len(whole.x)
    edges = np.unique(np.linspace(0, steps, min(width, steps) + 1).astype(int))[:-1]
    parts = [
        np.zeros(steps) if curve is None else np.nan_to_num(curve.y, nan=0.0)[:steps] for curve in curves
    ]
    sums = np.stack([np.add.reduceat(part, edges) for part in parts])
    totals = sums.sum(axis=0)
    if not totals.any():
        return None
    shares = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
    stretched = np.linspace(0, len(edges), width, endpoint=False).astype(int)
    return np.cumsum(shares, axis=0)[:, stretched], float(whole.x[0]), float(whole.x[-1])


def _stack_labels(rows: int) -> list[str]:
    labels = [""] * rows
    labels[-1], labels[0] = "0 %", "100 %"
    return labels


def _stack(shares: FloatArray, rows: int, styles: Sequence[Style], symbols: Symbols) -> list[Text]:
    """Cumulated shares as columns of colour, to an eighth of a cell: a cell shows its lowest part and what most of the rest
    is. Without block characters it shows the first letter of its largest part."""
    tops = np.vstack([np.zeros_like(shares[0]), shares]) * rows
    lines = []
    for row in reversed(range(rows)):
        # (parts, columns): how much of this row of cells each part fills
        filled = np.diff(np.clip(tops, row, row + 1), axis=0)
        line = Text()
        for column in filled.T:
            if not column.any():
                line.append(" ")
            elif symbols.name == "ascii":
                largest = int(column.argmax())
                line.append(PARTS[largest][1][0], styles[largest])
            else:
                lowest = int(np.argmax(column >= 1 / 16))
                rest = np.where(np.arange(len(column)) > lowest, column, 0.0)
                eighths = 8 if rest.max() < 1 / 16 else round(8 * float(column[lowest]))
                line.append(
                    LOWER_BLOCKS[eighths],
                    Style(color=styles[lowest].color, bgcolor=styles[int(rest.argmax())].color),
                )
        lines.append(line)
    return lines


# Ranks and devices


class _Row(NamedTuple):
    """One line of the table: a rank with its device, or a device that no rank of ours is on."""

    rank: int | None
    use: RankUse | None
    device: DeviceUse | None


def _rows(state: RunState) -> list[_Row]:
    look, attempt = state.machine.latest, state.attempt
    uses = {use["rank"]: use for use in look.ranks} if look else {}
    devices = {device["index"]: device for device in look.devices} if look else {}
    ranks = max(
        attempt.world_size if attempt else 0, state.machine.ranks_paced, *(rank + 1 for rank in uses), 0
    )
    rows = []
    for rank in range(ranks):
        use = uses.get(rank)
        place = use["device"] if use else None
        rows.append(_Row(rank, use, devices.pop(place, None) if place is not None else None))
    return [*rows, *(_Row(None, None, device) for device in devices.values())]


def _columns(state: RunState, rows: Sequence[_Row]) -> list[Column]:
    """In order of interest: what does not fit is left out from the end."""
    own = [None if row.rank is None else state.machine.own_seconds(row.rank) for row in rows]
    paces = state.machine.paces()
    late = [
        float(paces[row.rank, -1]) if row.rank is not None and row.rank < len(paces) else None for row in rows
    ]
    return [
        Column("rank", [UNKNOWN if row.rank is None else str(row.rank) for row in rows]),
        Column("before waiting", [UNKNOWN if s is None else _seconds(s) for s in own]),
        Column("vs others", [UNKNOWN if r is None or r != r else f"{100 * (r - 1):+.0f} %" for r in late]),
        Column("util", [_device(row, lambda d: _percent(d["utilisation"])) for row in rows], True),
        Column(
            "power",
            [_device(row, lambda d: _pair(d["power_watts"], d["power_limit_watts"], "W")) for row in rows],
            True,
        ),
        Column("temp", [_device(row, _heat) for row in rows], True),
        Column(
            "device memory",
            [_device(row, lambda d: _of(d["memory_bytes"], d["memory_total_bytes"])) for row in rows],
            True,
        ),
        Column("cores", [UNKNOWN if row.use is None else fixed(row.use["cores"], 1) for row in rows]),
        Column("resident", [_resident(row.use) for row in rows]),
        Column("pid", [UNKNOWN if row.use is None else str(row.use["pid"]) for row in rows]),
        Column("device", [_device(row, lambda d: printable(d["name"])[:DEVICE_WIDTH]) for row in rows], True),
    ]


def _table(state: RunState, width: int, ink: Palette) -> list[Text]:
    """Heading and rows of as many columns as fit, right-aligned."""
    rows = _rows(state)
    texts = [""] * (len(rows) + 1)
    for column in _columns(state, rows):
        if column.is_of_device and not any(row.device for row in rows):
            continue
        cells = [column.title, *column.cells]
        room = max(map(cell_len, cells))
        if cell_len(texts[0]) + 2 + room > width:
            break
        texts = [
            f"{text}{'  ' if text else ''}{' ' * (room - cell_len(cell))}{cell}"
            for text, cell in zip(texts, cells, strict=True)
        ]
    return [Text(text, ink.muted if place == 0 else Style.null()) for place, text in enumerate(texts)]


def _device(row: _Row, write: Callable[[DeviceUse], str]) -> str:
    return UNKNOWN if row.device is None else write(row.device)


def _resident(use: RankUse | None) -> str:
    return UNKNOWN if use is None or use["memory_bytes"] is None else size(use["memory_bytes"])


def _heat(device: DeviceUse) -> str:
    celsius = device["temperature_celsius"]
    slowed = " slowed" if device["is_slowed_by_heat"] else ""
    return UNKNOWN if celsius is None else f"{celsius:.0f} °C{slowed}"


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.0f} %"


def _pair(value: float | None, limit: float | None, unit: str) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.0f} {unit}" if limit is None else f"{value:.0f}/{limit:.0f} {unit}"


def _of(used: int | None, total: int | None) -> str:
    if used is None:
        return UNKNOWN
    return size(used) if total is None else f"{size(used)} of {size(total)}"


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


# Strips


def _strips(state: RunState) -> dict[str, FloatArray]:
    """By name, one number a stretch of time: how long it took over what is usual."""
    paces = state.machine.paces()
    if len(paces):
        return {f"rank {rank}": ratios for rank, ratios in enumerate(paces)}
    curve = state.history.curve("step_seconds")
    if curve is None or not np.isfinite(curve.y).any():
        return {}
    seconds = curve.y[np.isfinite(curve.y)]
    # medians of a few steps, as the ranks tell theirs: a single slow step is no news
    few = min(max(len(seconds) // 100, 1), 50)
    whole = len(seconds) // few * few
    return {"step": np.median(seconds[-whole:].reshape(-1, few), axis=1) / np.median(seconds)}


def buckets(ratios: FloatArray, width: int) -> FloatArray:
    """`width` numbers that stand for all: the largest of each stretch, or each of the few as often as there is room."""
    if len(ratios) <= width:
        return ratios[np.arange(width) * len(ratios) // width]
    edges = np.arange(width) * len(ratios) // width
    largest: FloatArray = np.fmax.reduceat(ratios, edges)
    return largest


def heat_strip(ratios: FloatArray, width: int, ink: Palette, symbols: Symbols) -> Text:
    """One cell a stretch of time: the taller and the warmer, the slower."""
    levels = heat_levels(ink, symbols)
    strip = Text()
    for ratio in buckets(ratios, width).tolist():
        level = 0 if ratio != ratio else 1 + sum(ratio >= least for least in (SLIGHT, SLOW, VERY_SLOW))
        strip.append(*levels[level])
    return strip


def heat_levels(ink: Palette, symbols: Symbols) -> list[tuple[str, Style]]:
    """Unknown, usual, slightly slower, slow, very slow."""
    glyphs = " .:o#" if symbols.name == "ascii" else " ▁▃▅█"
    styles = [ink.muted, ink.bands[GREEN], hue(ink, YELLOW), hue(ink, ORANGE), hue(ink, VERMILION)]
    return list(zip(glyphs, styles, strict=True))


def _strip_legend(state: RunState, ink: Palette, symbols: Symbols) -> Text:
    usual = "as the others" if state.machine.ranks_paced > 1 else "as usual"
    words = (
        usual,
        *(f"from {100 * (least - 1):.0f} %" for least in (SLIGHT, SLOW)),
        f"from {100 * (VERY_SLOW - 1):.0f} % slower",
    )
    line = Text()
    for (glyph, style), word in zip(heat_levels(ink, symbols)[1:], words, strict=True):
        line.append(f"{glyph} ", style)
        line.append(f"{word}   ", ink.muted)
    line.rstrip()
    return line
