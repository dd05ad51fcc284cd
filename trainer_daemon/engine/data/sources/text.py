"""Plain text files: short ones are one document, long ones are divided where they say so, else at blank lines."""

import io
from codecs import getincrementaldecoder
from collections.abc import Iterator
from pathlib import Path

from trainer_daemon.contract.errors import SpecError

SPLIT_ABOVE_BYTES = 16 * 1024
"""A longer .txt is cut at blank lines, or after this many characters where it has none: one book is many documents."""
PIECE_CHARACTERS = 4 * 1024
"""In such a file the first blank line after this many ends a document."""
END_OF_TEXT = "<|endoftext|>"
"""A line of its own in many published .txt corpora; where a file has it, it and nothing else divides documents."""


def read_text(file: Path) -> Iterator[tuple[str, int]]:
    """(text, bytes of the file read so far); a text may be empty. Raises SpecError, with the offset, for what is no UTF-8."""
    try:
        yield from _read(file)
    except UnicodeDecodeError as e:
        raise SpecError(
            f"data.source: {file} is not UTF-8 text ({e.reason} at byte {first_bad_byte(file):,}); convert it, for "
            f"example: iconv -f latin1 -t utf-8 {file.name} > new.txt"
        ) from e


def _read(file: Path) -> Iterator[tuple[str, int]]:
    is_long = file.stat().st_size > SPLIT_ABOVE_BYTES
    with file.open("rb") as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
        head = text.read(SPLIT_ABOVE_BYTES)
        if (nul := head.find("\0")) >= 0:
            raise SpecError(
                f"data.source: {file} is not text: it has a NUL character at byte {len(head[:nul].encode()):,}, as "
                f"UTF-16 and binary files do; convert it to UTF-8 or leave it out"
            )
        is_marked = END_OF_TEXT in head
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


def first_bad_byte(file: Path) -> int:
    """Offset of the first byte that is no UTF-8; the file's size where all of it is."""
    decoder = getincrementaldecoder("utf-8")()
    before = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as e:
                return before - pending + e.start
            before += len(block)
    return before - len(decoder.getstate()[0])
