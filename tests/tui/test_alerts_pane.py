"""What went wrong: its fold, its suggestions held to the command line, and the view on real journals and evidence."""

from __future__ import annotations

import json
import shlex
from itertools import count
from typing import TYPE_CHECKING, Any, get_args

import pytest
import typer
from textual.widgets import DataTable

from cli.main import commands as llmctl
from tests.tui.test_cockpit import LARGE, MIDDLE, SMALL, opened, shown, until, words
from trainer_daemon.contract.alerts import alert
from trainer_daemon.contract.events import (
    AlertName,
    CheckpointFailed,
    Event,
    RankExited,
    Stalled,
    StateChanged,
)
from trainer_daemon.contract.journal import Record
from tui.acknowledged import acknowledged_file
from tui.alarms import Alarm, alarm_of, suggested_command
from tui.app import Cockpit
from tui.chart.palette import DARK
from tui.evidence import evidence_lines
from tui.panes.charts import ChartGrid
from tui.panes.views import PANES

if TYPE_CHECKING:
    from tests.tui.conftest import Runs, WrittenRun

_seq = count(1)
KEY = str(1 + PANES.index("alerts"))
EVIDENCE = "evidence/step-00000120-loss_spike.json"
RECORD = {
    "step": 120,
    "doubt": "loss_spike",
    "loss_nats": 7.31,
    "loss_nats_by_rank": [2.1, 12.5],
    "usual_loss_nats": 2.05,
    "grad_norm": 41.0,
    "usual_grad_norm": 0.31,
    "gradient_norms": {"blocks.3.mlp.up": 40.2, "lm_head": 1.5, "wte": None},
    "rows": [5120, 5121, 5122, 5123],
    "rows_by_rank": 2,
}


def alarmed(event: Event, step: int = 200) -> Alarm | None:
    return alarm_of(Record("daemon", next(_seq), 1000.0, 0.0, 1, event.kind(), event), step)


def troubled(runs: Runs, *, steps: int = 200) -> WrittenRun:
    """A run with a spike and its evidence, a slow rank, and a rank that died."""
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 119, every=50)
    written.tell(
        "train", alert("loss_spike", 120, "the loss jumped to 7.31 nats from a usual 2.05", EVIDENCE)
    )
    written.run.evidence.mkdir()
    (written.run.path / EVIDENCE).write_text(json.dumps(RECORD))
    written.train(120, steps)
    written.tell("train", alert("slow_rank", 150, "rank 1 is 34% slower than the others"))
    written.tell("daemon", RankExited(1, None, "SIGKILL", "killed by the kernel", is_root_cause=True))
    return written


def test_what_is_no_alarm_is_none_and_what_is_has_cause_and_fix() -> None:
    told = [
        alert("overfitting", 30, "the held-out loss rises"),
        Stalled(61.0, 0.8),
        RankExited(3, 1, None, "RuntimeError: boom", is_root_cause=True),
        CheckpointFailed(40, "no space left on device"),
    ]
    alarms = [alarm for event in told if (alarm := alarmed(event)) is not None]
    assert [(a.name, a.step, a.level) for a in alarms] == [
        ("overfitting", 30, "warning"),
        ("stalled", 200, "error"),
        ("rank_exited", 200, "error"),
        ("checkpoint_failed", 40, "error"),
    ]
    assert all(a.seen and a.cause and a.fix for a in alarms)
    assert alarms[2].rank == 3
    assert alarmed(RankExited(3, 1, None, "fell with it", is_root_cause=False)) is None
    assert alarmed(StateChanged("running", "", 1, 1)) is None


@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("stored", [[], [50, 100]])
@pytest.mark.parametrize("name", [*get_args(AlertName), "stalled", "rank_exited", "checkpoint_failed"])
def test_a_suggested_command_is_one_that_llmctl_takes(name: Any, stored: list[int], has_ended: bool) -> None:
    alarm = Alarm("daemon:1:0", 0.0, 120, "warning", name, "", "", "", rank=1)
    suggested = suggested_command(alarm, "fox", stored, has_ended=has_ended)
    program, command_name, *arguments = shlex.split(suggested)
    assert program == "llmctl"
    assert not (has_ended and command_name in {"set", "stop"}), "a run that is over takes neither"
    group = typer.main.get_group(llmctl)
    with typer.Context(group) as context:
        command = group.get_command(context, command_name)
    assert command is not None
    command.make_context(command_name, arguments).close()


