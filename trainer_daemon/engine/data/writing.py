"""Documents to shards on the disk, block by block, with a note of how far they go.

A block is what was read between two closings of shards: at most one shard to train on and one to hold out. It begins with
a batch of its own, so that written again from its beginning it is the same to the byte, and whoever reads along can take
each block as soon as the note has it.
"""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np

from trainer_daemon.contract.rundir import write_json
from trainer_daemon.engine.data.encode import Encoded, encode_all
from trainer_daemon.engine.data.shards import SPLITS, TOKENIZER_FILE, ShardFile, SplitWriter, token_dtype
from trainer_daemon.engine.data.sources import Corpus, Document, Place
from trainer_daemon.engine.data.tokenizer import Tokenizer

Progress: TypeAlias = Callable[[str, int, int | None, str], None]
"""(what, done, total, unit), as in the event PrepareProgress."""

SHARD_TOKENS = 100_000_000
"""A block is closed with the batch that brings one of its shards to this."""
PROCESSES_ABOVE_BYTES = 64 * 2**20
"""A larger corpus is tokenized in processes: below, their start costs more than they save."""
NOTE_FILE = "progress.json"


@dataclass(frozen=True, slots=True)
class Block:
    """One that is on the disk, whole."""

    documents: int
    """Of the corpus that were read up to its end, of both splits."""
    place: Place | None
    """The nearest one at or before its end."""
    shards: dict[str, ShardFile | None]
    """Of each split; None where the block has nothing of it."""
    text_bytes: dict[str, int]
    """Of each split."""


@dataclass(frozen=True, slots=True)
class Note:
    """How far a set is written: what is in it is on the disk, or was."""

    key: str
    blocks: tuple[Block, ...] = ()
    is_whole: bool = False
    """Whether the corpus has no more."""

    def with_block(self, block: Block) -> "Note":
        return Note(self.key, (*self.blocks, block))

    def shards(self, split: str) -> tuple[ShardFile, ...]:
        """Of all blocks, in order."""
        return tuple(shard for block in self.blocks if (shard := block.shards[split]) is not None)

    def save(self, file: Path) -> None:
        write_json(file, asdict(self))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises OSError, or ValueError for what is no note."""
        return cls.from_fields(json.loads(file.read_bytes()))

    @classmethod
    def from_fields(cls, stored: dict[str, Any]) -> Self:
        """From what `asdict` made. Raises ValueError."""
        try:
            blocks = tuple(
                Block(
                    documents=block["documents"],
                    place=Place(**block["place"]) if block["place"] else None,
                    shards={name: _shard(block["shards"][name]) for name in SPLITS},
                    text_bytes=block["text_bytes"],
                )
                for block in stored["blocks"]
            )
            return cls(stored["key"], blocks, stored["is_whole"])
        except (KeyError, TypeError) as e:
            raise ValueError(f"no note of a set: {e!r}") from e


def _shard(stored: dict[str, Any] | None) -> ShardFile | None:
    return ShardFile(**stored) if stored else None


def first_block_to_train_on(blocks: tuple[Block, ...]) -> int | None:
    """The number of the first block with a training shard; None while there is none."""
    return next((i for i, block in enumerate(blocks) if block.shards["train"]), None)


def documents_behind(corpus: Corpus, blocks: tuple[Block, ...], progress: Progress) -> Iterator[Document]:
    """The corpus's documents behind the last of these blocks; those between it and its place are read and passed over."""
    if not blocks:
        return corpus.documents()
    last = blocks[-1]
    documents = corpus.documents(last.place)
    return _after(documents, last.documents - (last.place.documents if last.place else 0), corpus, progress)


def _after(
    documents: Iterator[Document], count: int, corpus: Corpus, progress: Progress
) -> Iterator[Document]:
    for document in islice(documents, count):
        progress("reading up to where it was interrupted", document.done, corpus.total, corpus.unit)
    yield from documents


def write_blocks(
    corpus: Corpus,
    documents: Iterator[Document],
    tokenizer: Tokenizer,
    folder: Path,
    before: tuple[Block, ...],
    workers: int,
    progress: Progress,
) -> Generator[Block, None, None]:
    """Each block behind those of `before`, once it is on the disk. `documents` are those behind them; the folder holds
    the tokenizer's file too. Raises what reading and writing raise."""
    dtype = token_dtype(tokenizer.vocab_size)
    writers = {
        name: SplitWriter(folder / name, dtype, sum(1 for block in before if block.shards[name]))
        for name in SPLITS
    }
    read = before[-1].documents if before else 0
    place = before[-1].place if before else None
    encoded = encode_all(
        documents,
        tokenizer,
        folder / TOKENIZER_FILE,
        workers=workers,
        in_processes=workers > 1 and is_large(corpus),
    )
    try:
        with closing(encoded):
            for batch in encoded:
                _write_batch(batch, writers)
                read, place = read + len(batch.lengths), batch.place
                progress("writing tokens", batch.done, corpus.total, corpus.unit)
                if max(writer.open_tokens for writer in writers.values()) >= SHARD_TOKENS:
                    yield _close(writers, read, place)
        if any(writer.open_tokens for writer in writers.values()):
            yield _close(writers, read, place)
    finally:
        for writer in writers.values():
            writer.abandon()


def is_large(corpus: Corpus) -> bool:
    """Whether it is worth the start of processes: a stream, whose length nobody knows, is taken to be."""
    return corpus.total is None or (corpus.unit == "bytes" and corpus.total > PROCESSES_ABOVE_BYTES)


def _write_batch(batch: Encoded, writers: dict[str, SplitWriter]) -> None:
    """Each document to its split; neighbours of one split go together."""
    turns = np.flatnonzero(np.diff(batch.is_held_out)) + 1
    firsts = np.concatenate([[0], np.cumsum(batch.lengths)])
    for a, b in pairwise([0, *turns.tolist(), len(batch.lengths)]):
        writer = writers["held_out" if batch.is_held_out[a] else "train"]
        writer.add(batch.tokens[firsts[a] : firsts[b]], batch.lengths[a:b], int(batch.text_bytes[a:b].sum()))


def _close(writers: dict[str, SplitWriter], documents: int, place: Place | None) -> Block:
    text_bytes = {name: writer.text_bytes for name, writer in writers.items()}
    return Block(
        documents, place, {name: writer.close_shard() for name, writer in writers.items()}, text_bytes
    )
