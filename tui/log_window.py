"""A stretch of a log, of bounded size however large the file is: what is read is added at either end, and the other end gives
way. It begins at the end of the file. Knows the file only by offsets, so it serves logs of other machines too."""

import re
from collections import deque
from dataclasses import dataclass

from trainer_daemon.contract.text import printable
from tui.run_state import Level

PIECE_BYTES = 8 * 1024
"""What gives way at once."""
MOST_BYTES = 192 * 1024
MOST_LINES = 4000

_ERROR = re.compile(
    r"\b(?i:error|fatal|critical|traceback|exception)\b|\b[A-Z]\w*(?:Error|Exception)\b"
    r"|^(?:\[\w+\]:)?\[?[EF]\d{4}\s"  # as torch's own log writes it
)
_WARNING = re.compile(r"\b(?i:warn|warning)\b|\b[A-Z]\w*Warning\b|^(?:\[\w+\]:)?\[?W\d{4}\s")


@dataclass(slots=True)
class _Piece:
    text: str
    start: int
    end: int


class LogWindow:
    """Bytes [start, end) of a log, as lines."""

    def __init__(self) -> None:
        self._pieces: deque[_Piece] = deque()
        self.first_number = 0
        """Of the first line: a line keeps its number while lines come and go before it."""

    @property
    def start(self) -> int:
        return self._pieces[0].start if self._pieces else 0

    @property
    def end(self) -> int:
        return self._pieces[-1].end if self._pieces else 0

    def add_after(self, text: str, start: int, end: int) -> None:
        """What follows the window; the beginning gives way. `text`: the bytes [start, end), decoded."""
        for piece in _pieces(text, start, end):
            last = self._pieces[-1] if self._pieces else None
            if last is not None and piece.end - last.start <= PIECE_BYTES:
                last.text, last.end = last.text + piece.text, piece.end
            else:
                self._pieces.append(piece)
        while self._is_too_large():
            self.first_number += self._pieces.popleft().text.count("\n")

    def add_before(self, text: str, start: int, end: int) -> None:
        """What comes before the window; the end gives way, but not all of it: of short lines less is taken."""
        added = 0
        for piece in reversed(_pieces(text, start, end)):
            lines = piece.text.count("\n")
            if added and added + lines > MOST_LINES // 2:
                break
            self._pieces.appendleft(piece)
            self.first_number -= lines
            added += lines
        while self._is_too_large():
            self._pieces.pop()

    def lines(self) -> list[str]:
        """Safe to show. Of what a carriage return wrote over, such as a progress bar's states, only the last is left."""
        if not self._pieces:
            return []
        every = "".join(piece.text for piece in self._pieces).split("\n")
        if not every[-1]:
            every.pop()
        return [printable(line.rstrip("\r").rpartition("\r")[2]).expandtabs(8) for line in every]

    def _is_too_large(self) -> bool:
        return len(self._pieces) > 1 and (
            self.end - self.start > MOST_BYTES
            or sum(piece.text.count("\n") for piece in self._pieces) > MOST_LINES
        )


def _pieces(text: str, start: int, end: int) -> list[_Piece]:
    """Cut where characters end. What does not decode has lost its length: it stays in one piece."""
    data = text.encode("utf-8", "replace")
    if len(data) != end - start:
        return [_Piece(text, start, end)] if end > start else []
    pieces, at = [], 0
    while at < len(data):
        cut = min(at + PIECE_BYTES, len(data))
        while cut < len(data) and data[cut] & 0xC0 == 0x80:
            cut -= 1
        pieces.append(_Piece(data[at:cut].decode(), start + at, start + cut))
        at = cut
    return pieces


def levels(lines: list[str]) -> list[Level]:
    """How grave each line is, by its words. What is indented goes with the line above it, as a traceback does."""
    found: list[Level] = []
    for line in lines:
        if found and line[:1] in (" ", "\t"):
            found.append(found[-1])
        elif _ERROR.search(line):
            found.append("error")
        else:
            found.append("warning" if _WARNING.search(line) else "info")
    return found
