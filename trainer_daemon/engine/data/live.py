"""Rows of a corpus that is still being tokenized: shard after shard in the order they are made, shuffled within each.

Which row a sample is follows from the seed and the shards before it alone, never from how far the tokenizing was when it
was drawn. So a run resumes exactly, on any number of ranks; what has to be remembered is how many rows each shard gave.
One thread of every rank opens the next shard while the present one is read, since planning its rows takes a second.
"""

import bisect
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.errors import RunFailedError, SpecError
from trainer_daemon.engine.data.order import RowOrder
from trainer_daemon.engine.data.rows import PADDING, Packing, RowArray, Rows, cut_rows, too_few
from trainer_daemon.engine.data.shards import (
    META_FILE,
    TOKENIZER_FILE,
    ShardFile,
    Split,
    check_shard,
    read_meta,
    split_meta,
    token_dtype,
)
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.data.writing import NOTE_FILE, Note, first_block_to_train_on

POLL_SECONDS = 0.1
REPORT_SECONDS = 0.5
MAX_RESTARTS = 3
"""Times that a tokenizing process is started again after it died without a word."""
CLOSING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Written:
    """What there is of a set that is being made, or of a whole one."""

    folder: Path
    tokenizer: Tokenizer
    train: tuple[ShardFile, ...]
    """Every shard to train on that was finished, though a window may have let go of it."""
    held_out: tuple[ShardFile, ...]
    """The shards held out that were finished with the first of these: the validation set, from then on."""
    is_whole: bool
    """Whether there will be no more."""


class WrittenSet:
    """Looks at a set in the making: in its draft until it is whole, then in its place."""

    def __init__(self, place: Path, draft: Path, key: str | None, *, is_window: bool = False) -> None:
        """`key`: that the set must have; None: any. `is_window`: whether shards come and go."""
        self._place, self._draft, self._key = place, draft, key
        self._is_window = is_window
        self._seen: tuple[object, Written] | None = None

    def look(self) -> Written | None:
        """What there is by now; None while there is no shard to train on. Raises SpecError for a set that is damaged."""
        for folder, name in (self._place, META_FILE), (self._draft, NOTE_FILE):
            try:
                status = (folder / name).stat()
                mark = (folder, status.st_ino, status.st_mtime_ns, status.st_size)
                if self._seen is not None and self._seen[0] == mark:
                    return self._seen[1]
                written = self._read_whole(folder) if name == META_FILE else self._read_draft(folder)
            except (OSError, ValueError):
                continue  # not there, or it has just moved to its place
            if written is not None:
                self._seen = mark, written
                return written
        return None

    def _read_whole(self, folder: Path) -> Written | None:
        meta = read_meta(folder)
        if self._key not in (None, meta["key"]):
            return None
        train, held_out = (
            tuple(ShardFile(**shard) for shard in meta["splits"][name]["shards"])
            for name in ("train", "held_out")
        )
        tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
        return Written(folder, tokenizer, train, held_out[: meta["first_held_out"]], is_whole=True)

    def _read_draft(self, folder: Path) -> Written | None:
        note = Note.load(folder / NOTE_FILE)
        first = first_block_to_train_on(note.blocks)
        if self._key not in (None, note.key) or first is None:
            return None
        with_it = Note(note.key, note.blocks[: first + 1])
        try:
            tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
        except SpecError:  # a note that a checkpoint brought, or the draft has just moved to its place
            return None
        return Written(folder, tokenizer, note.shards("train"), with_it.shards("held_out"), note.is_whole)

    def note_of_window(self) -> dict[str, Any] | None:
        """What a window can be made again from; None where a set keeps everything."""
        if not self._is_window:
            return None
        stored: dict[str, Any] = json.loads((self._draft / NOTE_FILE).read_bytes())
        return stored


