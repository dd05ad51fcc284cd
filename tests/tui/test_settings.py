"""The reader's own preferences: read, refused with the key that is wrong, and kept."""

import io
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from tests.tui.conftest import Runs
from tests.tui.test_cockpit import MIDDLE, opened, until, words
from trainer_daemon.contract.errors import SpecError
from tui.app import Cockpit
from tui.panes.charts import ChartGrid
from tui.screens.help import Help
from tui.settings import Settings, load_settings, remember_theme, settings_file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    return tmp_path


def test_without_a_file_the_defaults_hold() -> None:
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("theme = ", "cannot read"),
        ("mause = true", "mause"),
        ('symbols = "dots"', "symbols"),
        ('[keys]\n"run.pause" = 3', "keys.run.pause"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_what_is_wrong(text: str, named: str) -> None:
    settings_file().write_text(text)
    with pytest.raises(SpecError, match=named):
        load_settings()


def test_a_theme_is_kept_and_the_rest_of_the_file_left_alone() -> None:
    remember_theme("llmctl-light")
    assert load_settings().theme == "llmctl-light"
    text = '# mine\nmouse = true\ntheme = "nord" # for now\n\n[keys]\n"run.pause" = "ctrl+o"\n'
    settings_file().write_text(text)
    remember_theme("llmctl-dark")
    assert settings_file().read_text() == text.replace('theme = "nord" # for now', 'theme = "llmctl-dark"')
    settings_file().write_text('[keys]\ntheme = "ctrl+t"\n')
    remember_theme("nord")
    assert settings_file().read_text() == 'theme = "nord"\n[keys]\ntheme = "ctrl+t"\n'


async def test_own_keys_replace_the_defaults_and_stand_in_the_help(runs: Runs) -> None:
    run = runs.completed()
    settings = Settings(keys={"chart.log_y": "ctrl+l"})
    async with Cockpit(run, settings=settings).run_test(size=(120, 60)) as pilot:
        screen = await opened(pilot)
        loss = screen.query_one(ChartGrid).charts[0]
        await pilot.press("y")
        assert not loss.view.log_y
        await pilot.press("ctrl+l")
        await until(pilot, lambda: loss.view.log_y)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))
        help_screen = pilot.app.screen
        assert isinstance(help_screen, Help)
        console = Console(width=104, file=io.StringIO())
        console.print(help_screen._text())
        line = next(line for line in console.file.getvalue().splitlines() if "chart.log_y" in line)  # type: ignore[attr-defined]
        assert line.split()[0] == "^l"


async def test_every_row_that_names_a_key_names_the_one_that_the_reader_chose(runs: Runs) -> None:
    run = runs.completed()
    keys = {
        "pane.runs": "ctrl+r",
        "run.ask": "ctrl+a",
        "app.detach": "ctrl+q",
        "run.new": "N",
        "runs.query": "ctrl+f",
        "checkpoint.verify": "V",
        "form.search": "ctrl+s",
        "talk.again": "R",
        "log.search": "ctrl+g",
        "text.tail": "ctrl+e",
        "pane.on": "right_parenthesis",
        "confirm.no": "x",
    }
    async with Cockpit(run, settings=Settings(keys=keys)).run_test(size=(160, 30)) as pilot:
        screen = await opened(pilot)

        def has(*what: str) -> bool:
            present = "\n".join(s.text for s in pilot.app.screen._compositor.render_strips())
            return all(word in present for word in what)

        await until(pilot, partial(has, "^r runs", "^a ask", "^q detach", "press ^a and talk", "8 alerts"))
        await pilot.press("ctrl+r")
        await until(pilot, partial(has, "^f picks runs", "N new", "^f pick", "o overlay", "␣ mark"))
        await pilot.press("3")
        await until(pilot, partial(has, "V verify", "p pin"))
        await pilot.press("d")
        await until(pilot, partial(has, "y  yes      x  no"))
        await pilot.press("x")
        await until(pilot, lambda: pilot.app.screen is screen)
        await pilot.press("4")
        await until(pilot, partial(has, "^g searches", "[ ) which", "^g search", "^e follow"))
        await pilot.press("3")  # in the log N searches
        await until(pilot, partial(has, "V verify"))
        await pilot.press("N")
        await until(pilot, partial(has, "^s searches all fields", "^s all fields", "⏎ start"))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        await pilot.press("T")
        await until(pilot, partial(has, "R again", "v versus"))


async def test_a_theme_chosen_in_the_cockpit_is_there_the_next_time(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run).run_test(size=MIDDLE) as pilot:
        await opened(pilot)
        pilot.app.theme = "llmctl-light"
        await until(pilot, lambda: settings_file().exists())
    assert load_settings().theme == "llmctl-light"


async def test_a_key_for_something_that_is_not_there_is_told_with_the_nearest(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run, settings=Settings(keys={"chart.logy": "l"})).run_test(size=MIDDLE) as pilot:
        await opened(pilot)
        await until(pilot, lambda: any("chart.log_y" in n.message for n in pilot.app._notifications))


async def test_curves_are_drawn_with_the_symbols_that_the_font_has(runs: Runs) -> None:
    run = runs.completed()
    async with Cockpit(run, settings=Settings(symbols="ascii")).run_test(size=MIDDLE) as pilot:
        screen = await opened(pilot)
        assert not any("⠀" < character <= "⣿" for character in words(screen))
