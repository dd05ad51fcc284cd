"""Documents to ids, many at a time: in threads for a small corpus, in processes for a large one.

tiktoken lets go of the interpreter while it works, so threads do for the first seconds; beyond a few of them handing out
documents is the limit, and a process has an interpreter of its own. Whatever is done where, batches come back in order.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.engine.data.shards import TokenArray, token_dtype
from trainer_daemon.engine.data.sources.documents import Document, Place
from trainer_daemon.engine.data.tokenizer import Tokenizer

BATCH_CHARACTERS = 2**20
"""Text, or ids, that make one piece of work."""
BATCHES_AHEAD = 2
"""Pieces of work that wait for each worker: enough to keep it busy, little enough to stay small in memory."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch of documents as the shards hold them."""

    tokens: TokenArray
    """All documents one after the other, each behind its BOS."""
    lengths: npt.NDArray[np.int64]
    """(documents,) ids of each, BOS included."""
    text_bytes: npt.NDArray[np.int64]
    """(documents,) UTF-8 bytes of each."""
    is_held_out: npt.NDArray[np.bool_]
    done: int
    """How far the corpus is read."""
    place: Place | None
    """The nearest one at or before the last document."""


def encode_batch(tokenizer: Tokenizer, batch: list[Document]) -> Encoded:
    """Raises SpecError where tiktoken is missing."""
    contents = [document.content for document in batch]
    ids = [tokenizer.encode_array(c) if isinstance(c, str) else c for c in contents]
    lengths = np.array([len(part) + 1 for part in ids], np.int64)
    tokens = np.empty(int(lengths.sum()), token_dtype(tokenizer.vocab_size))
    at = 0
    for part in ids:
        tokens[at] = tokenizer.bos_id
        tokens[at + 1 : at + 1 + len(part)] = part
        at += 1 + len(part)
    token_bytes = tokenizer.token_byte_lengths() if any(not isinstance(c, str) for c in contents) else None
    text_bytes = [
        len(c.encode()) if isinstance(c, str) else int(token_bytes[c].sum()) if token_bytes is not None else 0
        for c in contents
    ]
    return Encoded(
        tokens,
        lengths,
        np.array(text_bytes, np.int64),
        np.array([document.is_held_out for document in batch], np.bool_),
        batch[-1].done,
        batch[-1].place,
    )


def batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents in portions of BATCH_CHARACTERS."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.content)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode_all(
    documents: Iterator[Document],
    tokenizer: Tokenizer,
    tokenizer_file: Path,
    *,
    workers: int,
    in_processes: bool,
) -> Generator[Encoded, None, None]:
    """Every batch of the documents, in order. `tokenizer_file` holds the same tokenizer, for processes to read.

    Raises RefusedError when a process dies.
    """
    with _pool(tokenizer, tokenizer_file, workers, in_processes=in_processes) as submit:
        waiting: deque[Future[Encoded]] = deque()
        try:
            for batch in batches(documents):
                waiting.append(submit(batch))
                if len(waiting) >= BATCHES_AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenExecutor as e:
            raise RefusedError(
                "a process that tokenizes died, as for want of memory; what is finished is kept: try again, with fewer "
                "--workers"
            ) from e


@contextmanager
def _pool(
    tokenizer: Tokenizer, tokenizer_file: Path, workers: int, *, in_processes: bool
) -> Iterator[Callable[[list[Document]], "Future[Encoded]"]]:
    pool: Executor
    begun_by: AbstractContextManager[None] = nullcontext()
    if in_processes:
        resource_tracker.ensure_running()  # else begun with the first worker, and it lets interrupts in again
        begun_by = _Uninterrupted()
        # spawn: a fork of a process with threads, as every rank is, may copy a lock that nobody will let go of
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _begin_worker, (str(tokenizer_file),)
        )
        work: Callable[[list[Document]], Encoded] = _work
    else:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
        work = partial(encode_batch, tokenizer)

    def submit(batch: list[Document]) -> "Future[Encoded]":
        with begun_by:  # this may start a worker
            return pool.submit(work, batch)

    try:
        yield submit
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Uninterrupted(AbstractContextManager[None]):
    """SIGINT waits outside: a process begun in here is born with it blocked, and Ctrl-C does not hit it half begun."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


_tokenizer: Tokenizer | None = None
"""Of this process, where it is a worker."""


def _begin_worker(tokenizer_file: str) -> None:
    global _tokenizer  # noqa: PLW0603  # the pool has no other place for what a worker keeps
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = Tokenizer.load(Path(tokenizer_file))


def _end_with_parent() -> None:
    """A parent that is killed cannot shut its pool down; its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(batch: list[Document]) -> Encoded:
    assert _tokenizer is not None, "the pool was made without its initializer"
    return encode_batch(_tokenizer, batch)
