"""What docs/COCKPIT.md says of keys is what the bindings say."""

import re
import tomllib

from tests.tui.cockpit_keys import DOCUMENT, written_anew
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