def test_evidence_shows_the_layers_that_are_not_finite_first_and_survives_anything() -> None:
    lines = [line.plain for line in evidence_lines(json.dumps(RECORD), 100, DARK)]
    text = "\n".join(lines)
    layers = [line.split()[0] for line in lines if line.startswith(("wte", "blocks", "lm_head"))]
    assert layers == ["wte", "blocks.3.mlp.up", "lm_head"]
    assert "not finite" in text
    assert "5120" in text
    assert "2 a rank" in text
    rows = [{"row": 5121, "loss_nats": 12.5, "text": "a\x1b[2J b" * 90}, {"row": 5120, "loss_nats": None}]
    worst = [line.plain for line in evidence_lines(json.dumps({"worst_rows": rows}), 40, DARK)]
    assert "5121  12.5 nats" in worst
    assert "5120  not finite" in worst
    assert max(map(len, worst)) <= 42
    assert "\x1b" not in "".join(worst)
    hostile: list[object] = [
        "x", [], 3, {}, {"worst_rows": [3, {}, {"row": "\x1b[2J", "loss_nats": "much", "text": 3}]}, {"gradient_norms": {"\x1b[2J": "big"}, "rows": ["\x1b]0;x\x07", True]},
        {"loss_nats": "NaN", "rows": {}, "gradient_norms": [1]},
    ]  # fmt: skip
    for value in hostile:
        shown = "\n".join(line.plain for line in evidence_lines(json.dumps(value), 30, DARK))
        assert "\x1b" not in shown
    assert "cannot be read" in evidence_lines('{"torn', 30, DARK)[0].plain


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
async def test_an_alert_is_listed_told_and_its_evidence_read_and_the_charts_go_there(
    runs: Runs, size: tuple[int, int]
) -> None:
    written = troubled(runs)
    async with Cockpit(written.run).run_test(size=size) as pilot:
        screen = await opened(pilot)
        assert "3 alerts" in words(screen) or size == SMALL
        assert f"{KEY} alerts 3" in words(screen)
        await pilot.press(KEY)
        await until(pilot, lambda: "rank 1 died" in words(screen))
        # the banner tells of the death before the list is drawn
        await until(pilot, lambda: "slower than" in words(screen) or "jumped" in words(screen))
        await until(pilot, lambda: "likely cause" in words(screen))
        await until(pilot, lambda: isinstance(screen.focused, DataTable))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: "slow rank" not in words(screen))  # it is read alone
        await until(pilot, lambda: "evidence/step-00000120" in words(screen))
        await until(pilot, lambda: "reading …" not in words(screen))
        await pilot.press("end")
        await until(pilot, lambda: "blocks.3.mlp.up" in words(screen))
        await until(pilot, lambda: screen.query_one(ChartGrid).charts[2].view.cursor == 120)
        await pilot.press("escape")
        await until(pilot, lambda: "slow rank" in words(screen))
        await pilot.press("1")
        await until(pilot, lambda: shown(screen) == "charts" and "step 120" in words(screen))


async def test_what_is_seen_is_counted_no_more_and_stays_seen(runs: Runs) -> None:
    written = troubled(runs)
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press(KEY)
        await until(pilot, lambda: "rank 1 died" in words(screen))
        await pilot.press("a")
        await until(pilot, lambda: f"{KEY} alerts 2" in words(screen))
        await pilot.press("a")
        await until(pilot, lambda: f"{KEY} alerts 3" in words(screen))
        await pilot.press("A")
        await until(pilot, lambda: f"{KEY} alerts  " in words(screen))
        assert acknowledged_file().exists()
        written.tell("train", alert("gradient_spike", 200, "the gradient's norm jumped"))
        await until(pilot, lambda: f"{KEY} alerts 1" in words(screen))
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await until(pilot, lambda: f"{KEY} alerts 1" in words(screen))
        assert "the gradient's norm jumped" in words(screen), "the banner tells what is news"
        await pilot.press(KEY)
        await until(pilot, lambda: "likely cause" in words(screen))
        await pilot.press("A", "1")
        await until(pilot, lambda: shown(screen) == "charts" and f"{KEY} alerts  " in words(screen))
        await until(pilot, lambda: "What to do" not in words(screen))


async def test_who_only_looks_leaves_no_file_behind(runs: Runs) -> None:
    written = troubled(runs)
    async with Cockpit(written.run, is_read_only=True).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press(KEY)
        await until(pilot, lambda: "likely cause" in words(screen))
        await pilot.press("A")
        await until(pilot, lambda: f"{KEY} alerts  " in words(screen))
    assert not acknowledged_file().exists()


async def test_the_suggested_command_is_copied(runs: Runs) -> None:
    written = troubled(runs)
    async with Cockpit(written.run).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        await pilot.press(KEY)
        await until(pilot, lambda: "llmctl logs fox --rank 1" in words(screen))
        await pilot.press("Y")
        await until(pilot, lambda: pilot.app.clipboard == "llmctl logs fox --rank 1")
        await pilot.press("down", "down")
        await until(pilot, lambda: "llmctl fork fox@100 --set health.skip_spikes=true" in words(screen))


async def test_nothing_wrong_is_said_and_evidence_that_is_gone_too(runs: Runs) -> None:
    written = runs.create("fox", 400)
    written.begin()
    written.train(1, 20)
    async with Cockpit(written.run).run_test(size=SMALL) as pilot:
        screen = await opened(pilot)
        await pilot.press(KEY)
        await until(pilot, lambda: "nothing has gone wrong so far" in words(screen))
        assert "Here would stand a loss that jumps" in words(screen)
        assert "A all seen" not in words(screen), "keys that would do nothing are not offered"
        gone = alert("loss_spike", 20, "a\x1b[2J jump\u202e\n[bold]漢字", "evidence/step-gone.json")
        written.tell("train", gone, alert("not_finite", 20, "outside", "../../../etc/passwd"))
        await until(pilot, lambda: "a jump [bold]漢字" in words(screen))
        await until(pilot, lambda: isinstance(screen.focused, DataTable))
        await until(pilot, lambda: "A all seen" in words(screen))
        await pilot.press("enter", "end")
        await until(pilot, lambda: "is no log" in words(screen))
        await pilot.press("escape", "down", "enter", "end")
        await until(pilot, lambda: "it is not there any more" in words(screen))
