"""A corpus tokenized around its reader: the few shards that are read now and next, made again when they are needed again.

For corpora that are too large to prepare. What is kept for good is a note of where each block began, some hundred bytes a
block, and the held-out shards. A block that is made again is the same to the byte, or its text has changed, which is
refused.
"""

import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import fsync_folder
from trainer_daemon.engine.data.shards import SPLITS, TOKENIZER_FILE
from trainer_daemon.engine.data.sources import Corpus
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.data.writing import (
    NOTE_FILE,
    Block,
    Note,
    Progress,
    documents_behind,
    first_block_to_train_on,
    write_blocks,
)

BLOCKS_AHEAD = 2
"""Shards made before they are read."""
POLL_SECONDS = 0.1


def keep_window(
    corpus: Corpus,
    tokenizer: Tokenizer,
    folder: Path,
    key: str,
    reader: Callable[[], tuple[int, int]],
    workers: int,
    progress: Progress,
) -> NoReturn:
    """Have the shards there that the reader needs until the process ends: `reader` gives the number of the one that it is
    at, and how many behind that its batch needs.

    Raises SpecError for text that cannot be read, is too little or has changed, and OSError.
    """
    note = begin(folder, key, tokenizer)
    blocks: Generator[Block, None, None] | None = None
    following = -1
    while True:
        missing = first_missing(note, folder, reader())
        if missing is None:
            time.sleep(POLL_SECONDS)
            continue
        if blocks is None or missing != following:
            if blocks is not None:
                blocks.close()
            before = note.blocks[:missing]
            documents = documents_behind(corpus, before, progress)
            blocks = write_blocks(corpus, documents, tokenizer, folder, before, workers, progress)
        block = next(blocks, None)
        following = missing + 1
        if block is None:
            if missing < len(note.blocks) or first_block_to_train_on(note.blocks) is None:
                raise SpecError(
                    corpus.lack(train=0, held_out=0) if not note.blocks else has_changed(corpus, missing)
                )
            note = replace(note, is_whole=True)
        elif missing < len(note.blocks):
            if block != note.blocks[missing]:
                raise SpecError(has_changed(corpus, missing))
        else:
            note = note.with_block(block)
        note.save(folder / NOTE_FILE)
        forget(note, folder, reader())


def has_changed(corpus: Corpus, block: int) -> str:
    """That what is read now is not what was read before, as a sentence."""
    return (
        f"data.source: {corpus.name} is not as it was when its block {block} was first read, so rows would be other rows; "
        f"restore the text, or begin a new run"
    )


def begin(folder: Path, key: str, tokenizer: Tokenizer) -> Note:
    """The note in the folder, where it is of this text and tokenizer; else a new one in an empty folder."""
    try:
        note = Note.load(folder / NOTE_FILE)
    except (OSError, ValueError):
        note = Note("")
    if note.key != key:
        for name in SPLITS:
            shutil.rmtree(folder / name, ignore_errors=True)
        note = Note(key)
    for name in SPLITS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / TOKENIZER_FILE)
    note.save(folder / NOTE_FILE)
    return note


def first_missing(note: Note, folder: Path, reader: tuple[int, int]) -> int | None:
    """The number of the block to make next; None where all that the reader needs soon is there."""
    of_shards = [number for number, block in enumerate(note.blocks) if block.shards["train"]]
    soon = {"held_out": _validation(note), "train": [of_shards[i] for i in _window(note, reader, behind=0)]}
    for split, numbers in soon.items():
        for number in numbers:
            shard = note.blocks[number].shards[split]
            if shard and not (folder / split / f"{shard.name}.bin").exists():
                return number
    is_far_ahead = len(of_shards) > reader[0] + max(BLOCKS_AHEAD, reader[1])
    return None if note.is_whole or is_far_ahead else len(note.blocks)


def _validation(note: Note) -> list[int]:
    """The blocks whose held-out shards are the validation set."""
    first = first_block_to_train_on(note.blocks)
    return [] if first is None else list(range(first + 1))


def forget(note: Note, folder: Path, reader: tuple[int, int]) -> None:
    """Delete shards that nobody needs soon."""
    shards = note.shards("train")
    validation = [
        note.blocks[number].shards["held_out"] for number in _validation(note) or range(len(note.blocks))
    ]
    kept = {
        "train": {shards[i].name for i in _window(note, reader, behind=1)},
        "held_out": {shard.name for shard in validation if shard},
    }
    for name in SPLITS:
        for file in (folder / name).iterdir():
            if file.name.partition(".")[0] not in kept[name] and not file.name.startswith("."):
                file.unlink(missing_ok=True)
        fsync_folder(folder / name)


def _window(note: Note, reader: tuple[int, int], *, behind: int) -> list[int]:
    """Numbers of the shards about the reader, in its order; behind the last one of the corpus it comes to the first."""
    count = len(note.shards("train"))
    at, needed = reader
    numbers = range(at - behind, at + max(BLOCKS_AHEAD, needed) + 1)
    if note.is_whole and count:
        return list(dict.fromkeys(number % count for number in numbers))
    return [number for number in numbers if 0 <= number < count]
