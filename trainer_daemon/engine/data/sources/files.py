"""Files of the user's own, file after file in sorted order, and the rules by which some of them are held out.

All of a corpus is text or all of it is ids. Files to be held out are read first, whatever their names: training may begin
before the rest is read, and training documents keep their order when the held-out file changes.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.places import matches, resolve_path
from trainer_daemon.contract.spec import DataSpec
from trainer_daemon.contract.vocabulary import Vocabulary
from trainer_daemon.engine.data.sources import text as txt
from trainer_daemon.engine.data.sources.documents import HELD_OUT_EVERY, Document, Place
from trainer_daemon.engine.data.sources.hdf5 import count_hdf5, read_hdf5
from trainer_daemon.engine.data.sources.jsonl import read_jsonl
from trainer_daemon.engine.data.sources.parquet import read_parquet
from trainer_daemon.engine.data.sources.token_files import (
    TokenReader,
    check_side,
    checked,
    count_bin,
    divide,
    read_bin,
)
from trainer_daemon.engine.data.tokenizer import without_lone_surrogates

TextReader = Callable[[Path], Iterator[tuple[str, int]]]
"""(text, bytes of the file read so far) of one document after the other."""

TEXT_EXTENSIONS = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
TOKEN_READERS: dict[str, TokenReader] = {".bin": read_bin, ".h5": read_hdf5, ".hdf5": read_hdf5}
TOKEN_COUNTS: dict[str, Callable[[Path], int]] = {
    ".bin": count_bin,
    ".h5": count_hdf5,
    ".hdf5": count_hdf5,
}
EXTENSIONS = (*TEXT_EXTENSIONS, *TOKEN_READERS)

VALIDATION_NAME = re.compile(r"(?<![a-z])(val|valid|validation|dev)(?![a-z])", re.IGNORECASE)
"""With `held_out = "auto"`, a file named so is validation: val.bin, pile_dev.h5, fineweb_val_000000.bin."""


class FileCorpus:
    """Texts or ids, file after file."""

    def __init__(self, source: str, data: DataSpec, vocabulary: Vocabulary | None, home: Path) -> None:
        self.data = data
        self.name = source
        self.unit = "bytes"
        self.train, self.held_out = split_files(source, data, home)
        self._sizes = {file: _stat(file).st_size for file in (*self.train, *self.held_out)}
        self.holds_tokens = _hold_tokens([*self.train, *self.held_out])
        if self.holds_tokens:
            self._vocabulary, self._separator_id = _token_rules(data, vocabulary, self.train[0])

    @property
    def total(self) -> int:
        return sum(self._sizes.values())

    def identity(self) -> dict[str, Any]:
        # sizes and times, not contents: a corpus of 100 GB has to be recognised at once
        def facts(files: list[Path]) -> list[list[str | int]]:
            return [[str(file), self._sizes[file], _stat(file).st_mtime_ns] for file in files]

        rules: dict[str, Any] = {"text_field": self.data.text_field}
        if self.holds_tokens:
            rules = {"separator": self.data.separator, "separator_id": self._separator_id}
        return {
            "source": "files",
            "files": facts(self.train),
            "held_out": facts(self.held_out) or f"every {HELD_OUT_EVERY}th",
            "cut": [txt.SPLIT_ABOVE_BYTES, txt.PIECE_CHARACTERS, txt.END_OF_TEXT],
            **rules,
        }

    def documents(self, start: Place | None = None) -> Iterator[Document]:
        held_out, train = self._stretches(self.held_out), self._stretches(self.train)
        stretches = [*held_out, *train]
        first, read = (start.at, start.documents) if start else (0, 0)
        before = sum(self._sizes[file] for files in stretches[:first] for file in files)
        for number in range(first, len(stretches)):
            place = Place(read, number)
            for content, done in self._contents(stretches[number], before):
                is_held_out = number < len(held_out) or (not held_out and read % HELD_OUT_EVERY == 0)
                yield Document(content, is_held_out, done, place)
                read += 1
            before += sum(self._sizes[file] for file in stretches[number])

    def _stretches(self, files: list[Path]) -> list[list[Path]]:
        """Files that are read in one go: each its own for text, all of them for ids, whose documents may run on."""
        return [files] if self.holds_tokens and files else [[file] for file in files]

    def training_documents(self) -> Iterator[Document]:
        """All but those of held-out files."""
        return self.documents(Place(0, len(self._stretches(self.held_out))))

    def held_out_documents(self) -> Iterator[Document]:
        """Those of held-out files."""
        for content, done in self._contents(self.held_out, 0):
            yield Document(content, is_held_out=True, done=done)

    def bits_per_byte_floor(self) -> float | None:
        return None

    def count_ids(self) -> int | None:
        """Ids to train on, separators included, from the files' own headers and sizes; None for text."""
        if not self.holds_tokens or not self.held_out:
            return None
        return sum(TOKEN_COUNTS[extension_of(file)](file) for file in self.train)

    def check(self) -> None:
        """Raises SpecError unless there is a document to train on and one to hold out. Reads the first documents only."""
        if self.held_out:
            train, held_out = (
                len(list(islice(self._contents(f, 0), 1))) for f in (self.train, self.held_out)
            )
        else:
            documents = len(list(islice(self._contents(self.train, 0), 2)))
            train, held_out = max(0, documents - 1), min(1, documents)
        if not (train and held_out):
            raise SpecError(self.lack(train=train, held_out=held_out))

    def lack(self, *, train: int, held_out: int) -> str:
        source = self.name
        if train == held_out == 0:
            return f"data.source: {source} holds no {'ids' if self.holds_tokens else 'text'}; every document in it is empty"
        if self.held_out:
            empty = (
                f"the held-out file {self.held_out[0]}"
                if train
                else f"every file of {source} but the held-out one"
            )
            return f"data.held_out: {empty} is empty; give it text, or use data.held_out=hundredth"
        return (
            f"data.source: {source} is too small for a training set and a held-out set: it is one document; give more "
            f"of them, one .txt of more than {txt.SPLIT_ABOVE_BYTES // 1024} KiB, which is divided at blank lines, or a "
            f"file to hold out with data.held_out"
        )

    def _contents(self, files: list[Path], before: int) -> Iterator[tuple[Any, int]]:
        """(text or ids, progress) of each document that is not empty."""
        if self.holds_tokens:
            side = self.data.separator
            assert side is not None, "the rules for files of ids were not applied"
            # one stream over all files: a document may run on from one shard into the next
            blocks = self._following(files, before, self._token_blocks)
            yield from divide(blocks, self._separator_id, side)
            return
        for content, done in self._following(files, before, partial(_texts, self.data.text_field)):
            if content:
                yield without_lone_surrogates(content), done

    def _following(
        self, files: list[Path], before: int, read: Callable[[Path], Iterator[tuple[Any, int]]]
    ) -> Iterator[tuple[Any, int]]:
        for file in files:
            known = self._sizes[file]
            try:
                yield from ((content, before + done) for content, done in read(file))
            except OSError as e:
                raise SpecError(f"data.source: cannot read {file}: {e.strerror or e}") from e
            if _stat(file).st_size != known:
                raise SpecError(
                    f"data.source: {file} changed while it was read; start again once it is at rest"
                )
            before += known

    def _token_blocks(self, file: Path) -> Iterator[tuple[Any, int]]:
        blocks = checked(TOKEN_READERS[file.suffix.lower()](file), file, self._vocabulary.size)
        first = next(blocks, None)
        if first is None or len(first[0]) == 0:
            raise SpecError(f"data.source: {file} holds no ids; leave it out")
        if file in (self.train[0], *self.held_out[:1]):  # shards that follow may begin within a document
            assert self.data.separator is not None
            check_side(file, int(first[0][0]), self._separator_id, self.data.separator)
        return chain([first], blocks)


