"""The runs that the pictures of tests/tui/screens/ are of, and the keys that lead to each.

Everything a screen could depend on besides is held still: the journals are written by a clock that moves once a record, and then
no clock moves; figures are rounded, so that no processor's last bit is in them; what a plan says of the machine is made up; the
terminal has all colours and no ssh, whatever the test runs in.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import DataTable, Input

from presets.loader import preset_tables
from tests.cli.conftest import add_checkpoint
from tests.tui.conftest import WrittenRun
from tests.tui.golden import is_settled, until
from tests.tui.test_alerts_pane import EVIDENCE, RECORD
from tests.tui.test_system_pane import gpu, look, rank_use
from trainer_daemon.contract.alerts import alert
from trainer_daemon.contract.events import (
    AttemptStarted,
    Event,
    Notice,
    PhaseChanged,
    PrepareProgress,
    RanksPaced,
    Resumed,
    SettingChanged,
    StateChanged,
)
from trainer_daemon.contract.generation import Alternative, Piece, TokenLogprob
from trainer_daemon.contract.rundir import RunDir, create_run
from trainer_daemon.contract.spec import build_spec
from tui.answer import Answer
from tui.app import Cockpit
from tui.launching import Answer as Said
from tui.panes.views import PANES
from tui.screens.choose import Choose
from tui.screens.cockpit import CockpitScreen
from tui.screens.confirm import Confirm
from tui.screens.help import Help
from tui.screens.jump import Jump
from tui.screens.new_run import NewRun
from tui.screens.spec_diff import SpecDiff
from tui.screens.talk import TalkScreen, TokenText
from tui.screens.type_in import TypeIn
from tui.settings import Settings

SIZES = ((80, 24), (120, 40), (200, 60))
SMALL, MIDDLE, _ = SIZES
NARROW = (48, 20)
BEGINNING = 1_795_262_400.0
RECORD_SECONDS = 0.125
SIGNIFICANT = 7
"""Digits of a figure that are kept: what a processor may do otherwise is far behind them."""

Size = tuple[int, int]
Act = Callable[[Pilot[None]], Awaitable[None]]


# Time, figures and the machine


class Clock:
    """What `time.time` says: later with each record that is written, and with nothing else."""

    def __init__(self) -> None:
        self.now = BEGINNING

    def read(self) -> float:
        return self.now

    def tick(self) -> float:
        self.now += RECORD_SECONDS
        return self.now


@dataclass
class Scene(WrittenRun):
    """A run whose figures are the same on every machine."""

    hair: float = 0.0
    """Every figure is that share larger: a picture on the edge of two would change."""

    def tell(self, stream: Any, *events: Event) -> None:
        super().tell(stream, *(self._steady(event) for event in events))

    def _steady(self, event: Event) -> Event:
        known = {f.name: getattr(event, f.name) for f in fields(event)}
        return replace(event, **{name: self._rounded(value) for name, value in known.items()})

    def _rounded(self, value: Any) -> Any:
        match value:
            case float() if value and math.isfinite(value):
                return round(value, SIGNIFICANT - 1 - math.floor(math.log10(abs(value)))) * (1 + self.hair)
            case list():
                return [self._rounded(one) for one in value]
            case dict():
                return {key: self._rounded(one) for key, one in value.items()}
            case _:
                return value


PLAN: dict[str, Any] = {
    "model": {"n_layer": 4, "n_embd": 128, "n_head": 4},
    "parameters": {"total": 1_835_138},
    "total_steps": 300,
    "total_tokens": 2_457_600,
    "global_batch_tokens": 8192,
    "world_size": 2,
    "micro_batch_size": 16,
    "grad_accum_steps": 2,
    "total_flops": 1.9329122304e13,
    "memory_per_rank_bytes": 181_849_446,
    "precision": "bf16",
    "disk_needed_bytes": 71_178_120,
    "data": {"tokens_available": 2_530_000, "epochs": 0.97},
    "hardware": {"count": 2, "name": "NVIDIA H100"},
    "estimated": {"seconds": 93.0},
    "notes": ["parameters: for a vocabulary of 2048; a small text may give fewer ids"],
}


class MadeUpQuestion:
    """Stands where the form asks llmctl what a run takes: the answer is of no real machine."""

    def __init__(self, words: Sequence[str], seconds: float) -> None:
        del seconds
        is_refused = any("depth=0" in word for word in words)
        self.answer = Said(None if is_refused else PLAN, ("model.depth: at least 1",) if is_refused else ())


@dataclass
class Scenery:
    """A home with runs in it."""

    clock: Clock
    hair: float
    written: list[Scene] = field(default_factory=list)

    def create(self, name: str, total_steps: int = 400, overrides: Sequence[str] = ()) -> Scene:
        run, lock = create_run(name, build_spec(preset_tables("stories"), list(overrides)))
        self.written.append(Scene(run, lock, total_steps, hair=self.hair))
        # the list of runs is in the order in which they were made, however fast that was
        os.utime(run.spec_file, (BEGINNING + len(self.written),) * 2)
        return self.written[-1]

    def __getitem__(self, name: str) -> RunDir:
        return next(scene.run for scene in self.written if scene.run.name == name)


@contextmanager
def world(hair: float = 0.0) -> Iterator[Scenery]:
    """All runs, written; a cockpit that is opened within shows them as it would anywhere at any time."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMCTL_HOME", f"{home}/home")
        patch.setenv("XDG_RUNTIME_DIR", home)
        patch.setenv("TZ", "UTC")
        for name in ("SSH_CONNECTION", "SSH_TTY", "NO_COLOR", "TMUX", "COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        patch.setattr("textual.constants.COLOR_SYSTEM", "truecolor")
        patch.setattr("tui.screens.new_run.Question", MadeUpQuestion)
        patch.setattr("time.time", clock.read)
        # a record tells the clock; threads that other tests left behind read it too, and must not
        journal_time = SimpleNamespace(time=clock.tick, monotonic=clock.read)
        patch.setattr("trainer_daemon.contract.journal.time", journal_time)
        time.tzset()
        scenery = Scenery(clock, hair)
        try:
            for write in (failed, talked_to, crashed, preparing, finished, running):
                write(scenery)
            yield scenery
        finally:
            for scene in scenery.written:
                scene.close()
            patch.undo()
            time.tzset()


# The runs


def failed(scenery: Scenery) -> None:
    scene = scenery.create("owl-2", 400, ["optim.matrix_lr=0.3", 'tag="warm"'])
    scene.noise.seed(11)
    scene.begin()
    scene.train(1, 150, every=50)
    scene.end("failed", "rank 0: out of memory; lower train.micro_batch_size", step=150)
    scene.close()


def talked_to(scenery: Scenery) -> None:
    scene = scenery.create("owl", 20)
    scene.begin()
    scene.end()
    scene.close()
    for step, val_bpb in ((10, 0.5), (20, 0.7)):
        add_checkpoint(scene.run, step, val_bpb)


def crashed(scenery: Scenery) -> None:
    scene = scenery.create("crow", 400)
    scene.begin()
    scene.train(1, 60, every=20)
    scene.close()


def preparing(scenery: Scenery) -> None:
    """Its lock is held, and nobody answers for it."""
    scene = scenery.create("elk", 400)
    scene.tell("daemon", StateChanged("starting", "", 1, 1))
    scene.tell(
        "train",
        PhaseChanged("preparing", 0),
        PrepareProgress("stories", 20_000, 20_000, "stories"),
        PrepareProgress("tokenizer", 5_000, 10_000, "bytes"),
    )


def finished(scenery: Scenery) -> None:
    """All there is to see: a branch that was cut off, a changed value, alerts with evidence, a rank that is slow."""
    scene = scenery.create("fox", 400, ["optim.matrix_lr=0.2", "model.depth=6", 'tag="wide"'])
    scene.begin()
    scene.train(1, 230, every=50)
    scene.tell(
        "train",
        AttemptStarted(2, 4, "cuda", "NVIDIA H100", "bf16", 1, "2.13.0"),
        Resumed(200, "step-00000200", None),
        PhaseChanged("running", 200),
    )
    scene.train(201, 260)
    scene.tell("train", SettingChanged(260, "eval.every", 50, 100))
    scene.train(261, 319)
    scene.run.evidence.mkdir()
    (scene.run.path / EVIDENCE).write_text(json.dumps(RECORD))
    scene.tell("train", alert("loss_spike", 320, "the loss jumped to 7.31 nats from a usual 2.05", EVIDENCE))
    scene.train(320, 380)
    scene.tell("train", alert("slow_rank", 380, "rank 2 is 34% slower than the others"))
    for window in range(1, 9):
        own = [0.61 + 0.002 * rank + (0.2 if rank == 2 and window > 4 else 0.0) for rank in range(4)]
        scene.tell("train", RanksPaced(50 * window, 50, [0.01] * 4, own))
    scene.train(381, 400, every=400)
    ranks = [rank_use(rank, device=rank) for rank in range(4)]
    devices = [gpu(rank) for rank in range(3)] + [gpu(3, temperature_celsius=88.0, is_slowed_by_heat=True)]
    scene.tell("system", look(ranks, devices))
    scene.end()
    scene.close()
    for rank in range(4):
        (scene.run.logs / f"rank-{rank}.log").write_text(rank_log(rank), encoding="utf-8")


def rank_log(rank: int) -> str:
    lines = [f"rank {rank}: shard {shard} of 24 read in {40 + shard} ms" for shard in range(24)]
    lines[7:7] = ["UserWarning: the cache is cold; the first steps take longer", "  see docs/DATA.md"]
    lines += ["Traceback (most recent call last):", '  File "data.py", line 7, in read', "OSError: no route"]
    return "\n".join([*lines, f"rank {rank}: read again, and it was there"]) + "\n"


def running(scenery: Scenery) -> None:
    """Its lock is held, and nobody answers for it."""
    scene = scenery.create("hen", 400)
    scene.begin()
    scene.train(1, 90, every=30)
    scene.tell("daemon", Notice("info", "the disk has room for 4,000 checkpoints"))


# How to get to a screen


def keys(*pressed: str) -> Act:
    async def press(pilot: Pilot[None]) -> None:
        await pilot.press(*pressed)

    return press


def on(screen: type[Screen[Any]], *pressed: str) -> Act:
    """Press, and wait for a screen of that kind: the next key is for that one."""

    async def press(pilot: Pilot[None]) -> None:
        await pilot.press(*pressed)
        await until(pilot, lambda: isinstance(pilot.app.screen, screen))

    return press


def back(*pressed: str) -> Act:
    return on(CockpitScreen, *pressed)


def pane(name: str) -> Act:
    return keys(str(PANES.index(name) + 1))


def then(*acts: Act) -> Act:
    """One after the other, each when the one before has shown."""

    async def act(pilot: Pilot[None]) -> None:
        for one in acts:
            await one(pilot)
            await until(pilot, lambda: is_settled(pilot))

    return act


async def nothing(pilot: Pilot[None]) -> None: ...


def cockpit(pilot: Pilot[None]) -> CockpitScreen:
    screen = pilot.app.screen
    assert isinstance(screen, CockpitScreen)
    return screen


async def go_to_older_run(pilot: Pilot[None]) -> None:
    table = cockpit(pilot).query_one("#runs-table", DataTable)
    await until(pilot, lambda: table.row_count == 6 and table.has_focus)
    table.move_cursor(row=table.get_row_index("owl-2"))


async def go_to_first_run(pilot: Pilot[None]) -> None:
    cockpit(pilot).query_one("#runs-table", DataTable).move_cursor(row=0)


async def until_overlaid(pilot: Pilot[None]) -> None:
    screen = cockpit(pilot)
    await until(pilot, lambda: screen.overlay.is_caught_up and screen.overlay.names)


async def take_the_query_away(pilot: Pilot[None]) -> None:
    for entry in pilot.app.screen.query(Input):
        entry.value = ""


def answer(name: str, words: str, stride: int) -> Answer:
    """As a checkpoint would have given it, with likely and unlikely tokens in turn."""
    said = Answer(name, "Once upon a time", device="cpu")
    spoken = [f" {word}" for word in words.split()]
    for place, token in enumerate(spoken):
        chance = (0.72, 0.31, 0.12, 0.03, 0.004)[place * stride % 5]
        other = ((token, chance), (" the", chance / 2), (" and", chance / 4))
        top = tuple(Alternative(text, math.log(share)) for text, share in other)
        is_last = place == len(spoken) - 1
        choice = TokenLogprob(token, math.log(chance), top)
        piece = Piece(token, place + 1, is_last, "length" if is_last else None, logprobs=(choice,))
        said.take(piece, 0.2 + place / 16)
    return said


async def let_two_answer(pilot: Pilot[None]) -> None:
    screen = pilot.app.screen
    assert isinstance(screen, TalkScreen)
    await until(pilot, lambda: len(screen.chosen) == 2 and screen.answers == [])
    screen.answers = [
        answer("owl@10", "there was a fox who lived near the mill and counted every boat", 2),
        answer("owl@20", "there was a fox who was a fox and a fox", 3),
    ]
    screen._change()


async def look_at_a_token(pilot: Pilot[None]) -> None:
    screen = pilot.app.screen
    assert isinstance(screen, TalkScreen)
    text = screen.query(TokenText).first()
    text.focus()
    await until(pilot, lambda: screen.focused is text)
    await pilot.press("right", "right")
    await until(pilot, lambda: screen.cursor == (0, 2))


# The walks


@dataclass(frozen=True)
class Walk:
    """A cockpit on one of the runs, and the screens one comes by in it."""

    name: str
    run: str | None
    """Which one is open; None for the list of runs."""
    stops: tuple[tuple[str, Act], ...]
    """The name of each screen, and how to get there from the one before."""
    sizes: tuple[Size, ...] = SIZES
    settings: Settings = field(default_factory=Settings)

    def names(self, size: Size) -> list[str]:
        """Of its pictures."""
        return [f"{stop}-{size[0]}x{size[1]}" for stop, _ in self.stops]


def in_theme(name: str) -> tuple[tuple[str, Act], ...]:
    views = ("charts", "checkpoints", "runs", "system", "alerts")
    return tuple((f"{name}-{view}", pane(view)) for view in views)


WALKS = (
    Walk(
        "charts",
        "fox",
        (
            ("charts", nothing),
            ("charts-page", keys("right_square_bracket")),
            (
                "charts-alone",
                then(
                    back("left_square_bracket"), keys("enter"), keys("c", "left", "left", "m", "left", "left")
                ),
            ),
            ("charts-tokens-log", then(keys("m", "c", "escape"), keys("x", "x"), keys("y"))),
            (
                "charts-overlaid",
                then(
                    keys("x", "x", "y"), pane("runs"), go_to_older_run, keys("o"), until_overlaid, keys("1")
                ),
            ),
            ("prompt", then(keys("slash"), keys(*"Lily saw"))),
            ("samples", then(keys("escape"), pane("samples"))),
            ("checkpoints", pane("checkpoints")),
            ("checkpoint-fork", on(TypeIn, "f")),
            ("checkpoint-delete", then(back("escape"), on(Confirm, "d"))),
            ("log", then(back("escape"), pane("log"))),
            ("log-rank", keys("right_square_bracket")),
            ("log-search", then(keys("slash"), keys(*"shard 1"), keys("enter"), keys("N"))),
            ("log-errors", then(keys("escape"), keys("l", "l"))),
            ("system", pane("system")),
            ("alerts", pane("alerts")),
            ("alert-alone", then(keys("down"), keys("enter"))),
            ("help", on(Help, "question_mark")),
        ),
    ),
    Walk(
        "lists",
        "fox",
        (
            ("spec", pane("spec")),
            ("spec-differing", keys("d")),
            ("spec-versus", then(keys("d"), on(Choose, "v"))),
            ("spec-other", then(keys("down"), back("enter"))),
            ("spec-search", then(keys("x"), keys("slash"), keys(*"warm"))),
            ("runs", then(keys("escape", "escape"), pane("runs"), go_to_first_run)),
            ("runs-picked", then(keys("slash"), keys(*"val_bpb<1 state:x"))),
            (
                "runs-diff",
                then(
                    take_the_query_away,
                    keys("escape"),
                    go_to_older_run,
                    keys("space"),
                    go_to_first_run,
                    keys("down", "space"),
                    on(SpecDiff, "d"),
                ),
            ),
            ("new-run", then(back("escape"), on(NewRun, "n"))),
            ("new-run-filling", then(keys("down"), keys("7"))),
            ("palette", then(keys("escape"), keys("ctrl+p"))),
        ),
    ),
    Walk(
        "running",
        "hen",
        (
            ("running", nothing),
            ("stop", on(Confirm, "exclamation_mark")),
            ("kill", then(back("escape"), on(TypeIn, "ctrl+k"))),
            ("jump", then(back("escape"), on(Jump, "semicolon"))),
        ),
    ),
    Walk("crashed", "crow", (("crashed", nothing), ("resume", on(Confirm, "P")))),
    Walk("preparing", "elk", (("preparing", nothing), ("system-unknown", pane("system")))),
    Walk(
        "talk",
        "owl",
        (
            ("no-curves", nothing),
            ("no-alerts", pane("alerts")),
            ("talk", on(TalkScreen, "T")),
            ("talk-versus", then(keys("escape"), on(Choose, "v"))),
            (
                "talk-compared",
                then(on(TalkScreen, "enter"), let_two_answer, look_at_a_token),
            ),
        ),
    ),
    *(
        Walk(f"theme {name}", "fox", in_theme(name), (MIDDLE,), Settings(theme=theme))
        for name, theme in {
            "light": "llmctl-light",
            "contrast": "llmctl-contrast",
            "sixteen": "ansi-dark",
            "sixteen-light": "ansi-light",
        }.items()
    ),
    Walk("ascii", "fox", in_theme("ascii"), (SMALL,), Settings(symbols="ascii")),
    Walk(
        "narrow",
        "fox",
        tuple((f"narrow-{name}", pane(name)) for name in PANES),
        (NARROW,),
    ),
)


def every_name() -> set[str]:
    return {name for route in WALKS for size in route.sizes for name in route.names(size)}


async def walk(
    route: Walk, size: Size, scenery: Scenery, visit: Callable[[str, Pilot[None]], Awaitable[None]]
) -> None:
    """Go along all stops of one walk."""
    app = Cockpit(scenery[route.run] if route.run else None, settings=route.settings)
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        await until(pilot, partial(is_settled, pilot))
        for name, (_, act) in zip(route.names(size), route.stops, strict=True):
            await act(pilot)
            await visit(name, pilot)