class Tokenizing(Closing):
    """The process that tokenizes beside this rank. It ends with it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._process: subprocess.Popen[str] | None = None
        self._restarts = 0
        self.waits_for_another = False
        """Whether another process holds the lock and does the work."""
        self.last_report: tuple[str, int, int | None, str] | None = None
        self.error: str | None = None
        """What it said was wrong, or that it died too often."""
        self.notices: deque[str] = deque()
        """What a reader should know, oldest first."""
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "trainer_daemon", "tokenize"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(json.dumps(self._order))
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def come_to(self, shard: int, needed_behind: int) -> None:
        """The reader is at this shard now, and its batch needs so many behind it."""
        if (reader := [shard, needed_behind]) != self._order["reader"]:
            self._order["reader"] = reader
            self._write(json.dumps(reader))

    def look_after(self) -> None:
        """Start it again where it died without a word."""
        assert self._process is not None
        code = self._process.poll()
        if code in (None, 0) or self.error is not None:
            return
        if self._restarts == MAX_RESTARTS:
            self.error = f"the process that tokenizes died {MAX_RESTARTS + 1} times, last with {code}"
            return
        self._restarts += 1
        self.notices.append(f"the process that tokenizes died ({code}); it is started again")
        self._start()

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        with suppress(OSError):  # it is gone
            process.stdin.close()
        try:
            process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(OSError):  # it died, and look_after will see
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                fields = json.loads(line)
                if "error" in fields:
                    self.error = fields["error"]
                    continue
                self._hear(fields["what"], fields["done"], fields["total"], fields["unit"])

    def _hear(self, what: str, done: int, total: int | None, unit: str) -> None:
        waits = what.startswith("waiting")
        if waits and not self.waits_for_another:
            self.notices.append(
                "another process prepares this text; its shards are read as they are finished"
            )
        if self.waits_for_another and not waits:
            self.notices.append(
                "the process that prepared this text ended before it was done; this run tokenizes the rest"
            )
        self.waits_for_another = waits
        self.last_report = what, done, total, unit


class LiveOrder:
    """The order that `LiveRows` has, as batches ask for it."""

    def __init__(self, live: "LiveRows") -> None:
        self._live = live

    def rows(self, first_sample: int, count: int) -> npt.NDArray[np.int64]:
        """(count,): the row numbers of samples first_sample …. Waits for shards that are yet to be made."""
        return self._live.rows_of(first_sample, count)

    def is_ready(self, first_sample: int, count: int) -> bool:
        """Whether these samples' shards are open. What is asked for is opened next."""
        return self._live.is_ready(first_sample, count)

    def epoch(self, samples_seen: int) -> float | None:
        """Rows drawn / rows in the training set; None until all of it was read once."""
        return self._live.epoch(samples_seen)


