"""What docs/COCKPIT.md says of keys is what the bindings say."""

import re
import tomllib

from tests.tui.cockpit_keys import DOCUMENT, written_anew
from tests.tui.cockpit_pictures import FOLDER, lighter
from tui.settings import read_settings


def test_the_keys_of_the_document_are_those_of_the_bindings() -> None:
    text = DOCUMENT.read_text()
    assert text == written_anew(text), "write them anew: python -m tests.tui.cockpit_keys"


def test_the_settings_of_the_document_are_settings() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    settings = read_settings(tomllib.loads(example), DOCUMENT.name)
    assert set(settings.keys) <= set(
        re.findall(r"`([a-z_]+\.[a-z_0-9]+)` \|$", DOCUMENT.read_text(), re.MULTILINE)
    )


def test_the_pictures_hold_nothing_that_shows_nothing() -> None:
    """They were three times as large, and the first one is what a visitor of the project loads."""
    pictures = sorted(FOLDER.glob("cockpit*.svg"))
    assert pictures
    for picture in pictures:
        text = picture.read_text()
        assert lighter(text) == text, (
            f"{picture.name} is as Textual wrote it: python -m tests.tui.cockpit_pictures"
        )


def test_grounds_that_touch_are_one_and_others_stay_apart() -> None:
    def ground(x: str, width: str, colour: str = "#121212", y: str = "1.5") -> str:
        return f'<rect fill="{colour}" x="{x}" y="{y}" width="{width}" height="24.65" shape-rendering="crispEdges"/>'

    touching = ground("0", "12.2") + ground("12.2", "24.4")
    assert lighter(touching) == ground("0", "36.6")
    for apart in (
        ground("0", "12.2") + ground("24.4", "12.2"),
        ground("0", "12.2") + ground("12.2", "12.2", colour="#ffffff"),
        ground("0", "12.2") + ground("12.2", "12.2", y="25.9"),
    ):
        assert lighter(apart) == apart
