"""What the model writes: the scheduled samples and those one asks for, the newest last, as they come."""

from functools import partial

from rich.console import Console
from rich.text import Text
from textual.app import ComposeResult

from tui.chart.palette import Palette
from tui.headline import sample_text, sample_title
from tui.ink import palette_of
from tui.key_names import cockpit_of
from tui.panes.pane import Pane
from tui.run_state import Area, RunState, Sample
from tui.widgets.transcript import Block, Transcript

COLUMN_MAX = 110
"""Longer lines are hard to read."""


class SamplesPane(Pane):
    DEFAULT_CSS = "SamplesPane { padding: 1 2 0 2; }"

    def compose(self) -> ComposeResult:
        yield Transcript(id="samples-text")

    def to_copy(self, state: RunState) -> tuple[str, str] | None:
        if not state.samples:
            return None
        sample = state.samples[-1]
        return "the newest sample", sample.prompt + sample.text

    def draw(self, state: RunState, changed: set[Area]) -> None:
        if "samples" in changed:
            ink = palette_of(self.app)
            blocks = [_block(sample, ink) for sample in state.samples]
            self.query_one(Transcript).show(
                blocks
                or [Block("none", partial(_invitation, cockpit_of(self.app).key_names["run.ask"], ink))]
            )


def _block(sample: Sample, ink: Palette) -> Block:
    key = (
        sample.request_id,
        sample.step,
        sample.prompt,
        sample.text,
        sample.is_done,
        sample.error,
        ink.title,
    )
    return Block(key, partial(_layout, sample, ink))


def _layout(sample: Sample, ink: Palette, width: int) -> list[Text]:
    column = min(width, COLUMN_MAX)
    lines = sample_text(sample, ink).wrap(Console(width=column), column, tab_size=4)
    return [sample_title(sample, ink), *lines, Text()]


def _invitation(key: str, ink: Palette, _width: int) -> list[Text]:
    return [Text(f"Nothing written yet. Press {key} and give the model a beginning to continue.", ink.muted)]
