"""What a rank was last doing with the others: the newest phases and exchanges, in a file that outlives it.

A file of fixed size, mapped into memory: noting costs microseconds and no call into the kernel, and anyone can read it at
any time, of a rank that waits in a collective, was stopped, or was killed. torch's own recorder knows every NCCL call but
must be asked inside the process; this one knows the loop's names for what it does, on any backend.
"""

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SLOTS = 256
"""Moments kept of each rank: some fifty steps."""
SLOT = struct.Struct("<QQqdd24s")
"""number, exchange, step, began, ended, what."""
BYTES = SLOTS * SLOT.size
ENDED = struct.Struct("<d")
ENDED_AT = struct.calcsize("<QQqd")
"""Where `ended` stands within a slot."""

Exchange = Literal["sum", "maximum", "exchange", "broadcast", "gather", "gradients", "parameters"]
"""What ranks do together. gradients: averaged in the last backward of a step; parameters: what each rank's optimizer made."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One phase or exchange of one rank."""

    number: int
    """Of everything that this rank noted, from 1."""
    exchange: int | None
    """Which exchange it is, from 1, the same on all ranks; None for a phase."""
    step: int
    """Steps done when it began."""
    what: str
    """An `Exchange`, or the name of the phase that began."""
    began: float
    """Seconds since 1970."""
    ended: float | None
    """None: the rank was still in it, or it is a phase."""


class FlightRecorder:
    """Notes the moments of this process. The one thread that trains writes it."""

    def __init__(self, file: Path | None = None) -> None:
        """In memory alone without a file, or where none of that size can be made: a full disk never stops a rank."""
        self._map = _mapped(file) or mmap.mmap(-1, BYTES)
        self._number = self._exchanges = 0
        self.step = 0
        """Steps done."""

    def enter(self, phase: str) -> None:
        """Note that a phase begins."""
        self._note(phase, 0)

    @contextmanager
    def exchanging(self, what: Exchange) -> Iterator[None]:
        """Note that this rank meets the others, and when it left."""
        self._exchanges += 1
        at = self._note(what, self._exchanges)
        yield
        ENDED.pack_into(self._map, at + ENDED_AT, time.time())  # not after an error: then it never ended

    def _note(self, what: str, exchange: int) -> int:
        self._number += 1
        at = self._number % SLOTS * SLOT.size
        SLOT.pack_into(self._map, at, self._number, exchange, self.step, time.time(), 0.0, what.encode()[:24])
        return at


def _mapped(file: Path | None) -> mmap.mmap | None:
    if file is None:
        return None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # real blocks and no hole: writing to a map that the disk has no room for ends a process
            os.write(fd, bytes(BYTES))
            return mmap.mmap(fd, BYTES)
        finally:
            os.close(fd)
    except (OSError, ValueError):  # ValueError: only a part of it could be written
        return None


def read_flight(file: Path) -> list[Moment]:
    """What a rank noted, oldest first; nothing when there is no such file. The rank may go on writing."""
    try:
        data = file.read_bytes()
    except OSError:
        return []
    moments = []
    for at in range(0, len(data) - SLOT.size + 1, SLOT.size):
        number, exchange, step, began, ended, what = SLOT.unpack_from(data, at)
        if number and number % SLOTS == at // SLOT.size:  # else it is being written, or never was
            name = what.rstrip(b"\0").decode("ascii", "replace")
            moments.append(Moment(number, exchange or None, step, name, began, ended or None))
    return sorted(moments, key=lambda moment: moment.number)
