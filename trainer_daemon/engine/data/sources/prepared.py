"""A prepared set as a part of a mixture: its ids are turned back into the text that they were.

Byte-level ids lose nothing, so a set can be mixed with text and with sets of other tokenizers, and weights mean bytes of
text as ever; the price is that it is tokenized once more. It holds out what it held out when it was made. Conversations
are refused: text does not say who speaks.
"""

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.sources.documents import Document, Place

if TYPE_CHECKING:
    from trainer_daemon.engine.data.shards import Split
    from trainer_daemon.engine.data.tokenizer import Tokenizer


class PreparedCorpus:
    """The documents of a set. Raises SpecError when the folder is none of this version."""

    holds_tokens = False
    unit = "tokens"

    def __init__(self, source: str, folder: Path) -> None:
        from trainer_daemon.engine.data.shards import (
            read_meta,
        )  # which reads files of ids by the modules beside this one

        self.name = source
        self._folder = folder
        self._meta = read_meta(folder)

    @property
    def total(self) -> int:
        return sum(int(split["tokens"]) for split in self._meta["splits"].values())

    def identity(self) -> dict[str, Any]:
        return {"source": "prepared", "fingerprint": self._meta["fingerprint"]}

    def documents(self, start: Place | None = None) -> Iterator[Document]:
        assert start is None, "a set is only read as a part of a mixture, which names no places"
        return chain(self.held_out_documents(), self.training_documents())

    def held_out_documents(self) -> Iterator[Document]:
        """Those that the set holds out."""
        return self._documents_of(is_held_out=True)

    def training_documents(self) -> Iterator[Document]:
        """All others."""
        return self._documents_of(is_held_out=False)

    def _documents_of(self, *, is_held_out: bool) -> Iterator[Document]:
        from trainer_daemon.engine.data.shards import open_set

        prepared = open_set(self._folder)
        split = prepared.held_out if is_held_out else prepared.train
        before = 0 if is_held_out else len(prepared.held_out)
        special = np.array(list(prepared.tokenizer.special.values()))
        for number, (first, end) in enumerate(pairwise(split.document_starts().tolist())):
            if text := self._text_of(split, first, end, number, prepared.tokenizer, special):
                yield Document(text, is_held_out, before + end)

    def _text_of(
        self, split: "Split", first: int, end: int, number: int, tokenizer: "Tokenizer", special: Any
    ) -> str:
        ids = split.read(first + 1, end - first - 1)  # without its BOS
        where = f"data.source: document {number:,} of {split.folder}"
        if np.isin(ids, special).any():
            raise SpecError(
                f"{where} holds special tokens, which no text has; a mixture takes sets of text only"
            )
        try:
            return b"".join(map(tokenizer.decode_bytes, ids.tolist())).decode()
        except UnicodeDecodeError as e:
            raise SpecError(
                f"{where} is no text: its bytes are no UTF-8 ({e.reason} at byte {e.start:,})"
            ) from e

    def bits_per_byte_floor(self) -> float | None:
        return None

    def lack(self, *, train: int, held_out: int) -> str:
        return f"data.source: {self.name} gives {train} documents to train on and {held_out} to hold out"
