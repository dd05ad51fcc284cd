"""What a rank leaves in `attempts/N/` about its own exception. Plain stdlib: a rank writes it, the agent reads it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RankError:
    """How one rank fell, in its own words."""

    rank: int
    time_ns: int
    """Since 1970: fine enough to tell the first from its consequences."""
    type: str
    message: str
    exit_code: int
    traceback: str = ""


def rank_error_file(attempt_folder: Path, rank: int) -> Path:
    return attempt_folder / f"rank-{rank}.error.json"
