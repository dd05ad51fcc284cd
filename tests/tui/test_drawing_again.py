"""Drawn again, a chart takes over what did not change. Nobody may see that it does."""

import random
from dataclasses import replace

import numpy as np

from tui.chart.draw import Drawing, Memory, Row, draw
from tui.chart.figure import Figure
from tui.chart.palette import DARK, LIGHT
from tui.chart.symbols import ASCII, BRAILLE
from tui.chart.view import Bounds
from tui.figures import CHARTS, ChartSpec, figure, first_view
from tui.run_state import RunState
from tui.store import X_AXES, XAxis

METRICS = ("loss_nats", "grad_norm")
MOVES = 60


class Reader:
    """Someone who watches a run and looks at it in every way."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.states = [RunState("fox"), RunState("owl")]
        self.steps = [0, 0]
        self.spec: ChartSpec = CHARTS[0]
        self.view = first_view(self.spec, None)
        self.axis: XAxis = "step"
        self.size = 60, 12
        self.palette, self.symbols = DARK, BRAILLE
        self.seen: Bounds | None = None
        """Of the last drawing; None after another look, as in the widget."""

    def move(self) -> None:
        chosen = self.random.choices(
            [self.train, self.roll_back, self.zoom, self.turn, self.resize], [8, 1, 2, 2, 1]
        )
        chosen[0]()

    def train(self) -> None:
        run = self.random.randrange(2)
        count = self.random.choice([1, 1, 1, 7, 300])
        first, self.steps[run] = self.steps[run] + 1, self.steps[run] + count
        steps = np.arange(first, self.steps[run] + 1, dtype=float)
        noise = np.random.default_rng(self.random.randrange(1 << 30))
        values = {metric: 3 + noise.normal(0, 1, count) for metric in METRICS}
        values["loss_nats"][noise.random(count) < 0.05] = np.nan
        self.states[run].history.extend(
            "train_step", step=steps, seconds=steps / 7, tokens=steps * 512, values=values
        )

    def roll_back(self) -> None:
        """And train again at once, so that there may be more points than before when it is drawn."""
        run = self.random.randrange(2)
        self.steps[run] = self.random.randrange(self.steps[run] + 1)
        self.states[run].history.truncate(self.steps[run])
        for _ in range(self.random.randrange(3)):
            self.train()

    def zoom(self) -> None:
        if self.view.log_x:
            return
        span = self.random.choice([None, 40.0, 500.0])
        end = self.random.choice([None, 300.0])
        self.view = replace(self.view, x_span=span, x_end=end if span else None)
        self.seen = None

    def turn(self) -> None:
        match self.random.randrange(6):
            case 0:
                self.view = replace(self.view, log_y=not self.view.log_y)
            case 1:
                self.view = replace(self.view.fitted(), log_x=not self.view.log_x)
            case 2:
                self.view = self.view.smoothed(self.random.choice([-1, 1]))
            case 3:
                self.axis = self.random.choice(X_AXES)
            case 4:
                self.palette = self.random.choice([DARK, LIGHT])
            case 5:
                self.symbols = self.random.choice([BRAILLE, ASCII])
        self.seen = None

    def resize(self) -> None:
        self.size = self.random.choice([(60, 12), (41, 9), (100, 20)])


def test_a_chart_that_remembers_shows_what_one_shows_that_does_not() -> None:
    for seed in range(12):
        reader = Reader(seed)
        memory = Memory()
        for _ in range(MOVES):
            reader.move()
            shown = figure(
                reader.states[0], reader.spec, reader.axis, reader.view.smoothing, reader.states[1:]
            )

            def drawn(memory: Memory | None, reader: Reader = reader, shown: Figure = shown) -> Drawing:
                return draw(
                    shown,
                    reader.view,
                    *reader.size,
                    reader.palette,
                    symbols=reader.symbols,
                    previous=reader.seen,
                    memory=memory,
                )

            afresh = drawn(None)
            assert drawn(memory) == afresh, f"seed {seed}"
            reader.seen = afresh.bounds


def test_rows_and_columns_of_a_chart_that_only_grew_are_not_made_again() -> None:
    state = RunState("fox")
    memory = Memory()

    def train(first: int, last: int) -> None:
        steps = np.arange(first, last + 1, dtype=float)
        state.history.extend(
            "train_step", step=steps, seconds=steps, tokens=steps, values={"loss_nats": 3 + np.sin(steps)}
        )

    def drawn(previous: Bounds | None) -> tuple[list[Row], Bounds | None]:
        shown = figure(state, CHARTS[0], "step", 0.98)
        view = first_view(CHARTS[0], None)
        found = draw(shown, view, 60, 12, DARK, previous=previous, memory=memory)
        assert memory.cells is not None
        return memory.cells.rows, found.bounds

    train(1, 1000)
    rows, bounds = drawn(None)
    settled = [known.settled for known in memory.reductions._now.values()]
    assert all(90 < columns < 104 for columns in settled), "all that have points beyond them"
    train(1001, 1001)
    again, _ = drawn(bounds)
    assert any(row is other for row, other in zip(rows, again, strict=True))
