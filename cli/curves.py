"""`plot compare metrics`: a run's numbers as a picture, as a verdict and as a table.

All three read the fold that the cockpit draws, so a branch that a resume cut off never mixes into the living one.
"""

import math
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.printing import count, number, on_terminal, out, out_json, say, table
from cli.references import JsonOption, RunArgument, complete_run
from cli.watch import WhereOption, rows_where
from trainer_daemon.contract.text import printable

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from typing import IO

    from trainer_daemon.contract.rundir import RunDir
    from tui.chart.figure import Figure, MarkKind
    from tui.chart.symbols import Symbols
    from tui.chart.view import View
    from tui.comparison import Comparison
    from tui.figures import ChartSpec
    from tui.run_state import RunState
    from tui.store import FloatArray

DEFAULT_METRICS = ("loss_nats", "val_bpb")
CHART_HEIGHT = 16
REDRAW_SECONDS = 1.0
HOME_AND_CLEAR = "\x1b[H\x1b[2J"

RunArguments = Annotated[
    list[str],
    typer.Argument(metavar="RUN", help="Runs by name, unique prefix or @last.", autocompletion=complete_run),
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option("-m", "--metric", metavar="NAME", help="Which numbers; may be given several times."),
]


def one_of(*words: str) -> dict[str, Any]:
    """What an option that takes one of these words is made with: typer's own refusal names an error of pydantic's."""

    def chosen(text: str) -> str:
        if text not in words:
            raise typer.BadParameter(f'"{printable(text)}" is none of {", ".join(words)}')
        return text

    return {"parser": chosen, "metavar": "|".join(words)}


class Reading:
    """A run's journal folded so far; reading on costs only what is new."""

    def __init__(self, run: "RunDir") -> None:
        from tui.run_state import RunState

        self._run = run
        self.state = RunState(run.name)
        self.read_on()

    def read_on(self) -> None:
        from trainer_daemon.contract.journal import read_all
        from trainer_daemon.contract.status import observe

        self.state.apply(read_all(self._run.journal, dict(self.state.status.cursors)))
        self.state.judge(observe(self._run))


def read_runs(references: "Sequence[str]") -> list[Reading]:
    """Raises NotFoundError for a run that is not there."""
    from trainer_daemon.contract.rundir import find_run

    return [Reading(find_run(reference)) for reference in references]


# ------------------------------------------------------------------------------------------------------ pictures


