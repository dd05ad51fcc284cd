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
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import home

DEFAULT_THEME = "llmctl-dark"


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    theme: str = DEFAULT_THEME
    mouse: bool = False
    """Off, the terminal's own selection works, and a dropped ssh leaves nothing behind."""
    symbols: Literal["braille", "block", "ascii"] = "braille"
    keys: dict[str, str] = {}
    """Binding id -> the keys that do it, separated by commas."""


def settings_file() -> Path:
    return home() / "cockpit.toml"


def load_settings() -> Settings:
    """What the file says; the defaults without one. Raises SpecError naming the line or the key that is wrong."""
    file = settings_file()
    try:
        return Settings.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise SpecError(f"cannot read {file}: {e}") from e
    except ValidationError as e:
        wrong = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors())
        raise SpecError(f"{file}: {wrong}; known keys: {', '.join(Settings.model_fields)}") from e


def remember_theme(theme: str) -> None:
    """Write the theme's line, and leave the rest of the file as it is. Raises OSError."""
    file = settings_file()
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    line = f'theme = "{theme}"'
    # a key of the top table stands before the first [table]
    new, count = re.subn(r"\A((?:(?!\s*\[).*\n)*?)\s*theme\s*=.*", rf"\g<1>{line}", text)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(new if count else f"{line}\n{text}", encoding="utf-8")
