"""Several corpora as one, each with a share of the text.

The next document comes from the corpus that is furthest behind its share, so every part of the training set holds the
shares, and so does whatever a tokenizer learns from. It ends with the first corpus that has no more: nothing is repeated
behind the reader's back. Each corpus holds out what it would alone.
"""

from collections.abc import Iterator
from typing import Any

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.sources.documents import Corpus, Document, Place
from trainer_daemon.engine.data.sources.files import FileCorpus
from trainer_daemon.engine.data.sources.prepared import PreparedCorpus


class MixtureCorpus:
    """Corpora and their weights, which need not add up to one."""

    def __init__(self, parts: list[tuple[Corpus, float]]) -> None:
        self.parts = parts
        self.name = " + ".join(f"{weight:g} {corpus.name}" for corpus, weight in parts)
        if len({corpus.holds_tokens for corpus, _ in parts}) == 2:
            raise SpecError(f"data.source: {self.name}: some hold ids and others text; mix one kind")
        self.holds_tokens = parts[0][0].holds_tokens

    @property
    def total(self) -> int | None:
        totals = [corpus.total for corpus, _ in self.parts]
        return None if None in totals else sum(total for total in totals if total is not None)

    @property
    def unit(self) -> str:
        units = {corpus.unit for corpus, _ in self.parts}
        return units.pop() if len(units) == 1 else "units"

    def identity(self) -> dict[str, Any]:
        return {"source": "mixture", "parts": [[corpus.identity(), weight] for corpus, weight in self.parts]}

    def documents(self, start: Place | None = None) -> Iterator[Document]:
        assert start is None, "a mixture names no places: where it stands is where each of its parts stands"
        done = [0] * len(self.parts)
        for part, document in self._in_turn():
            done[part] = document.done
            yield document._replace(done=sum(done), place=None)

    def _in_turn(self) -> Iterator[tuple[int, Document]]:
        """(number of the part, its next document): files and splits that are held out, then those to train on by their shares."""
        for part, (corpus, _) in enumerate(self.parts):
            if isinstance(corpus, FileCorpus | PreparedCorpus):
                yield from ((part, document) for document in corpus.held_out_documents())
        streams = [_without_held_out_files(corpus) for corpus, _ in self.parts]
        weights = [weight for _, weight in self.parts]
        sizes = [0] * len(self.parts)
        while True:
            part = min(range(len(sizes)), key=lambda i: sizes[i] / weights[i])
            if (document := next(streams[part], None)) is None:
                break
            if not document.is_held_out:
                content = document.content
                sizes[part] += len(content.encode()) if isinstance(content, str) else len(content)
            yield part, document

    def bits_per_byte_floor(self) -> float | None:
        return None

    def lack(self, *, train: int, held_out: int) -> str:
        return f"data.source: {self.name} give {train} documents to train on and {held_out} to hold out; give more text"


def _without_held_out_files(corpus: Corpus) -> Iterator[Document]:
    if isinstance(corpus, FileCorpus | PreparedCorpus):
        return corpus.training_documents()
    return corpus.documents()
