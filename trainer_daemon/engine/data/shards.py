"""Token shards: the one form that training reads.

    SET/{meta.json, tokenizer.json, train/, held_out/}     each of the two with 000000.bin, 000000.idx, 000001.bin, …

A .bin is a header of 1,024 bytes and then the ids of whole documents, each after its BOS: llm.c's format, in both its
widths. An .idx holds where the documents begin. `meta.json` says what made them and what they must hash to.
"""

import json
import os
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import fsync_folder
from trainer_daemon.engine.data.sources.token_files import HEADER_BYTES, HEADER_INTS, HEADERS
from trainer_daemon.engine.data.tokenizer import Tokenizer

TokenArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""uint16, or uint32 for a vocabulary over 65,536."""

LAYOUT = 3
"""Part of every key: counts up when the same text would give other shards."""
SPLITS = ("train", "held_out")
META_FILE, TOKENIZER_FILE = "meta.json", "tokenizer.json"

HASHED_BYTES = 256 * 2**20
"""A set up to this size is hashed whenever it is opened, which takes under a second; a larger one is measured."""


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

    def __init__(self, folder: Path, meta: SplitMeta, dtype: str, part: str = "") -> None:
        self.folder = folder
        self.meta = meta
        self.part = part
        """Which of the folder's shards these are, for names of files; empty: all of them."""
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

    folder: Path
    tokenizer: Tokenizer
    train: Split
    held_out: Split
    fingerprint: str
    """16 hex digits of what the ids are: equal for equal text and tokenizer, wherever and whenever it was prepared."""
    bits_per_byte_floor: float | None
    """Entropy of the held-out documents in bits per byte, where it is known."""


