"""Where documents come from: the generated stories, or a file, folder or glob of .txt, .jsonl and .parquet.

A corpus is read in one fixed order and never whole into memory. What is wrong with it is said before anything starts:
`check_source` needs neither torch nor a tokenizer and reads no more than the first documents.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from trainer_daemon.contract.errors import SpecError, did_you_mean
from trainer_daemon.contract.spec import DataSpec
from trainer_daemon.engine.data.stories import GENERATOR_VERSION, floor_bits_per_byte, is_held_out, story
from trainer_daemon.engine.data.tokenizer import without_lone_surrogates

EXTENSIONS = (".txt", ".jsonl", ".parquet")

HELD_OUT_EVERY = 100
"""With `held_out = "hundredth"`: documents 0, 100, 200, … are never trained on."""

SPLIT_ABOVE_BYTES = 16 * 1024
"""A longer .txt is cut at blank lines, or after this many characters where it has none: one book is many documents."""
PIECE_CHARACTERS = 4 * 1024
"""In such a file the first blank line after this many ends a document."""
END_OF_TEXT = "<|endoftext|>"
"""A line of its own in many published .txt corpora; where a file has it, it and nothing else divides documents."""


class Document(NamedTuple):
    text: str
    is_held_out: bool
    done: int
    """How far the corpus is read once this document is, in the corpus's own unit."""


class Corpus(Protocol):
    """Documents in a fixed order."""

    @property
    def total(self) -> int:
        """What `Document.done` runs up to."""

    @property
    def unit(self) -> str:
        """Of `total` and `done`."""

    def identity(self) -> dict[str, Any]:
        """JSON values that change whenever the documents could."""

    def documents(self) -> Iterator[Document]:
        """From the first one on, at every call. No document is empty. Raises SpecError for what cannot be read."""

    def bits_per_byte_floor(self) -> float | None:
        """Entropy of the held-out documents in bits per byte, where it is known."""

    def lack(self, *, train: int, held_out: int) -> str:
        """Why so many documents do not make a training set and a held-out set."""


def open_corpus(data: DataSpec, home: Path) -> Corpus:
    """Raises SpecError when the spec names nothing that can be read."""
    if data.source == "stories":
        if data.held_out == "last_file":
            raise SpecError("data.held_out: stories have no files; they hold out every hundredth")
        return StoryCorpus(data)
    return FileCorpus(data, home)


def check_source(data: DataSpec, home: Path) -> None:
    """Raises SpecError, saying what to change, when no training set and held-out set can be read from this spec.

    Reads the first documents only: a bad line further on, or too few tokens for a row, shows when the text is prepared.
    """
    corpus = open_corpus(data, home)
    if isinstance(corpus, FileCorpus):
        corpus.check()


@dataclass(frozen=True, slots=True)
class StoryCorpus:
    """The generated corpus: story i is a function of (seed, i, level) alone."""

    data: DataSpec

    @property
    def total(self) -> int:
        return self.data.stories

    @property
    def unit(self) -> str:
        return "stories"

    def identity(self) -> dict[str, Any]:
        return {
            "source": "stories",
            "generator": GENERATOR_VERSION,
            "stories": self.data.stories,
            "level": self.data.level,
            "seed": self.data.seed,
        }

    def documents(self) -> Iterator[Document]:
        for i in range(self.data.stories):
            yield Document(story(self.data.seed, i, self.data.level).text, is_held_out(i), i + 1)

    def bits_per_byte_floor(self) -> float | None:
        # the first thousand held-out stories settle it to a fraction of a per cent; all of 10^6 would take minutes
        some = [i for i in range(min(self.data.stories, 1000 * HELD_OUT_EVERY)) if is_held_out(i)]
        return floor_bits_per_byte(self.data.seed, some, self.data.level)

    def lack(self, *, train: int, held_out: int) -> str:
        return (
            f"data.stories: {self.data.stories} give {train} to train on and {held_out} to hold out; raise it"
        )