class LiveRows(Closing):
    """The rows and their order. Row numbers count on from shard to shard."""

    def __init__(
        self,
        written: WrittenSet,
        tokenizing: Tokenizing | None,
        *,
        sequence_len: int,
        packing: Packing,
        seed: int,
        rows_of_shards: Sequence[int] = (),
        sha256_of_shards: Sequence[str] = (),
        samples_seen: int = 0,
    ) -> None:
        """`rows_of_shards` and `sha256_of_shards` are what a checkpoint remembers of the shards up to `samples_seen`."""
        self.sequence_len = sequence_len
        self.has_padding = packing == "best-fit-padded"
        self._packing: Packing = packing
        self._seed = seed
        self._written = written
        self._tokenizing = tokenizing
        self._notices = tokenizing.notices if tokenizing is not None else deque[str]()
        self._counts = list(rows_of_shards)
        self._known_sha256 = list(sha256_of_shards)
        self._total: int | None = None
        """Shards of the corpus, once it is whole."""
        self._open: dict[int, Rows] = {}
        self._dtype: np.dtype[Any] = np.dtype(np.int32)
        self._failure: Exception | None = None
        self._is_closed = False
        self._change = threading.Condition()
        self._wanted = samples_seen, 1
        """First sample and count of what is to be read next."""
        self._thread = threading.Thread(target=self._follow, name="shard opener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and the process that tokenizes."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        self._thread.join()
        if self._tokenizing is not None:
            self._tokenizing.close()

    # --- the order ---

    def rows_of(self, first_sample: int, count: int) -> npt.NDArray[np.int64]:
        """(count,): the row numbers of samples first_sample …. Waits for shards that are yet to be made."""
        self._wait_for(first_sample, count)
        out = np.empty(count, np.int64)
        at = 0
        while at < count:
            epoch, shard, position = self._find(first_sample + at)
            rows = self._counts[shard]
            taken = min(count - at, rows - position)
            order = RowOrder(rows, self._seed, shard)
            out[at : at + taken] = self._first_row(shard) + order.rows(epoch * rows + position, taken)
            at += taken
        return out

    def is_ready(self, first_sample: int, count: int) -> bool:
        """Whether these samples' shards are open. The reader is taken to be there."""
        with self._change:
            if (wanted := (first_sample, count)) != self._wanted:
                self._wanted = wanted
                self._change.notify_all()
            return all(shard in self._open for shard in self._shards_of(*wanted))

    def epoch(self, samples_seen: int) -> float | None:
        """Rows drawn / rows in the training set; None until all of it was read once."""
        rows = self._rows_of_all()
        return None if rows is None else samples_seen / rows

    def _shards_of(self, first_sample: int, count: int) -> list[int]:
        """The shards of these samples, each once; the last one may be yet to come."""
        shards: dict[int, None] = {}
        sample, end = first_sample, first_sample + count
        while sample < end:
            try:
                _, shard, position = self._find(sample)
            except LookupError:
                shards[len(self._counts)] = None
                break
            shards[shard] = None
            sample += self._counts[shard] - position
        return list(shards)

    def _find(self, sample: int) -> tuple[int, int, int]:
        """(epoch, shard, position in it) of a sample. Raises LookupError while nobody knows."""
        epoch = 0
        if (rows := self._rows_of_all()) is not None:
            epoch, sample = divmod(sample, rows)
        ends = list(accumulate(self._counts))
        shard = bisect.bisect_right(ends, sample)
        if shard == len(ends):
            raise LookupError
        return epoch, shard, sample - (ends[shard] - self._counts[shard])

    def _first_row(self, shard: int) -> int:
        return sum(self._counts[:shard])

    def _rows_of_all(self) -> int | None:
        """Rows of the corpus, once all of it is known."""
        return sum(self._counts) if self._total is not None and len(self._counts) == self._total else None

    # --- the rows ---

    def __len__(self) -> int:
        """Of what is known by now."""
        return sum(self._counts)

    @property
    def tokens_dropped(self) -> float:
        """Of the shards that are open."""
        with self._change:
            parts = list(self._open.values())
        return sum(rows.tokens_dropped for rows in parts) / max(1, len(parts))

    @property
    def padding(self) -> float:
        """Of the shards that are open."""
        with self._change:
            parts = [rows for rows in self._open.values() if len(rows)]
        return sum(rows.padding for rows in parts) / max(1, len(parts))

    def row(self, i: int) -> RowArray:
        return self.rows([i])[0]

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> RowArray:
        """(len(numbers), T + 1), a copy. Waits for shards that are not open."""
        out: RowArray | None = None
        for rows, mine, within in self._by_shard(numbers):
            part = rows.rows(within)
            if out is None:
                out = np.full(
                    (len(numbers), self.sequence_len + 1), PADDING if self.has_padding else 0, part.dtype
                )
            out[mine] = part
        assert out is not None, "no rows were asked for"
        return out

    def count_targets(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> int:
        """Targets of these rows that count."""
        if not self.has_padding:
            return len(numbers) * self.sequence_len
        return sum(rows.count_targets(within) for rows, _, within in self._by_shard(numbers))

    def _by_shard(
        self, numbers: Sequence[int] | npt.NDArray[np.int64]
    ) -> list[tuple[Rows, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """(rows of a shard, which of `numbers` are in it, their numbers within it) of each shard that has any."""
        wanted = np.asarray(numbers, np.int64)
        ends = np.cumsum(self._counts)
        shards = np.searchsorted(ends, wanted, "right")
        parts = []
        for shard in np.unique(shards).tolist():
            mine = np.flatnonzero(shards == shard)
            parts.append((self._opened(shard), mine, wanted[mine] - self._first_row(shard)))
        return parts

    def _opened(self, shard: int) -> Rows:
        with self._change:
            while shard not in self._open:
                self._raise_failure()
                self._change.wait(POLL_SECONDS)
            return self._open[shard]

    def _wait_for(self, first_sample: int, count: int) -> None:
        while not self.is_ready(first_sample, count):
            with self._change:
                self._raise_failure()
                self._change.wait(POLL_SECONDS)

    def wait_for_first(
        self, samples_seen: int, progress: Callable[[str, int, int | None, str], None]
    ) -> Written:
        """Until the shard that the run begins with is open; tells what it waits for. Raises what reading it raises."""
        begun = time.monotonic()
        while not (self.is_ready(samples_seen, 1) and self._can_validate()):
            with self._change:
                self._raise_failure()
                self._change.wait(REPORT_SECONDS)
            waited = int(time.monotonic() - begun)
            report = self._tokenizing.last_report if self._tokenizing else None
            progress(*(report or ("waiting for the first shard", waited, None, "seconds")))
        written = self._written.look()
        assert written is not None, "a shard of it is open"
        return written

    def _can_validate(self) -> bool:
        """Whether the validation set is there: a window that was lost is made again from the checkpoint's note."""
        written = self._written.look()
        return written is not None and all(
            (written.folder / "held_out" / f"{shard.name}.bin").exists() for shard in written.held_out
        )

    def failure(self) -> str | None:
        """Why no shard will come any more, as a sentence; None while one may."""
        return str(self._failure) if self._failure is not None else None

    def has_notices(self) -> bool:
        """Whether there is something that the reader should know."""
        return bool(self._notices)

    def take_notices(self) -> list[str]:
        """What the reader should know and was not told yet."""
        return [self._notices.popleft() for _ in range(len(self._notices))]

    def state(self) -> dict[str, Any]:
        """What a resume needs, as JSON values."""
        written = self._written.look()
        hashes = [shard.sha256 for shard in written.train] if written else []
        return {
            "rows_of_shards": self._counts[:],
            "sha256_of_shards": hashes if len(hashes) > len(self._known_sha256) else self._known_sha256,
            "note": self._written.note_of_window(),
        }

    # --- the thread ---

    def _follow(self) -> None:
        while True:
            with self._change:
                if self._is_closed:
                    return
                wanted = self._wanted
                needed = self._shards_of(*wanted)
            try:
                if self._tokenizing is not None:
                    self._tokenizing.look_after()
                    self._tokenizing.come_to(needed[0], len(needed) - 1)
                was_opened = self._open_next(needed)
                if not was_opened and self._tokenizing is not None and self._tokenizing.error is not None:
                    raise RunFailedError(self._tokenizing.error)
            except Exception as e:  # noqa: BLE001  # whatever it is, the reader's thread raises it where rows are missing
                with self._change:
                    if self._failure is None:
                        self._notices.append(f"no more text will come: {e}")
                    self._failure = e
                    self._change.notify_all()
                    self._change.wait(POLL_SECONDS)
                continue
            if was_opened:
                self._failure = None
            else:
                with self._change:
                    if not self._is_closed and self._wanted == wanted:
                        self._change.wait(POLL_SECONDS)

    def _open_next(self, needed: list[int]) -> bool:
        """Open the first of the needed shards that is not, or else the one behind them. False when none is there yet."""
        written = self._written.look()
        if written is None:
            return False
        self._check_unchanged(written)
        if written.is_whole and self._total is None:
            with self._change:
                self._total = len(written.train)
                self._change.notify_all()
        kept = [needed[0] - 1, *needed, needed[-1] + 1]
        if written.is_whole:
            kept = [number % len(written.train) for number in kept]
        for number in kept[1:]:
            if number in self._open or number > len(self._counts) or number >= len(written.train):
                continue
            shard = written.train[number]
            if not (written.folder / "train" / f"{shard.name}.bin").exists():
                return False  # a window let go of it, and is making it again
            try:
                rows = self._cut(written, number)
            except FileNotFoundError:
                return False  # or just now, or the set has moved to its place
            with self._change:
                if number == len(self._counts):
                    self._counts.append(len(rows))
                self._open = {n: r for n, r in self._open.items() if n in kept} | {number: rows}
                self._change.notify_all()
            if written.is_whole and self._rows_of_all() == 0:
                whole = split_meta(written.train, 0)
                raise SpecError(too_few("train", whole, self.sequence_len))
            return True
        return False

    def _check_unchanged(self, written: Written) -> None:
        """Raises SpecError when a shard is not the one that this run read before."""
        for number, (known, shard) in enumerate(zip(self._known_sha256, written.train, strict=False)):
            if known != shard.sha256:
                raise SpecError(
                    f"the text at data.source changed: its shard {number} is not the one that this run read; restore the text "
                    f"as it was, or start a new run"
                )

    def _cut(self, written: Written, number: int) -> Rows:
        shard = written.train[number]
        folder = written.folder / "train"
        check_shard(folder, shard, _dtype(written), is_hashed=True)
        split = Split(folder, split_meta((shard,), 0), _dtype(written), part=shard.name)
        rows = cut_rows(split, self.sequence_len, self._packing)
        if number < len(self._counts) and len(rows) != self._counts[number]:
            raise SpecError(
                f"{folder / shard.name}.bin gives {len(rows)} rows and gave {self._counts[number]} before"
            )
        return rows

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _dtype(written: Written) -> str:
    return token_dtype(written.tokenizer.vocab_size)


def held_out_split(written: Written) -> Split:
    """The validation set: what was held out when training could begin."""
    part = f"first-{len(written.held_out)}"
    return Split(written.folder / "held_out", split_meta(written.held_out, 0), _dtype(written), part=part)
