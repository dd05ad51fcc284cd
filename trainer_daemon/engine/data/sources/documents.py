"""What every source yields: documents in one fixed order, each either text or ids that a tokenizer made before.

A corpus is read from its first document on and never whole into memory. Reading is sequential on purpose: files are not
shuffled and no buffer shuffles them, since rows are put in order later and a buffer's state would have to be saved.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = npt.NDArray[np.uint32]
Content: TypeAlias = str | TokenIds

HELD_OUT_RULES = ("auto", "hundredth", "last_file")
"""What `held_out` may say beside a path."""
HELD_OUT_EVERY = 100
"""With `held_out = "hundredth"`: documents 0, 100, 200, … are never trained on."""


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere in a corpus where reading can begin, without what comes before."""

    documents: int
    """That come before it."""
    at: Any
    """The corpus's own word for it, a JSON value."""


class Document(NamedTuple):
    content: Content
    """Text, or ids without their separators where the source holds tokens."""
    is_held_out: bool
    done: int
    """How far the corpus is read once this document is, in the corpus's own unit."""
    place: Place | None = None
    """The nearest one at or before this document; None: the corpus can be read from its beginning only."""


class Corpus(Protocol):
    """Documents in a fixed order."""

    @property
    def name(self) -> str:
        """As the spec names it, for messages."""

    @property
    def holds_tokens(self) -> bool:
        """Whether documents are ids of the tokenizer that the spec names, and not text."""

    @property
    def total(self) -> int | None:
        """What `Document.done` runs up to; None where it is not known."""

    @property
    def unit(self) -> str:
        """Of `total` and `done`."""

    def identity(self) -> dict[str, Any]:
        """JSON values that change whenever the documents could."""

    def documents(self, start: Place | None = None) -> Iterator[Document]:
        """From the first one on, or from a place that a document of this corpus named, at every call.

        Files and splits that are held out as a whole come first, so that they are there when training begins. No document
        is empty. Raises SpecError for what cannot be read.
        """

    def bits_per_byte_floor(self) -> float | None:
        """Entropy of the held-out documents in bits per byte, where it is known."""

    def lack(self, *, train: int, held_out: int) -> str:
        """Why so many documents do not make a training set and a held-out set."""