def read_meta(folder: Path) -> dict[str, Any]:
    """What `meta.json` says. Raises SpecError when the folder is not a set of this version."""
    path = folder / META_FILE
    try:
        meta: dict[str, Any] = json.loads(path.read_bytes())
        if meta["layout"] != LAYOUT:
            raise SpecError(
                f"{folder} was prepared by another version (layout {meta['layout']}, not {LAYOUT}): prepare it again"
            )
    except OSError as e:
        raise SpecError(f"{folder} is not a prepared set: cannot read {path}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise SpecError(f"{folder} is not a prepared set: {path} is damaged ({e!r})") from e
    return meta


def open_set(folder: Path) -> Prepared:
    """A set that is whole. Raises SpecError naming the file that is not."""
    meta = read_meta(folder)
    tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
    if tokenizer.content_hash != meta.get("tokenizer"):
        raise SpecError(
            f"{folder / TOKENIZER_FILE} is not the tokenizer that the shards beside it were made with"
        )
    try:
        train, held_out = (_open_split(folder / name, meta["splits"][name], meta["dtype"]) for name in SPLITS)
        return Prepared(folder, tokenizer, train, held_out, meta["fingerprint"], meta["bits_per_byte_floor"])
    except (KeyError, TypeError) as e:
        raise SpecError(f"{folder} is not a prepared set: {META_FILE} is damaged ({e!r})") from e
    except OSError as e:
        raise SpecError(f"{folder} is not a whole set: cannot read {e.filename}: {e.strerror}") from e


def _open_split(folder: Path, stored: dict[str, Any], dtype: str) -> Split:
    meta = SplitMeta(**{**stored, "shards": tuple(ShardFile(**shard) for shard in stored["shards"])})
    names = [shard.name for shard in meta.shards]
    if len(set(names)) != len(names):
        raise SpecError(f"{folder.parent / META_FILE} names a shard twice: {', '.join(names)}")
    is_hashed = np.dtype(dtype).itemsize * meta.tokens <= HASHED_BYTES
    for shard in meta.shards:
        check_shard(folder, shard, dtype, is_hashed=is_hashed)
    return Split(folder, meta, dtype)


def check_shard(folder: Path, shard: ShardFile, dtype: str, *, is_hashed: bool) -> None:
    """Raises SpecError naming the file that is cut, grown or, where it is hashed, changed. Raises OSError."""
    tokens_file, index_file = folder / f"{shard.name}.bin", folder / f"{shard.name}.idx"
    expected = {
        tokens_file: HEADER_BYTES + np.dtype(dtype).itemsize * shard.tokens,
        index_file: 8 * (shard.documents + 1),
    }
    for file, size in expected.items():
        if (found := file.stat().st_size) != size:
            raise SpecError(f"{file} is damaged: it has {found:,} bytes and should have {size:,}")
    with tokens_file.open("rb") as tokens:
        if tokens.read(HEADER_BYTES) != header(dtype, shard.tokens):
            raise SpecError(
                f"{tokens_file} is damaged: its header is not that of {shard.tokens:,} ids in {dtype}"
            )
        if is_hashed and sha256(tokens.read() + index_file.read_bytes()).hexdigest() != shard.sha256:
            raise SpecError(f"{tokens_file} or its .idx is damaged: the hash is not the one in {META_FILE}")


class SplitWriter:
    """Writes one split's shards, one after the other, behind so many that were written before."""

    def __init__(self, folder: Path, dtype: str, shards_before: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.open_tokens = 0
        """In the shard that is not closed yet."""
        self.text_bytes = 0
        """Of its documents."""
        self._number = shards_before
        self._file: BinaryIO | None = None
        self._hash = sha256()
        self._starts: list[npt.NDArray[np.int64]] = []

    def add(self, tokens: TokenArray, lengths: npt.NDArray[np.int64], text_bytes: int) -> None:
        """Whole documents, each behind its BOS and `lengths` long, into the open shard."""
        if len(lengths) == 0:
            return
        if self._file is None:
            self._file = (self.folder / f"{self._number:06d}.bin.partial").open("wb", buffering=1 << 20)
            self._file.write(bytes(HEADER_BYTES))
        payload = tokens.astype(self.dtype, copy=False).tobytes()
        self._file.write(payload)
        self._hash.update(payload)
        ends = np.cumsum(lengths)
        self._starts.append(self.open_tokens + ends - lengths)
        self.open_tokens += int(ends[-1])
        self.text_bytes += text_bytes

    def close_shard(self) -> ShardFile | None:
        """Everything that was added is a shard on the disk when this returns; None where nothing was."""
        if self._file is None:
            return None
        name = f"{self._number:06d}"
        starts = np.concatenate([*self._starts, np.array([self.open_tokens])])
        index = starts.astype("<u8").tobytes()
        self._hash.update(index)
        self._file.seek(0)
        self._file.write(header(self.dtype.name, self.open_tokens))
        with self._file, (self.folder / f"{name}.idx").open("wb") as index_file:
            index_file.write(index)
            for file in self._file, index_file:
                file.flush()
                os.fsync(file.fileno())
        Path(self._file.name).replace(self.folder / f"{name}.bin")
        fsync_folder(self.folder)
        shard = ShardFile(name, self.open_tokens, len(starts) - 1, self._hash.hexdigest())
        self._file, self._hash, self._starts, self.open_tokens, self.text_bytes = None, sha256(), [], 0, 0
        self._number += 1
        return shard

    def abandon(self) -> None:
        """Let go of a file that an error left open."""
        if self._file is not None:
            self._file.close()


def split_meta(shards: tuple[ShardFile, ...], text_bytes: int) -> SplitMeta:
    """Of these shards."""
    return SplitMeta(sum(s.tokens for s in shards), sum(s.documents for s in shards), text_bytes, shards)


def fingerprint_of(tokenizer: Tokenizer, splits: dict[str, SplitMeta]) -> str:
    """16 hex digits of what the ids are."""
    hashes = [tokenizer.content_hash] + [
        f"{name} {s.sha256}" for name, split in splits.items() for s in split.shards
    ]
    return sha256("\n".join(hashes).encode()).hexdigest()[:16]


def splits_as_json(splits: dict[str, SplitMeta]) -> dict[str, Any]:
    """As `meta.json` has them."""
    return {name: asdict(split) for name, split in splits.items()}


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The narrowest that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def header(dtype: str, tokens: int) -> bytes:
    """The first 1,024 bytes of a shard."""
    numbers = np.zeros(HEADER_INTS, "<i4")
    numbers[:3] = (*HEADERS[dtype], tokens)
    return numbers.tobytes()