def _texts(field: str, file: Path) -> Iterator[tuple[str, int]]:
    match extension_of(file):
        case ".txt":
            return txt.read_text(file)
        case ".parquet":
            return read_parquet(file, field)
        case _:
            return read_jsonl(file, field)


def _hold_tokens(files: list[Path]) -> bool:
    """Whether the files hold ids. Raises SpecError when some do and others hold text."""
    kinds = {extension_of(file) in TOKEN_READERS: file for file in files}
    if len(kinds) == 2:
        raise SpecError(
            f"data.source: {kinds[True]} holds ids and {kinds[False].name} holds text; name one kind with a glob, for "
            f"example data.source={kinds[True].parent}/*{kinds[True].suffix}"
        )
    return True in kinds


def _token_rules(data: DataSpec, vocabulary: Vocabulary | None, file: Path) -> tuple[Vocabulary, int]:
    """Whose ids, and the separator among them. Raises SpecError when the spec leaves one of the two open."""
    if vocabulary is None:
        raise SpecError(
            f"tokenizer.name: {file} holds ids; name the tokenizer that made them, for example tokenizer.name=gpt2"
        )
    if data.separator is None:
        raise SpecError(
            f"data.separator: {file} holds ids and does not say where its documents end; say on which side of each "
            f"document the separator stands: before (llm.c, nanochat), after (nanoGPT, the Pile), or none"
        )
    separator_id = vocabulary.separator_id if data.separator_id is None else data.separator_id
    if separator_id >= vocabulary.size:
        raise SpecError(
            f"data.separator_id: {separator_id} is beyond the tokenizer's last id, {vocabulary.size - 1}"
        )
    return vocabulary, separator_id