class FileCorpus:
    """Texts of the user's own, file after file in sorted order."""

    def __init__(self, data: DataSpec, home: Path) -> None:
        self.data = data
        self.files = find_files(data.source, home)
        self._sizes = [file.stat().st_size for file in self.files]
        several_parquet = len(self.files) > 1 and all(f.suffix.lower() == ".parquet" for f in self.files)
        self.holds_out_last_file = data.held_out == "last_file" or (
            data.held_out == "auto" and several_parquet
        )
        if self.holds_out_last_file and len(self.files) < 2:
            raise SpecError(
                f'data.held_out: "last_file" needs two files at least, one to train on and the last to hold out; '
                f"{data.source} has only {self.files[0].name}. Use data.held_out=hundredth"
            )

    @property
    def total(self) -> int:
        return sum(self._sizes)

    @property
    def unit(self) -> str:
        return "bytes"

    def identity(self) -> dict[str, Any]:
        # sizes and times, not contents: a corpus of 100 GB has to be recognised at once
        return {
            "source": "files",
            "files": [
                [str(file), size, file.stat().st_mtime_ns]
                for file, size in zip(self.files, self._sizes, strict=True)
            ],
            "text_field": self.data.text_field,
            "holds_out_last_file": self.holds_out_last_file,
            "cut": [SPLIT_ABOVE_BYTES, PIECE_CHARACTERS, END_OF_TEXT],
        }

    def documents(self) -> Iterator[Document]:
        return self._read(range(len(self.files)))

    def bits_per_byte_floor(self) -> float | None:
        return None

    def check(self) -> None:
        """Raises SpecError unless there is a document to train on and one to hold out."""
        if self.holds_out_last_file:
            last = len(self.files) - 1
            train, held_out = (
                len(list(islice(self._read(files), 1))) for files in (range(last), range(last, last + 1))
            )
        else:
            first_two = [document.is_held_out for document in islice(self.documents(), 2)]
            train, held_out = first_two.count(False), first_two.count(True)
        if not (train and held_out):
            raise SpecError(self.lack(train=train, held_out=held_out))

    def lack(self, *, train: int, held_out: int) -> str:
        source = self.data.source
        if train == held_out == 0:
            return f"data.source: {source} holds no text; every document in it is empty"
        if self.holds_out_last_file:
            empty = "the last file" if train else "every file but the last"
            return (
                f"data.held_out: {empty} of {source} is empty; give it text, or use data.held_out=hundredth"
            )
        return (
            f"data.source: {source} is too small for a training set and a held-out set: it is one document; give more "
            f"of them, or one .txt of more than {SPLIT_ABOVE_BYTES // 1024} KiB, which is divided at blank lines"
        )

    def _read(self, numbers: range) -> Iterator[Document]:
        index = 0
        before = sum(self._sizes[: numbers.start])
        for number in numbers:
            is_last = number == len(self.files) - 1
            for text, offset in _documents_of(self.files[number], self.data.text_field):
                if not text:
                    continue
                is_held_out = is_last if self.holds_out_last_file else index % HELD_OUT_EVERY == 0
                yield Document(without_lone_surrogates(text), is_held_out, before + offset)
                index += 1
            before += self._sizes[number]


def resolve_path(path: str, home: Path) -> str:
    """The absolute form of `data.source`: as it is from the working folder if something is there, else from `home`/data.

    Raises SpecError when nothing is there under either.
    """
    written = Path(path).expanduser()
    tried = [written] if written.is_absolute() else [Path.cwd() / written, home / "data" / written]
    for candidate in tried:
        if candidate.exists() or any(_matches(candidate)):
            return str(candidate)
    raise SpecError(f"data.source: there is nothing at {' nor at '.join(map(str, tried))}")