def plot(
    runs: RunArguments,
    metric: MetricOption = None,
    x: Annotated[
        Literal["step", "seconds", "tokens", "flops"],
        typer.Option("-x", **one_of("step", "seconds", "tokens", "flops"), help="What runs along x."),
    ] = "step",
    log_x: Annotated[bool, typer.Option("--log-x", help="Logarithmic x axis.")] = False,
    log_y: Annotated[bool, typer.Option("--log-y", help="Logarithmic y axis.")] = False,
    clip: Annotated[bool, typer.Option("--clip", help="Scale y to the 1st..99th percentile.")] = False,
    smoothing: Annotated[
        float | None,
        typer.Option(
            "--smoothing", metavar="DECAY", min=0, max=0.9999, help="Of the drawn mean; 0 for raw values."
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Draw what is there by now and leave.")] = False,
    width: Annotated[int | None, typer.Option("--width", metavar="CELLS", min=24, max=1000)] = None,
    height: Annotated[
        int, typer.Option("--height", metavar="ROWS", min=5, max=500, help="Of each chart.")
    ] = CHART_HEIGHT,
    symbols: Annotated[
        Literal["braille", "block", "ascii"],
        typer.Option("--symbols", **one_of("braille", "block", "ascii"), help="What curves are made of."),
    ] = "braille",
    marks: Annotated[
        bool, typer.Option("--marks/--no-marks", help="Checkpoints, restarts, spikes, … of the first run.")
    ] = True,
    svg: Annotated[
        Path | None,
        typer.Option("--svg", metavar="FILE", help="Write a vector picture of one chart instead."),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option("--png", metavar="FILE", help="Write a picture in pixels (needs the extra png)."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write the numbers of one chart."),
    ] = None,
) -> None:
    """Draw curves without the cockpit, up to eight runs over each other.

    On a terminal the picture follows live runs until they are over; --once, or a pipe, gets what is there by now.
    """
    from dataclasses import replace

    from trainer_daemon.contract.errors import SpecError
    from tui.chart.export import write_chart
    from tui.chart.symbols import SYMBOLS
    from tui.figures import figure, first_view, happenings
    from tui.overlay import MOST_RUNS

    if len(runs) > 1 + MOST_RUNS:
        raise SpecError(f"plot draws at most {1 + MOST_RUNS} runs, for lack of colours; got {len(runs)}")
    readings = read_runs(runs)
    first, *others = (reading.state for reading in readings)
    specs = chart_specs(metric or [m for m in DEFAULT_METRICS if m in first.history.metrics], first)
    files = {"--svg": svg, "--png": png, "--csv": csv}
    wanted = {option: file for option, file in files.items() if file is not None}
    for option, file in wanted.items():
        if len(specs) != 1:
            raise SpecError(f"{option} takes one chart: add -m {specs[0].metric if specs else 'loss_nats'}")
        if file.suffix.lower() != f".{option[2:]}":
            raise SpecError(f"{option} writes a file that ends in .{option[2:]}; got {printable(str(file))}")

    def picture(spec: "ChartSpec") -> "tuple[Figure, View]":
        view = first_view(spec, first.status.total_steps)
        decay = view.smoothing if smoothing is None else smoothing
        view = replace(view, log_x=log_x, log_y=log_y, clip=clip, smoothing=decay, shows_marks=marks)
        return figure(first, spec, x, decay, others), view

    for file in wanted.values():
        write_chart(file, *picture(specs[0]), first.status.name)
        say(f"wrote {file}")
    if wanted:
        return

    def print_charts() -> None:
        columns = width or shutil.get_terminal_size().columns
        for spec in specs:
            print_chart(*picture(spec), columns, height, SYMBOLS[symbols])
        kinds = happenings(first)
        if marks and kinds and specs:
            print_legend(kinds, columns, SYMBOLS[symbols])

    while on_terminal() and not once and not all(reading.state.has_ended for reading in readings):
        out(HOME_AND_CLEAR, end="")
        print_charts()
        time.sleep(REDRAW_SECONDS)
        for reading in readings:
            reading.read_on()
    print_charts()


def chart_specs(metrics: "Sequence[str]", state: "RunState") -> "list[ChartSpec]":
    """The charts of these metrics, the cockpit's where it has one. Raises SpecError for a number that no event reported."""
    from trainer_daemon.contract.errors import SpecError, did_you_mean
    from tui.figures import CHARTS, ChartSpec
    from tui.ink import SKY

    known = {spec.metric: spec for spec in CHARTS}
    for metric in metrics:
        if metric not in state.history.metrics:
            reported = ", ".join(state.history.metrics) or "none yet"
            hint = did_you_mean(metric, state.history.metrics)
            raise SpecError(f'--metric: {state.status.name} reports no "{metric}"{hint}; it has: {reported}')
    return [known.get(metric) or ChartSpec(metric, metric, metric, SKY) for metric in metrics]


def print_chart(figure: "Figure", view: "View", width: int, height: int, symbols: "Symbols") -> None:
    """One chart on stdout; without colours where it goes into a pipe."""
    from rich.console import Console
    from rich.segment import Segment, Segments

    from tui.chart.draw import draw
    from tui.chart.palette import ANSI  # the terminal's own colours, right on a light and on a dark ground

    rows = draw(figure, view, width, height, ANSI, symbols=symbols).rows
    console = Console(width=width, highlight=False)
    console.print(Segments([segment for row in rows for segment in (*row, Segment.line())]), end="")


def print_legend(kinds: "Container[MarkKind]", width: int, symbols: "Symbols") -> None:
    """What the marks on the charts stand for, under where the data begin."""
    from rich.console import Console

    from tui.chart.draw import GUTTER
    from tui.chart.marks import legend
    from tui.chart.palette import ANSI

    line = legend(kinds, ANSI, symbols)
    line.pad_left(GUTTER)
    Console(width=width, highlight=False).print(line, no_wrap=True, overflow="ellipsis")


# ---------------------------------------------------------------------------------------------- verdict and table


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN", help="Runs by name, unique prefix or @last.", autocompletion=complete_run
        ),
    ] = None,
    where: WhereOption = None,
    json: JsonOption = False,
) -> None:
    """Set runs beside the first one: how far each got, for how much compute, and where their specs differ.

    --where adds the runs that a query picks, as `ls` does.
    """
    from dataclasses import asdict

    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.settings import present_spec
    from trainer_daemon.contract.spec import spec_differences
    from tui.comparison import compare as compare_states
    from tui.spec_table import differences_by_section, spelled

    named = [find_run(run).name for run in runs or ()]
    runs = list(dict.fromkeys([*named, *(row.name for row in (rows_where(where) if where else ()))]))
    if not runs:
        raise SpecError(
            "nothing to compare: "
            + ("no run is like that" if where else "name runs, or pick them with --where")
        )
    readings = read_runs(runs)
    reference = readings[0].state
    compared = [compare_states(reading.state, reference) for reading in readings]
    specs = [present_spec(find_run(run)) for run in runs]
    if json:
        out_json({"runs": [asdict(c) for c in compared], "spec_differences": spec_differences(*specs)})
        return
    headers = ("RUN", "STATE", "STEP", "TOKENS", "FLOPS", "LOSS", "BEST VAL_BPB", "AT STEP", "COMPUTE x")
    out(table(headers, [compare_row(c) for c in compared], left=2))
    if sections := differences_by_section(*specs):
        rows: list[tuple[str, ...]] = []
        for keys in sections.values():
            rows += [(key, *map(spelled, values)) for key, values in keys.items()]
        out()
        out(table(("SPEC", *(c.name for c in compared)), rows, left=1 + len(compared)))
    if len(compared) > 1:
        say(
            f"COMPUTE x: how many times less compute than {reference.status.name} a run needs for the best val_bpb of both"
        )


