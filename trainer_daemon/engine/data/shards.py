"""Token shards: the one form that training reads, and how any corpus gets there.

    HOME/tokenizers/KEY.json     HOME/shards/KEY/{meta.json, train/, held_out/}     each with 000000.bin, 000000.idx, …

A .bin is a header of 1,024 bytes and then the ids of whole documents, each after its BOS: llm.c's format, in both its
widths. An .idx holds where the documents begin. KEY names what decides the ids: the text's origin and the tokenizer's
settings. A set of shards is written beside its place and renamed, under a lock: it is there whole, or it is not there.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from trainer_daemon.contract.errors import RefusedError, SpecError
from trainer_daemon.contract.hardware import usable_cores
from trainer_daemon.contract.rundir import fsync_folder, write_json
from trainer_daemon.contract.spec import DataSpec, TokenizerSpec
from trainer_daemon.engine.data.sources import Corpus, Document, open_corpus
from trainer_daemon.engine.data.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer

Progress: TypeAlias = Callable[[str, int, int | None, str], None]
"""(what, done, total, unit), as in the event PrepareProgress."""

TokenArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""uint16, or uint32 for a vocabulary over 65,536."""

LAYOUT = 1
"""Part of every key: counts up when the same text would give other shards."""

HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
HEADERS: dict[str, tuple[int, int]] = {"uint16": (20240520, 1), "uint32": (20240801, 7)}
"""dtype -> (magic, version), as llm.c writes them; the third number is the count of tokens."""

SHARD_TOKENS = 100_000_000
"""A shard is closed at the first document that reaches this."""
HASHED_BYTES = 256 * 2**20
"""A set up to this size is hashed whenever it is opened, which takes under a second; a larger one is measured."""
BATCH_CHARACTERS = 4 * 2**20
"""Text that is tokenized at a time."""
KEPT_CHARACTERS = 64 * 2**20
"""A corpus up to this size is read once and kept between the tokenizer's training and the writing of its ids."""
MAX_THREADS = 16
"""That tokenize; beyond these the interpreter, which hands out the documents, is the limit."""
REPORT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ShardFile:
    """What `meta.json` says of one shard."""

    name: str
    tokens: int
    documents: int
    sha256: str
    """Of the tokens and then the offsets."""


@dataclass(frozen=True, slots=True)
class SplitMeta:
    """What `meta.json` says of the training set or of the held-out set."""

    tokens: int
    """A BOS before each document included."""
    documents: int
    text_bytes: int
    """UTF-8 bytes of the documents."""
    shards: tuple[ShardFile, ...]


class Split:
    """The documents of one set as one long row of tokens, mapped from its shards."""

    def __init__(self, folder: Path, meta: SplitMeta, dtype: str) -> None:
        self.folder = folder
        self.meta = meta
        self.dtype: np.dtype[np.unsignedinteger[Any]] = np.dtype(dtype)
        # plain arrays over the mapping: slicing a memmap costs five times as much
        self._shards: list[TokenArray] = [
            np.asarray(
                np.memmap(folder / f"{s.name}.bin", dtype, "r", offset=HEADER_BYTES, shape=(s.tokens,))
            )
            for s in meta.shards
        ]
        self._firsts = np.cumsum([0] + [s.tokens for s in meta.shards])

    def __len__(self) -> int:
        return self.meta.tokens

    def read(self, first: int, count: int) -> TokenArray:
        """Tokens first … first + count - 1: a view, or a copy where shards meet. Raises IndexError beyond the end."""
        if not 0 <= first <= first + count <= len(self):
            raise IndexError(f"tokens {first} to {first + count} of {len(self)}")
        shard = int(self._firsts.searchsorted(first, "right")) - 1 if len(self._shards) > 1 else 0
        at = first - int(self._firsts[shard])
        tokens = self._shards[shard][at : at + count]
        if len(tokens) == count:
            return tokens
        rest = self.read(first + len(tokens), count - len(tokens))
        return np.concatenate([tokens, rest])

    def document_starts(self) -> npt.NDArray[np.int64]:
        """(documents + 1,): where each document's BOS is; the last entry is the number of tokens."""
        parts = [
            np.fromfile(self.folder / f"{shard.name}.idx", np.uint64)[:-1].astype(np.int64) + int(first)
            for shard, first in zip(self.meta.shards, self._firsts, strict=False)
        ]
        return np.concatenate([*parts, self._firsts[-1:]])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A corpus, ready to be read as rows."""

    tokenizer: Tokenizer
    train: Split
    held_out: Split
    fingerprint: str
    """16 hex digits of what the ids are: equal for equal text and tokenizer, wherever and whenever it was prepared."""
    bits_per_byte_floor: float | None
    """Entropy of the held-out documents in bits per byte, where it is known."""


def prepare(data: DataSpec, tokenizer: TokenizerSpec, home: Path, progress: Progress) -> Prepared:
    """The spec's text as token shards: those under `home` if they are whole, else made now.

    A second process that wants the same waits for the first. Raises SpecError for text that cannot be read or is too
    little, RefusedError when the shards cannot be written.
    """
    corpus = open_corpus(data, home)
    key = _key(corpus, tokenizer)
    tokenizer_file, place = home / "tokenizers" / f"{key}.json", home / "shards" / key
    # without the lock: what is there is whole, and a cache that may only be read will do
    if ready := _open(place, tokenizer_file):
        return ready
    try:
        for folder in tokenizer_file.parent, place.parent:
            folder.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_name(f"{key}.lock"), progress):
            ready = _open(place, tokenizer_file)
            if ready is None:
                _make(corpus, tokenizer, place, tokenizer_file, _paced(progress))
                ready = _open(place, tokenizer_file)
    except OSError as e:
        raise RefusedError(
            f"cannot write the token shards into {home}: {e.strerror or e}; free space or set LLMCTL_HOME"
        ) from e
    assert ready is not None, f"{place} was written and cannot be read"
    return ready


def _key(corpus: Corpus, tokenizer: TokenizerSpec) -> str:
    decides = {
        "layout": LAYOUT,
        "corpus": corpus.identity(),
        "tokenizer": tokenizer.model_dump(mode="json"),
        "pattern": SPLIT_PATTERN,
        "special": SPECIAL_TOKENS,
    }
    return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock; the kernel takes it back from a process that dies, so the wait ends with its holder."""
    with path.open("ab") as file:
        begun = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = int(time.monotonic() - begun)
                progress("waiting for another run that prepares this text", waited, None, "seconds")
                time.sleep(REPORT_SECONDS)
        yield


