"""Where documents come from, each kind in a module of its own, all behind one interface.

What is wrong with a source is said before anything starts: `check_source` needs neither torch nor a tokenizer and reads no
more than the first documents.
"""

from pathlib import Path

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.places import resolve_path
from trainer_daemon.contract.spec import DataSpec, TokenizerSpec
from trainer_daemon.contract.vocabulary import named_vocabulary
from trainer_daemon.engine.data.sources.documents import HELD_OUT_EVERY, HELD_OUT_RULES, Corpus, Document
from trainer_daemon.engine.data.sources.files import EXTENSIONS, FileCorpus, find_files
from trainer_daemon.engine.data.sources.stories import StoryCorpus

__all__ = [
    "EXTENSIONS",
    "HELD_OUT_EVERY",
    "HELD_OUT_RULES",
    "Corpus",
    "Document",
    "check_source",
    "find_files",
    "open_corpus",
    "resolve_path",
]


def open_corpus(data: DataSpec, tokenizer: TokenizerSpec, home: Path) -> Corpus:
    """Raises SpecError when the spec names nothing that can be read."""
    if data.source == "stories":
        if data.held_out not in ("auto", "hundredth"):
            raise SpecError("data.held_out: stories have no files; they hold out every hundredth")
        return StoryCorpus(data)
    return FileCorpus(data, named_vocabulary(tokenizer, home), home)


def check_source(data: DataSpec, tokenizer: TokenizerSpec, home: Path) -> None:
    """Raises SpecError, saying what to change, when no training set and held-out set can be read from this spec.

    Reads the first documents only: a bad line further on, or too few tokens for a row, shows when the text is prepared.
    """
    corpus = open_corpus(data, tokenizer, home)
    if isinstance(corpus, FileCorpus):
        corpus.check()
