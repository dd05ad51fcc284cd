"""What a reader prefers, in `$LLMCTL_HOME/cockpit.toml`, a file to write by hand:

    theme = "llmctl-light"
    mouse = true            # wheel zooms, click reads off; the terminal's own selection then needs shift
    symbols = "block"       # for fonts without Braille

    [keys]                  # by the ids that the help screen shows
    "run.pause" = "ctrl+p"

The cockpit itself only ever rewrites the line of the theme.
"""

import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import home

DEFAULT_THEME, SIXTEEN_COLOURS_THEME = "llmctl-dark", "ansi-dark"


@dataclass(frozen=True)
class Settings:
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    theme: str | None = None
    """None: what the terminal's colours allow."""
    mouse: bool = False
    """Off, the terminal's own selection works, and a dropped ssh leaves nothing behind."""
    symbols: Literal["braille", "block", "ascii"] = "braille"
    keys: dict[str, str] = field(default_factory=dict)
    """Binding id -> the keys that do it, separated by commas."""


def settings_file() -> Path:
    return home() / "cockpit.toml"


def load_settings() -> Settings:
    """What the file says; the defaults without one. Raises SpecError naming the line or the key that is wrong."""
    file = settings_file()
    try:
        return read_settings(tomllib.loads(file.read_text(encoding="utf-8")), str(file))
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise SpecError(f"cannot read {file}: {e}") from e


def read_settings(written: dict[str, Any], file: str) -> Settings:
    """The settings that a table means. Raises SpecError naming `file` and the key that is wrong."""
    # pydantic would be a third of the time to the first frame for those who have no such file
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Settings).validate_python(written)
    except ValidationError as e:
        wrong = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors())
        known = ", ".join(field.name for field in fields(Settings))
        raise SpecError(f"{file}: {wrong}; known keys: {known}") from e


def remember_theme(theme: str) -> None:
    """Write the theme's line, and leave the rest of the file as it is. Raises OSError."""
    file = settings_file()
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    line = f'theme = "{theme}"'
    # a key of the top table stands before the first [table]
    new, count = re.subn(r"\A((?:(?!\s*\[).*\n)*?)\s*theme\s*=.*", rf"\g<1>{line}", text)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(new if count else f"{line}\n{text}", encoding="utf-8")
