"""Prompts worth asking again, of all runs and sessions: a small JSON file in the home."""

import json
from pathlib import Path

from trainer_daemon.contract.rundir import home, write_json

MOST = 100


def favourites_file() -> Path:
    return home() / "favourite-prompts.json"


def favourites() -> list[str]:
    """The newest first; none where there is no file, or one that is not ours."""
    try:
        stored = json.loads(favourites_file().read_bytes())
    except (OSError, ValueError):
        return []
    return [prompt for prompt in stored if isinstance(prompt, str)][:MOST] if isinstance(stored, list) else []


def toggle_favourite(prompt: str) -> bool:
    """Keep a prompt, or forget one that is kept; True when it is kept now. Raises OSError where it cannot be written."""
    kept = favourites()
    is_kept = prompt not in kept
    home().mkdir(parents=True, exist_ok=True)
    write_json(favourites_file(), [prompt, *kept][:MOST] if is_kept else [p for p in kept if p != prompt])
    return is_kept