def _open(place: Path, tokenizer_file: Path) -> Prepared | None:
    """What is there, or None where it is missing, of another tokenizer, or damaged."""
    try:
        meta = json.loads((place / "meta.json").read_bytes())
        tokenizer = Tokenizer.load(tokenizer_file)
        if tokenizer.content_hash != meta["tokenizer"]:
            return None
        splits: list[Split] = []
        for name in ("train", "held_out"):
            stored = meta["splits"][name]
            shards = tuple(ShardFile(**shard) for shard in stored["shards"])
            split = SplitMeta(**{**stored, "shards": shards})
            if not all(_is_whole(place / name, shard, meta["dtype"], split) for shard in shards):
                return None
            splits.append(Split(place / name, split, meta["dtype"]))
    except (OSError, ValueError, KeyError, TypeError, SpecError):
        return None  # it is made anew
    return Prepared(tokenizer, splits[0], splits[1], meta["fingerprint"], meta["bits_per_byte_floor"])


def _is_whole(folder: Path, shard: ShardFile, dtype: str, split: SplitMeta) -> bool:
    tokens_file, index_file = folder / f"{shard.name}.bin", folder / f"{shard.name}.idx"
    with tokens_file.open("rb") as file:
        # a file too short for its header cannot be mapped, which `_open` sees
        if file.read(HEADER_BYTES) != _header(dtype, shard.tokens):
            return False
        if index_file.stat().st_size != 8 * (shard.documents + 1):
            return False
        if np.dtype(dtype).itemsize * split.tokens > HASHED_BYTES:
            return True
        return sha256(file.read() + index_file.read_bytes()).hexdigest() == shard.sha256


