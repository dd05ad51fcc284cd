"""Where a path in a spec points: from the working folder, and then from the home, so that a preset can name a corpus."""

from collections.abc import Iterator
from pathlib import Path

from trainer_daemon.contract.errors import SpecError


def resolve_path(path: str, home: Path, key: str = "data.source") -> str:
    """The absolute form of a path in the spec: from the working folder if something is there, else from `home`/data.

    Raises SpecError, naming `key`, when nothing is there under either.
    """
    written = Path(path).expanduser()
    tried = [written] if written.is_absolute() else [Path.cwd() / written, home / "data" / written]
    try:
        for candidate in tried:
            if candidate.exists() or any(matches(candidate)):
                return str(candidate)
    except OSError as e:
        raise SpecError(f"{key}: cannot look into {e.filename}: {e.strerror}") from e
    raise SpecError(
        f"{key}: there is nothing at {' nor at '.join(map(str, tried))}; name what is there, or write the whole path"
    )


def matches(pattern: Path) -> Iterator[Path]:
    """What an absolute glob finds."""
    return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
