"""A chart as a file: by its ending a picture (.svg, .png) or the numbers behind it (.csv)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from trainer_daemon.contract.errors import LlmctlError, RefusedError, SpecError
from tui.chart.figure import Figure
from tui.chart.view import View

ENDINGS = (".svg", ".png", ".csv")


def write_chart(file: Path, figure: Figure, view: View, run: str) -> None:
    """Write what the chart shows; a file that is there is written anew. `run`: whose curves are those without a label.

    Raises SpecError for another ending, RefusedError where the file cannot be written, LlmctlError for a PNG without Pillow.
    """
    content = _content(file, figure, view, run)
    try:
        file.write_bytes(content)
    except OSError as e:
        raise RefusedError(f"cannot write {file}: {e.strerror}; choose another place") from e


def _content(file: Path, figure: Figure, view: View, run: str) -> bytes:
    match file.suffix.lower():
        case ".svg":
            from tui.chart.vector import svg

            return svg(figure, view).encode()
        case ".png":
            try:
                from tui.chart.raster import png

                return png(figure, view)
            except ImportError as e:
                raise LlmctlError(
                    "a PNG is painted by Pillow, which is not here: pip install 'llmctl[png]', or write a .svg"
                ) from e
        case ".csv":
            return table(figure, run).encode()
        case ending:
            known = ", ".join(ENDINGS)
            raise SpecError(f'a chart is written as {known}, not as "{ending}"; name the file accordingly')


def table(figure: Figure, run: str) -> str:
    """A row for each point of each curve, in full: run, x, value and, where there is one, the mean that is drawn. What has no value
    has an empty cell."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["run", "branch", figure.x_axis, figure.title, "smoothed"])
    rows.writerows(_rows(figure, run))
    return file.getvalue()


def _rows(figure: Figure, run: str) -> Iterator[list[object]]:
    for series in figure.series:
        branch = "cut off" if series.is_ghost else ""
        smooth = series.smooth if series.smooth is not None else [None] * len(series.x)
        for x, y, mean in zip(series.x.tolist(), series.y.tolist(), smooth, strict=True):
            yield [series.label or run, branch, x, _known(y), _known(mean)]


def _known(value: float | None) -> object:
    """Empty for what is not a number."""
    return "" if value is None or value != value else float(value)
