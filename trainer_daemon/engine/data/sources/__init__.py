"""Where documents come from, each kind in a module of its own, all behind one interface.

What is wrong with a source is said before anything starts: `check_source` needs neither torch nor a tokenizer and reads no
more than the first documents.
"""

from pathlib import Path

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.places import resolve_path
from trainer_daemon.contract.spec import DataSpec, TokenizerSpec
from trainer_daemon.contract.vocabulary import named_vocabulary
from trainer_daemon.engine.data.sources.documents import (
    HELD_OUT_EVERY,
    HELD_OUT_RULES,
    Corpus,
    Document,
    Place,
)
from trainer_daemon.engine.data.sources.files import EXTENSIONS, FileCorpus, find_files
from trainer_daemon.engine.data.sources.hub import PREFIX as HUB_PREFIX
from trainer_daemon.engine.data.sources.hub import HubCorpus, parse_address
from trainer_daemon.engine.data.sources.mixture import MixtureCorpus
from trainer_daemon.engine.data.sources.prepared import PreparedCorpus
from trainer_daemon.engine.data.sources.stories import StoryCorpus

STORIES = "stories"

__all__ = [
    "EXTENSIONS",
    "HELD_OUT_EVERY",
    "HELD_OUT_RULES",
    "Corpus",
    "Document",
    "Place",
    "absolute_source",
    "check_source",
    "find_files",
    "open_corpus",
    "resolve_path",
]


def open_corpus(data: DataSpec, tokenizer: TokenizerSpec, home: Path) -> Corpus:
    """Raises SpecError when the spec names nothing that can be read."""
    if isinstance(data.source, str):
        return _open_one(data.source, data, tokenizer, home)
    if data.held_out not in HELD_OUT_RULES:
        raise SpecError(
            "data.held_out: each corpus of a mixture holds out its own; use auto, hundredth or last_file"
        )
    return MixtureCorpus([(_open_one(s, data, tokenizer, home), weight) for s, weight in data.source.items()])


def _open_one(source: str, data: DataSpec, tokenizer: TokenizerSpec, home: Path) -> Corpus:
    if source == STORIES:
        if data.held_out not in ("auto", "hundredth"):
            raise SpecError("data.held_out: stories have no files; they hold out every hundredth")
        return StoryCorpus(data)
    if source.startswith(HUB_PREFIX):
        parse_address(source)
        if data.held_out == "last_file":
            raise SpecError(
                "data.held_out: a stream has no last file; use hundredth, or name a split such as validation"
            )
        return HubCorpus(data, source)
    place = Path(resolve_path(source, home))
    if (place / "meta.json").exists() and (place / "train" / "000000.bin").exists():
        return PreparedCorpus(source, place)
    return FileCorpus(source, data, named_vocabulary(tokenizer, home), home)


def check_source(data: DataSpec, tokenizer: TokenizerSpec, home: Path) -> None:
    """Raises SpecError, saying what to change, when no training set and held-out set can be read from this spec.

    Reads the first documents of files only: a bad line further on, too few tokens for a row, or what the hub answers,
    shows when the text is prepared.
    """
    corpus = open_corpus(data, tokenizer, home)
    for part in [part for part, _ in corpus.parts] if isinstance(corpus, MixtureCorpus) else [corpus]:
        if isinstance(part, FileCorpus):
            part.check()


def absolute_source(source: str, home: Path) -> str:
    """A source as it is to be named from any folder. Raises SpecError for a path where nothing is."""
    return source if source == STORIES or source.startswith(HUB_PREFIX) else resolve_path(source, home)