def find_files(path: str, home: Path) -> list[Path]:
    """The texts that `data.source` means, in the sorted order they are read in. Raises SpecError when there are none."""
    place = Path(resolve_path(path, home))
    if place.is_dir():
        found = [
            p for p in place.rglob("*") if not any(q.startswith(".") for q in p.relative_to(place).parts)
        ]
    else:
        found = [place] if place.exists() else list(_matches(place))
    found = [p for p in found if p.is_file()]
    texts = sorted((p for p in found if p.suffix.lower() in EXTENSIONS), key=lambda p: p.as_posix())
    if not texts:
        others = sorted({p.suffix or p.name for p in found})
        there = f"only {', '.join(others[:5])}" if others else "no file"
        raise SpecError(f"data.source: {place} has {there}; what is read is {', '.join(EXTENSIONS)}")
    return texts


def _matches(pattern: Path) -> Iterator[Path]:
    return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))


def _documents_of(file: Path, field: str) -> Iterator[tuple[str, int]]:
    """(text, bytes of the file read so far); a text may be empty."""
    try:
        match file.suffix.lower():
            case ".txt":
                yield from _txt_documents(file)
            case ".jsonl":
                yield from _jsonl_documents(file, field)
            case _:
                yield from _parquet_documents(file, field)
    except OSError as e:
        raise SpecError(f"data.source: cannot read {file}: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise SpecError(
            f"data.source: {file} is not UTF-8 text ({e.reason}); convert it, for example: "
            f"iconv -f latin1 -t utf-8 {file.name} > new.txt"
        ) from e


def _txt_documents(file: Path) -> Iterator[tuple[str, int]]:
    is_long = file.stat().st_size > SPLIT_ABOVE_BYTES
    with file.open("rb") as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
        is_marked = END_OF_TEXT in text.read(SPLIT_ABOVE_BYTES)
        text.seek(0)
        longest = 64 * SPLIT_ABOVE_BYTES if is_marked else SPLIT_ABOVE_BYTES
        lines: list[str] = []
        length = 0
        while line := text.readline(longest):
            if is_marked:
                is_end = line.strip() == END_OF_TEXT
            else:
                is_end = is_long and length >= PIECE_CHARACTERS and not line.strip()
            if not is_end:
                lines.append(line)
                length += len(line)
            if is_end or length >= longest:
                yield "".join(lines).strip("\n"), stream.tell()
                lines, length = [], 0
        yield "".join(lines).strip("\n"), stream.tell()


def _jsonl_documents(file: Path, field: str) -> Iterator[tuple[str, int]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as e:
                raise SpecError(f"data.source: {file}:{number} is not JSON: {e}") from e
            if not isinstance(value, dict):
                raise SpecError(f"data.source: {file}:{number} is not a JSON object with a text field")
            if field not in value:
                raise SpecError(_no_such_field(f"{file}:{number}", "field", field, list(value)))
            text = value[field]
            if text is not None and not isinstance(text, str):
                raise SpecError(
                    f'data.text_field: "{field}" of {file}:{number} is a {type(text).__name__}, not text'
                )
            yield text or "", stream.tell()


def _parquet_documents(file: Path, field: str) -> Iterator[tuple[str, int]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise SpecError(
            "data.source: reading .parquet needs pyarrow, which is not installed here: pip install pyarrow"
        ) from e
    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            if field not in schema.names:
                raise SpecError(_no_such_field(str(file), "column", field, schema.names))
            kind = schema.field(field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise SpecError(f'data.text_field: column "{field}" of {file} holds {kind}, not text')
            size, rows, done = file.stat().st_size, max(1, table.metadata.num_rows), 0
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    done += 1
                    yield text or "", size * done // rows
    except pa.ArrowException as e:
        raise SpecError(f"data.source: {file} is not a readable .parquet file: {e}") from e


def _no_such_field(where: str, kind: str, field: str, known: list[str]) -> str:
    some = ", ".join(f'"{name}"' for name in known[:8]) or "none"
    return f'data.text_field: {where} has no {kind} "{field}"{did_you_mean(field, known)}; it has {some}'
