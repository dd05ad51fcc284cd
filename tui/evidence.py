"""The evidence of an alert as lines of text: what was seen beside what is usual, the layers with the largest gradients, and
the rows of the data that the step had read. It is a file that others may have written: anything in it is only shown."""

import json
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from trainer_daemon.contract.text import printable
from tui.chart.axis import compact
from tui.chart.palette import Palette
from tui.ink import GREEN, SKY, VERMILION, hue
from tui.wording import UNKNOWN

LAYERS_SHOWN = 16
ROWS_SHOWN = 64
BAR_WIDTH = 24
LINES_OF_A_ROW = 3
MOST_BYTES = 4 * 2**20
"""Of a record that is read; it holds one number a row of the batch."""


def evidence_lines(text: str, width: int, ink: Palette) -> list[Text]:
    """A record as stored. One that is none is said to be none."""
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return [Text("the evidence cannot be read: it is not what was written", hue(ink, VERMILION))]
    return [
        *_figures(record, ink),
        *_layers(record.get("gradient_norms"), width, ink),
        *_worst_rows(record.get("worst_rows"), width, ink),
        *_rows(record, width, ink),
    ]


def _figures(record: dict[str, Any], ink: Palette) -> list[Text]:
    lines = [
        Text.assemble(
            (f"{label:<16}", ink.muted),
            _number(record.get(seen)),
            ("   usual ", ink.muted),
            _number(record.get(usual)),
        )
        for label, seen, usual in (
            ("loss nats", "loss_nats", "usual_loss_nats"),
            ("gradient norm", "grad_norm", "usual_grad_norm"),
        )
    ]
    losses = record.get("loss_nats_by_rank")
    if isinstance(losses, list) and len(losses) > 1:
        by_rank = "   ".join(f"{rank}: {_number(loss)}" for rank, loss in enumerate(losses))
        lines.append(Text.assemble(("loss by rank    ", ink.muted), by_rank))
    return lines


def _layers(norms: object, width: int, ink: Palette) -> list[Text]:
    """Those that are not finite first, then the largest."""
    if not isinstance(norms, dict) or not norms:
        return []
    named = sorted(
        (
            (printable(str(name)), norm if isinstance(norm, int | float) else None)
            for name, norm in norms.items()
        ),
        key=lambda item: (item[1] is not None, -(item[1] or 0)),
    )
    shown = named[:LAYERS_SHOWN]
    greatest = max((norm for _, norm in shown if norm is not None), default=0.0)
    room = min(max(cell_len(name) for name, _ in shown), max(width - BAR_WIDTH - 12, 8))
    lines = [Text(), Text("gradient norm by layer, the largest first", ink.muted)]
    for name, norm in shown:
        cells = 0 if norm is None or not greatest else round(BAR_WIDTH * norm / greatest)
        label = Text(name)
        label.truncate(room, overflow="ellipsis", pad=True)
        value = ("not finite", hue(ink, VERMILION)) if norm is None else (f"{compact(norm):>8}", ink.title)
        lines.append(Text.assemble(label, "  ", value, "  ", ("━" * cells, hue(ink, SKY))))
    if len(named) > len(shown):
        lines.append(Text(f"and {len(named) - len(shown)} smaller ones", ink.muted))
    return lines


def _rows(record: dict[str, Any], width: int, ink: Palette) -> list[Text]:
    rows, per_rank = record.get("rows"), record.get("rows_by_rank")
    if not isinstance(rows, list) or not rows:
        return []
    numbers = [str(row) for row in rows if isinstance(row, int)]
    each = f", {per_rank} a rank" if isinstance(per_rank, int) and per_rank != len(rows) else ""
    heading = Text(f"rows of the training set that the step read: {len(numbers)}{each}", ink.muted)
    more = ["…"] if len(numbers) > ROWS_SHOWN else []
    return [Text(), heading, *_flowed([*numbers[:ROWS_SHOWN], *more], width, ink)]


def _worst_rows(rows: object, width: int, ink: Palette) -> list[Text]:
    """Each with its loss, and the beginning of its text below."""
    if not isinstance(rows, list) or not rows:
        return []
    lines = [Text(), Text("rows with the highest loss when read again", ink.muted)]
    for row in rows:
        if not isinstance(row, dict):
            continue
        loss = row.get("loss_nats")
        told = ("not finite", hue(ink, VERMILION)) if loss is None else (f"{_number(loss)} nats", ink.title)
        lines.append(Text.assemble((printable(str(row.get("row"))), hue(ink, GREEN)), "  ", told))
        text = " ".join(printable(str(row.get("text"))).split())
        lines += [Text(f"  {part}") for part in wrap(text, max(width - 2, 8))[:LINES_OF_A_ROW]]
    return lines


def _flowed(words: Sequence[str], width: int, ink: Palette) -> list[Text]:
    room = max(map(len, words)) + 2
    per_line = max(width // room, 1)
    return [
        Text("".join(f"{word:>{room - 2}}  " for word in words[at : at + per_line]).rstrip(), hue(ink, GREEN))
        for at in range(0, len(words), per_line)
    ]


def _number(value: object) -> str:
    return (
        compact(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else UNKNOWN
    )