def compare_row(c: "Comparison") -> tuple[str, ...]:
    return (
        c.name,
        c.state,
        f"{c.step:,}",
        count(c.tokens),
        "-" if c.flops is None else f"{c.flops:.3g}",
        number(c.loss_nats, 4),
        number(c.min_val_bpb, 4),
        "-" if c.best_step is None else f"{c.best_step:,}",
        number(c.compute_multiplier, 2),
    )


def metrics(
    run: RunArgument,
    format_: Annotated[
        Literal["csv", "jsonl", "parquet"],
        typer.Option("--format", **one_of("csv", "jsonl", "parquet"), help="Of the table."),
    ] = "csv",
    metric: MetricOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write there, not to stdout.")
    ] = None,
) -> None:
    """Give a run's numbers out: one row a step, one column a metric, empty where a step has none."""
    from trainer_daemon.contract.errors import SpecError

    if format_ == "parquet" and output is None and sys.stdout.isatty():
        raise SpecError("parquet is not for a terminal; name a file with -o FILE")
    state = read_runs([run])[0].state
    if metric:
        chart_specs(metric, state)  # refuses an unknown one
    columns = metric_table(state, metric or list(state.history.metrics))
    if output is not None:
        with output.open("wb") as file:
            write_table(columns, format_, file)
        say(f"wrote {output}")
    else:
        write_table(columns, format_, sys.stdout.buffer)
        sys.stdout.flush()


def metric_table(state: "RunState", metrics: "Sequence[str]") -> "dict[str, FloatArray]":
    """step, seconds, tokens and the metrics, a row for each step that any of them has; NaN where one has none."""
    import numpy as np

    from tui.store import STORED_AXES

    streams = [s for s in state.history.streams() if len(s) and set(s.metrics) & set(metrics)]
    steps = np.unique(np.concatenate([s.x("step") for s in streams])) if streams else np.empty(0)
    columns = {name: np.full(len(steps), np.nan) for name in (*STORED_AXES, *metrics)}
    for stream in streams:
        rows = np.searchsorted(steps, stream.x("step"))
        for axis in STORED_AXES:
            columns[axis][rows] = np.fmin(
                columns[axis][rows], stream.x(axis)
            )  # an evaluation comes after its step
        for name in set(stream.metrics) & set(metrics):
            columns[name][rows] = stream.curve(name, "step", 0).y
    return columns


def write_table(columns: "dict[str, FloatArray]", format_: str, file: "IO[bytes]") -> None:
    """Whole numbers as such, every digit of the others, nothing for NaN."""
    if format_ == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        whole = {name: pa.array(columns[name].astype("int64")) for name in ("step", "tokens")}
        pq.write_table(
            pa.table({name: whole.get(name, pa.array(y, from_pandas=True)) for name, y in columns.items()}),
            file,
        )
        return
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    if format_ == "csv":
        file.write((",".join(columns) + "\n").encode())
        file.writelines(f"{','.join(map(plain, row))}\n".encode() for row in rows)
    else:
        for row in rows:
            values = {name: plain(value) for name, value in zip(columns, row, strict=True)}
            inner = ", ".join(f'"{name}": {value or "null"}' for name, value in values.items())
            file.write(f"{{{inner}}}\n".encode())


def plain(value: float) -> str:
    """`3.0` -> `3`, NaN -> nothing."""
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)
