"""Text that others wrote is shown as text, in every view: it may be wide, combined, right to left, markup or an attack, and the
screen stays whole around it."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from textual.pilot import Pilot

from presets.loader import preset_tables
from tests.tui.conftest import BATCH_TOKENS, WrittenRun
from tests.tui.test_cockpit import MIDDLE, SMALL, opened, shown, until, words
from tests.tui.test_system_pane import gpu, look, rank_use
from trainer_daemon.contract.alerts import alert
from trainer_daemon.contract.events import (
    AttemptStarted,
    CommandDone,
    Notice,
    RankExited,
    RunPlanned,
    Sampled,
    SettingChanged,
)
from trainer_daemon.contract.rundir import create_run, runs_folder
from trainer_daemon.contract.spec import build_spec
from tui.app import Cockpit
from tui.panes.views import PANES
from tui.screens.choose import Choose
from tui.screens.cockpit import CockpitScreen
from tui.screens.new_run import NewRun
from tui.screens.spec_diff import SpecDiff
from tui.screens.talk import TalkScreen

if TYPE_CHECKING:
    from textual.screen import Screen

    from tests.tui.conftest import Runs

HOSTILE = (
    "[bold red]x[/] [@click=app.exit]go[/] "  # markup
    "\x1b[2J\x1b[31m\x1b]0;owned\x07\x1bP1$r\x1b\\\x9b5A\x08\x08\r\x85"  # erase, colour, title, device control, up
    "\u202egnp.exe\u202c \u2066iso\u2069 \ufeff"  # overrides and isolates
    "日本語の長い文 🙂👩‍👩‍👧 e\u0301\u0301\u0301te\u0301 שלום مرحبا ⚠\ufe0f ﷽"  # wide, joined, combined, right to left
)
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff\u2028\u2029]")
MARKUP = "[bold red]x[/]"
TAG = "日本שלום"


def hostile_run(runs: Runs, name: str, *overrides: str) -> WrittenRun:
    """A run all of whose words are hostile, where a run can have any."""
    hostile = {"notes": HOSTILE, "tag": TAG, "sample": {"prompts": [HOSTILE]}}
    spec = build_spec({**preset_tables("stories"), **hostile}, list(overrides))
    run, lock = create_run(name, spec)
    written = WrittenRun(run, lock, 100)
    runs.written.append(written)
    written.begin()
    written.tell(
        "train",
        AttemptStarted(1, 2, "cuda", HOSTILE, "bf16", 1, HOSTILE),
        RunPlanned(
            100, 100 * BATCH_TOKENS, BATCH_TOKENS, 1, 4096, 11_534_336, 9_437_184, 62_914_560, 2.1e11, HOSTILE,
            120_000, 1_200, 0.62,
        ),
    )  # fmt: skip
    written.train(1, 40, every=20)
    written.tell(
        "train",
        Sampled(40, HOSTILE, HOSTILE * 3, 24, "length", 0.0, None, 0, 0.4, None),
        SettingChanged(40, "eval.every", 25, 20),
        alert("loss_spike", 40, HOSTILE, record=f"alerts/{HOSTILE}.json"),
        CommandDone("1", "save", ok=False, message=HOSTILE),
        Notice("warning", HOSTILE),
    )
    written.tell(
        "daemon",
        RankExited(1, 1, None, HOSTILE, is_root_cause=True),
        look([rank_use(0, device=0)], [gpu(0, name=HOSTILE)]),
    )
    for log in (run.rank_log(0), run.agent_log, run.supervisor_log):
        log.write_text(f"{HOSTILE}\n" * 3)
    return written


def assert_whole(screen: Screen[Any]) -> str:
    """All that is on screen, whose every row is as wide as the screen and has nothing in it that moves a cursor."""
    strips = screen._compositor.render_strips()
    assert len(strips) == screen.size.height
    assert {strip.cell_length for strip in strips} == {screen.size.width}
    assert not [strip.text for strip in strips if FORBIDDEN.search(strip.text)]
    return "\n".join(strip.text for strip in strips)


async def became(pilot: Pilot[None], kind: type[Screen[Any]]) -> Screen[Any]:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))
    screen: Screen[Any] = pilot.app.screen
    await until(pilot, lambda: screen.is_current and bool("".join(row.text for row in rows(screen)).strip()))
    return screen


def rows(screen: Screen[Any]) -> list[Any]:
    return screen._compositor.render_strips()


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_no_text_of_others_disturbs_any_view(runs: Runs, size: tuple[int, int]) -> None:
    hostile_run(runs, "owl", "model.depth=6")
    fox = hostile_run(runs, "fox")
    (runs_folder() / os.fsdecode("[bold]\x1b[2J\u202eevil".encode())).mkdir()
    async with Cockpit(fox.run).run_test(size=size) as pilot:
        screen = await opened(pilot)

        def has(*what: str) -> bool:
            return all(word in words(screen) for word in what)

        telling = {
            "charts": ("40/100",),
            "samples": (MARKUP,),
            "checkpoints": ("val bpb",),
            "log": (MARKUP,),
            "runs": ("2 runs",),
            "system": ("ranks",),
            "spec": ("not as in stories",),
            "alerts": (MARKUP,),
        }
        assert list(telling) == list(PANES), "every view is looked at"
        for number, (name, shown_words) in enumerate(telling.items(), 1):
            await pilot.press(str(number))
            await until(pilot, lambda name=name: shown(screen) == name)  # type: ignore[misc]
            await until(pilot, partial(has, *shown_words))
            assert_whole(screen)
            if name == "log":
                for _ in range(3):  # what the processes printed
                    await pilot.press("right_square_bracket")
                    await pilot.pause()
                    assert_whole(screen)
            if name == "runs":
                assert "evil" not in words(screen), "a folder of no valid name is no run"
        await pilot.press("5")
        await until(pilot, partial(has, "2 runs"))
        await pilot.press("down", "d")
        diff = await became(pilot, SpecDiff)
        assert_whole(diff)
        await pilot.press("escape")
        await became(pilot, CockpitScreen)
        await pilot.press("f")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose) or bool(pilot.app._notifications))
        assert_whole(pilot.app.screen)
        await pilot.press("escape", "T")
        assert_whole(await became(pilot, TalkScreen))


async def test_a_form_takes_hostile_text_as_text(runs: Runs) -> None:
    async with Cockpit(None).run_test(size=SMALL) as pilot:
        await became(pilot, CockpitScreen)
        await pilot.press("n")
        form = await became(pilot, NewRun)
        assert isinstance(form, NewRun)
        for key, text in {"tag": TAG, "notes": HOSTILE, "data.source": HOSTILE}.items():
            form._change(form.draft.with_typed(key, text))
        await until(pilot, lambda: MARKUP in assert_whole(form))
        assert form.draft.spec().notes == HOSTILE.strip()