def _make(
    corpus: Corpus,
    spec: TokenizerSpec,
    place: Path,
    tokenizer_file: Path,
    progress: Progress,
) -> None:
    try:
        tokenizer, documents = Tokenizer.load(tokenizer_file), corpus.documents()
    except SpecError:  # not trained yet, or damaged
        tokenizer, documents = _train_tokenizer(corpus, spec, progress)
        tokenizer.save(tokenizer_file)
    draft = place.with_name(f".{place.name}.partial")
    for leftover in draft, place:
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _write_shards(corpus, tokenizer, documents, draft, progress)
        draft.rename(place)
        fsync_folder(place.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _train_tokenizer(
    corpus: Corpus, spec: TokenizerSpec, progress: Progress
) -> tuple[Tokenizer, Iterator[Document]]:
    """Train on the first `train_bytes` of the training text; also gives the corpus's documents, from the first one on."""
    source = corpus.documents()
    kept: list[Document] = []
    kept_characters = 0
    total = min(spec.train_bytes, corpus.total) if corpus.unit == "bytes" else None

    def texts() -> Iterator[str]:
        nonlocal kept_characters
        read_bytes = 0
        for document in source:
            kept_characters += len(document.text)
            if kept_characters <= KEPT_CHARACTERS:
                kept.append(document)
            if not document.is_held_out:
                yield document.text
                read_bytes += len(document.text.encode())
            progress("reading text for the tokenizer", read_bytes, total, "bytes")
            if read_bytes >= spec.train_bytes:
                break
        if read_bytes == 0:
            raise SpecError(corpus.lack(train=0, held_out=len(kept)))
        progress("training the tokenizer", 0, 1, "tokenizer")

    tokenizer = Tokenizer.train(texts(), spec.vocab_size)
    progress("training the tokenizer", 1, 1, "tokenizer")
    whole = kept_characters <= KEPT_CHARACTERS
    return tokenizer, chain(kept, source) if whole else corpus.documents()


def _write_shards(
    corpus: Corpus,
    tokenizer: Tokenizer,
    documents: Iterator[Document],
    folder: Path,
    progress: Progress,
) -> None:
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    threads = min(MAX_THREADS, usable_cores())
    writers = {name: _SplitWriter(folder / name, dtype) for name in ("train", "held_out")}
    try:
        for batch in _batches(documents):
            texts = [document.text for document in batch]
            for document, ids in zip(batch, tokenizer.encode_batch(texts, threads), strict=True):
                writer = writers["held_out" if document.is_held_out else "train"]
                writer.add(tokenizer.bos_id, ids, len(document.text.encode()))
            progress("writing tokens", batch[-1].done, corpus.total, corpus.unit)
        splits = {name: writer.close() for name, writer in writers.items()}
    finally:
        for writer in writers.values():
            writer.abandon()
    if not (splits["train"].documents and splits["held_out"].documents):
        raise SpecError(corpus.lack(train=splits["train"].documents, held_out=splits["held_out"].documents))
    hashes = [tokenizer.content_hash] + [
        f"{name} {s.sha256}" for name, split in splits.items() for s in split.shards
    ]
    meta: dict[str, Any] = {
        "layout": LAYOUT,
        "fingerprint": sha256("\n".join(hashes).encode()).hexdigest()[:16],
        "tokenizer": tokenizer.content_hash,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype,
        "separator": {"id": tokenizer.bos_id, "side": "before"},
        "corpus": corpus.identity(),
        "bits_per_byte_floor": corpus.bits_per_byte_floor(),
        "splits": {name: asdict(split) for name, split in splits.items()},
    }
    write_json(folder / "meta.json", meta)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _SplitWriter:
    """Writes one set's shards, one after the other."""

    def __init__(self, folder: Path, dtype: str) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.shards: list[ShardFile] = []
        self.text_bytes = 0
        self._file: BinaryIO | None = None
        self._hash = sha256()
        self._starts: list[int] = []
        self._tokens = 0

    def add(self, bos_id: int, ids: npt.NDArray[np.uint32], text_bytes: int) -> None:
        """One document, whole, into the open shard."""
        if self._file is None:
            self._file = (self.folder / f"{len(self.shards):06d}.bin").open("wb", buffering=1 << 20)
            self._file.write(bytes(HEADER_BYTES))
        tokens = np.empty(len(ids) + 1, self.dtype)
        tokens[0], tokens[1:] = bos_id, ids
        payload = tokens.tobytes()
        self._file.write(payload)
        self._hash.update(payload)
        self._starts.append(self._tokens)
        self._tokens += len(tokens)
        self.text_bytes += text_bytes
        if self._tokens >= SHARD_TOKENS:
            self._close_shard()

    def close(self) -> SplitMeta:
        """Everything is on the disk when this returns."""
        if self._file is not None:
            self._close_shard()
        fsync_folder(self.folder)
        tokens, documents = (
            sum(shard.tokens for shard in self.shards),
            sum(s.documents for s in self.shards),
        )
        return SplitMeta(tokens, documents, self.text_bytes, tuple(self.shards))

    def abandon(self) -> None:
        """Let go of a file that an error left open."""
        if self._file is not None:
            self._file.close()

    def _close_shard(self) -> None:
        assert self._file is not None
        name = f"{len(self.shards):06d}"
        index = np.array([*self._starts, self._tokens], np.uint64).tobytes()
        self._hash.update(index)
        self._file.seek(0)
        self._file.write(_header(self.dtype.name, self._tokens))
        with self._file, (self.folder / f"{name}.idx").open("wb") as index_file:
            index_file.write(index)
            for file in self._file, index_file:
                file.flush()
                os.fsync(file.fileno())
        self.shards.append(ShardFile(name, self._tokens, len(self._starts), self._hash.hexdigest()))
        self._file, self._hash, self._starts, self._tokens = None, sha256(), [], 0


def _header(dtype: str, tokens: int) -> bytes:
    header = np.zeros(HEADER_INTS, "<i4")
    header[:3] = (*HEADERS[dtype], tokens)
    return header.tobytes()


def _paced(progress: Progress) -> Progress:
    """The same, at most once in REPORT_SECONDS for the same thing, and always its beginning and its end."""
    last_what, last_time = "", 0.0

    def report(what: str, done: int, total: int | None, unit: str) -> None:
        nonlocal last_what, last_time
        now = time.monotonic()
        if what != last_what or done == total or now - last_time >= REPORT_SECONDS:
            last_what, last_time = what, now
            progress(what, done, total, unit)

    return report