def split_files(source: str, data: DataSpec, home: Path) -> tuple[list[Path], list[Path]]:
    """(files to train on, files to hold out), the latter empty with the hundredths. Raises SpecError."""
    files = find_files(source, home, "data.source")
    match data.held_out:
        case "hundredth":
            held_out = []
        case "last_file":
            held_out = files[-1:]
        case "auto":
            held_out = [file for file in files if VALIDATION_NAME.search(file.name)]
            if not held_out and len(files) > 1 and all(f.suffix.lower() == ".parquet" for f in files):
                held_out = files[-1:]
            if len(held_out) == len(files):
                held_out = []
        case path:
            held_out = find_files(path, home, "data.held_out")
    train = [file for file in files if file not in held_out]
    if not train:
        raise SpecError(
            f"data.held_out: nothing is left to train on: {source} is only {held_out[0].name}, and that is held out; "
            f'"last_file" needs two files at least. Use data.held_out=hundredth'
        )
    _refuse_duplicates([*train, *held_out])
    return train, held_out


def _refuse_duplicates(files: list[Path]) -> None:
    seen: dict[Any, Path] = {}
    for file in files:
        status = _stat(file)
        stem = file.with_name(file.name.lower().removesuffix(extension_of(file)))
        for mark in ((status.st_dev, status.st_ino), stem):
            twin = seen.setdefault(mark, file)
            if twin != file:
                raise SpecError(
                    f"data.source: {twin} and {file} would be the same documents twice: they are one file, or two forms of "
                    f"one; name one of them, or rename one"
                )


def find_files(path: str, home: Path, key: str = "data.source") -> list[Path]:
    """The files that a path in the spec means, in the sorted order they are read in. Raises SpecError, naming `key`."""
    place = Path(resolve_path(path, home, key))
    if place.is_dir():
        found = [
            p for p in place.rglob("*") if not any(q.startswith(".") for q in p.relative_to(place).parts)
        ]
    else:
        found = [place] if place.exists() else list(matches(place))
    found = [p for p in found if p.is_file()]
    read = sorted((p for p in found if extension_of(p) in EXTENSIONS), key=lambda p: p.as_posix())
    if not read:
        others = sorted({p.suffix or p.name for p in found})
        there = f"only {', '.join(others[:5])}" if others else "no file"
        raise SpecError(f"{key}: {place} has {there}; what is read is {', '.join(EXTENSIONS)}")
    return read


def extension_of(file: Path) -> str:
    """`docs.jsonl.zst` -> `.jsonl.zst`, `docs.TXT` -> `.txt`; the last suffix where it is none of ours."""
    name = file.name.lower()
    return next((e for e in EXTENSIONS if name.endswith(e)), file.suffix.lower())


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as e:
        raise SpecError(f"data.source: cannot read {file}: {e.strerror or e}") from e
