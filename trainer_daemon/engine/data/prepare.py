"""How a corpus becomes token shards, once, for all runs that ask for the same.

    HOME/shards/KEY/     a set for this text and tokenizer; KEY names what decides the ids
    HOME/data/NAME/      a set with a name of its own, which `data.source` can name and another machine can be given

A set is written beside its place and renamed, under a lock: it is there whole, or it is not there. What an interruption
leaves are whole shards with a note of how far they go, from which the next preparation goes on.
"""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from trainer_daemon.contract.errors import RefusedError, SpecError
from trainer_daemon.contract.hardware import usable_cores
from trainer_daemon.contract.rundir import fsync_folder, write_json
from trainer_daemon.contract.spec import DataSpec, RunSpec, Section, TokenizerSpec
from trainer_daemon.contract.vocabulary import PUBLISHED, TRAINED, tokenizer_file
from trainer_daemon.engine.data.published import check_hash, open_tokenizer
from trainer_daemon.engine.data.shards import (
    LAYOUT,
    META_FILE,
    SPLITS,
    TOKENIZER_FILE,
    Prepared,
    check_shard,
    fingerprint_of,
    open_set,
    read_meta,
    split_meta,
    splits_as_json,
    token_dtype,
)
from trainer_daemon.engine.data.sources import (
    HELD_OUT_RULES,
    Corpus,
    Document,
    absolute_source,
    check_source,
    open_corpus,
    resolve_path,
)
from trainer_daemon.engine.data.sources.files import FileCorpus
from trainer_daemon.engine.data.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from trainer_daemon.engine.data.window import keep_window
from trainer_daemon.engine.data.writing import (
    NOTE_FILE,
    Note,
    Progress,
    documents_behind,
    first_block_to_train_on,
    write_blocks,
)

KEPT_CHARACTERS = 64 * 2**20
"""A corpus up to this size is read once and kept between the tokenizer's training and the writing of its ids."""
MAX_WORKERS = 64
REPORT_SECONDS = 0.2


def prepare(
    data: DataSpec,
    tokenizer: TokenizerSpec,
    home: Path,
    progress: Progress,
    *,
    workers: int | None = None,
    name: str | None = None,
) -> Prepared:
    """The spec's text as token shards: those under `home` if they are whole, else made now.

    A second process that wants the same waits for the first. `workers`: that tokenize at once; None: one a core. With a
    `name` the set is `home`/data/NAME. Raises SpecError for text that cannot be read or is too little, RefusedError when
    the shards cannot be written.
    """
    if name is None and (given := prepared_folder(data, home)):
        return _open_given(given, tokenizer, home)
    corpus = open_corpus(data, tokenizer, home)
    key = _key(corpus, tokenizer, home)
    place = home / "data" / name if name else home / "shards" / key
    # without the lock: what is there is whole, and a cache that may only be read will do
    if ready := _ready(place, key):
        check_hash(ready.tokenizer, tokenizer)
        return ready
    if name and place.exists() and not _is_ours(place):
        raise RefusedError(f"{place} is there already and is no prepared set; choose another --name")
    try:
        for folder in home / "tokenizers", place.parent:
            folder.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_name(f".{place.name}.lock"), progress):
            ready = _ready(place, key)
            if ready is None:
                workers = workers or min(MAX_WORKERS, usable_cores())
                _make(corpus, tokenizer, home, place, key, workers, _paced(progress))
                ready = open_set(place)
    except OSError as e:
        raise RefusedError(
            f"cannot write the token shards into {place}: {e.strerror or e}; free space or set LLMCTL_HOME"
        ) from e
    return ready


def keep_window_of(
    data: DataSpec,
    tokenizer: TokenizerSpec,
    home: Path,
    folder: Path,
    reader: Callable[[], tuple[int, int]],
    progress: Progress,
    *,
    workers: int,
) -> NoReturn:
    """The spec's text as the few shards about a reader, in `folder`, until the process ends. Raises SpecError, RefusedError."""
    corpus = open_corpus(data, tokenizer, home)
    key = _key(corpus, tokenizer, home)
    progress = _paced(progress)
    try:
        (home / "tokenizers").mkdir(parents=True, exist_ok=True)
        ready, _ = _tokenizer_and_documents(corpus, tokenizer, home, key, progress)
        keep_window(corpus, ready, folder, key, reader, workers, progress)
    except OSError as e:
        raise RefusedError(f"cannot write token shards into {folder}: {e.strerror or e}; free space") from e


def set_place(data: DataSpec, tokenizer: TokenizerSpec, home: Path) -> tuple[Path, str]:
    """(folder of the set that `prepare` makes for this spec, its key). Raises SpecError."""
    key = _key(open_corpus(data, tokenizer, home), tokenizer, home)
    return home / "shards" / key, key


def draft_of(place: Path) -> Path:
    """Where a set is written before it is whole."""
    return place.with_name(f".{place.name}.partial")


def check_data(data: DataSpec, tokenizer: TokenizerSpec, home: Path) -> None:
    """Raises SpecError, saying what to change, when the spec names neither a prepared set nor text to make one of."""
    if given := prepared_folder(data, home):
        read_meta(given)
    else:
        check_source(data, tokenizer, home)


def with_absolute_paths(spec: RunSpec, home: Path) -> RunSpec:
    """The spec with every path in it as it is to be read from any folder. Raises SpecError for one that is not there."""
    data: dict[str, Any] = {}
    tokenizer: dict[str, Any] = {}
    source = spec.data.source
    if isinstance(source, str):
        data["source"] = absolute_source(source, home)
    else:
        data["source"] = {absolute_source(part, home): weight for part, weight in source.items()}
    names_split = isinstance(source, str) and source.startswith("hf://")
    if spec.data.held_out not in HELD_OUT_RULES and not names_split:
        data["held_out"] = resolve_path(spec.data.held_out, home, "data.held_out")
    if spec.tokenizer.name not in (TRAINED, *PUBLISHED):
        tokenizer["name"] = str(tokenizer_file(spec.tokenizer.name, home).absolute())
    parts: dict[str, Section] = {
        "data": spec.data.model_copy(update=data),
        "tokenizer": spec.tokenizer.model_copy(update=tokenizer),
    }
    if spec.eval.core_every != "off":
        core = resolve_path(spec.eval.core_source, home, "eval.core_source")
        parts["eval"] = spec.eval.model_copy(update={"core_source": core})
    return spec.model_copy(update=parts)


def prepared_folder(data: DataSpec, home: Path) -> Path | None:
    """The prepared set that `data.source` names, or None where it names text."""
    if not isinstance(data.source, str) or data.source == "stories":
        return None
    try:
        place = Path(resolve_path(data.source, home))
    except SpecError:
        return None
    return place if _is_ours(place) else None


def find_meta(data: DataSpec, tokenizer: TokenizerSpec, home: Path) -> dict[str, Any] | None:
    """The `meta.json` of the set that a run of this spec would read, without a look at its shards; None where it is yet to
    be made."""
    try:
        given = prepared_folder(data, home)
        return read_meta(given or home / "shards" / _key(open_corpus(data, tokenizer, home), tokenizer, home))
    except SpecError:
        return None


def count_ids(data: DataSpec, tokenizer: TokenizerSpec, home: Path) -> int | None:
    """Ids to train on, where the files of a corpus that is yet to be prepared say it; None where they do not."""
    try:
        corpus = open_corpus(data, tokenizer, home)
        return corpus.count_ids() if isinstance(corpus, FileCorpus) else None
    except SpecError:
        return None


def all_sets(home: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every set under `home` that is whole as far as its `meta.json` says: named ones first."""
    folders = [
        path.parent for kind in ("data", "shards") for path in sorted((home / kind).glob(f"*/{META_FILE}"))
    ]
    return [(folder, read_meta(folder)) for folder in folders if _is_ours(folder)]


def _is_ours(folder: Path) -> bool:
    try:
        read_meta(folder)
    except SpecError:
        return False
    return True


def _open_given(folder: Path, tokenizer: TokenizerSpec, home: Path) -> Prepared:
    ready = open_set(folder)
    named = open_tokenizer(tokenizer, home)
    if named is not None and named.content_hash != ready.tokenizer.content_hash:
        raise SpecError(
            f'tokenizer.name: {folder} was prepared with another tokenizer than "{tokenizer.name}"; leave tokenizer.name '
            f"out to use the set's own, or prepare the text again"
        )
    check_hash(ready.tokenizer, tokenizer)
    return ready


def _ready(place: Path, key: str) -> Prepared | None:
    """What is there, or None where it is missing, of another text or tokenizer, or damaged: it is made anew."""
    try:
        return open_set(place) if read_meta(place)["key"] == key else None
    except (SpecError, KeyError):
        return None


def _key(corpus: Corpus, tokenizer: TokenizerSpec, home: Path) -> str:
    decides: dict[str, Any] = {"layout": LAYOUT, "corpus": corpus.identity()}
    if tokenizer.name == TRAINED:
        decides |= {
            "tokenizer": tokenizer.model_dump(mode="json", include={"vocab_size", "train_bytes"}),
            "pattern": SPLIT_PATTERN,
            "special": SPECIAL_TOKENS,
        }
    elif tokenizer.name in PUBLISHED:
        decides["tokenizer"] = tokenizer.name
    else:
        decides["tokenizer"] = sha256(tokenizer_file(tokenizer.name, home).read_bytes()).hexdigest()
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


def _make(
    corpus: Corpus,
    spec: TokenizerSpec,
    home: Path,
    place: Path,
    key: str,
    workers: int,
    progress: Progress,
) -> None:
    """Write the set and rename it to its place, from where an earlier attempt was interrupted."""
    tokenizer, documents = _tokenizer_and_documents(corpus, spec, home, key, progress)
    draft = draft_of(place)
    try:
        note = _read_note(draft, key, tokenizer)
        if note is None:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            tokenizer.save(draft / TOKENIZER_FILE)
            note = Note(key)
        _write_set(corpus, spec, tokenizer, documents, draft, note, workers, progress)
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)
        fsync_folder(place.parent)
    except BaseException as e:
        if isinstance(e, SpecError) or not (draft / NOTE_FILE).exists():
            shutil.rmtree(draft, ignore_errors=True)  # nothing in it that the next attempt could use
        raise


def _tokenizer_and_documents(
    corpus: Corpus, spec: TokenizerSpec, home: Path, key: str, progress: Progress
) -> tuple[Tokenizer, Iterator[Document]]:
    """The tokenizer, trained where the spec names none that exists, and the documents from the first one on."""
    if named := open_tokenizer(spec, home):
        return named, corpus.documents()
    trained_file = home / "tokenizers" / f"{key}.json"
    try:
        tokenizer, documents = Tokenizer.load(trained_file), corpus.documents()
    except SpecError:  # not trained yet, or damaged
        tokenizer, documents = _train_tokenizer(corpus, spec, progress)
        tokenizer.save(trained_file)
    check_hash(tokenizer, spec)
    return tokenizer, documents


def train_tokenizer(data: DataSpec, spec: TokenizerSpec, home: Path, progress: Progress) -> Tokenizer:
    """A tokenizer learned from a corpus's training text, as a run with this spec would. Raises SpecError."""
    return _train_tokenizer(open_corpus(data, spec, home), spec, _paced(progress))[0]


def _train_tokenizer(
    corpus: Corpus, spec: TokenizerSpec, progress: Progress
) -> tuple[Tokenizer, Iterator[Document]]:
    """Train on the first `train_bytes` of the training text; also gives the corpus's documents, from the first one on."""
    source = corpus.documents()
    kept: list[Document] = []
    kept_characters = 0
    total = (
        min(spec.train_bytes, corpus.total) if corpus.total is not None and corpus.unit == "bytes" else None
    )

    def texts() -> Iterator[str]:
        nonlocal kept_characters
        read_bytes = 0
        for document in source:
            assert isinstance(document.content, str), "files of ids need a tokenizer that exists"
            kept_characters += len(document.content)
            if kept_characters <= KEPT_CHARACTERS:
                kept.append(document)
            if not document.is_held_out:
                yield document.content
                read_bytes += len(document.content.encode())
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


def _read_note(draft: Path, key: str, tokenizer: Tokenizer) -> Note | None:
    """Where an interrupted preparation of the same set can go on; None where it has to begin anew."""
    try:
        note = Note.load(draft / NOTE_FILE)
        if note.key != key or Tokenizer.load(draft / TOKENIZER_FILE).content_hash != tokenizer.content_hash:
            return None
        for name in SPLITS:
            for shard in note.shards(name):
                check_shard(draft / name, shard, token_dtype(tokenizer.vocab_size), is_hashed=False)
    except (OSError, ValueError, SpecError):
        return None
    return note


def _write_set(
    corpus: Corpus,
    spec: TokenizerSpec,
    tokenizer: Tokenizer,
    documents: Iterator[Document],
    draft: Path,
    note: Note,
    workers: int,
    progress: Progress,
) -> None:
    if note.blocks:
        documents = documents_behind(corpus, note.blocks, progress)
    with closing(write_blocks(corpus, documents, tokenizer, draft, note.blocks, workers, progress)) as blocks:
        for block in blocks:
            note = note.with_block(block)
            note.save(draft / NOTE_FILE)
    splits = {
        name: split_meta(note.shards(name), sum(block.text_bytes[name] for block in note.blocks))
        for name in SPLITS
    }
    if not (splits["train"].documents and splits["held_out"].documents):
        raise SpecError(corpus.lack(train=splits["train"].documents, held_out=splits["held_out"].documents))
    first = first_block_to_train_on(note.blocks)
    assert first is not None, "there is a training document"
    meta: dict[str, Any] = {
        "layout": LAYOUT,
        "key": note.key,
        "name": corpus.name,
        "fingerprint": fingerprint_of(tokenizer, splits),
        "tokenizer": tokenizer.content_hash,
        "tokenizer_name": spec.name,
        "vocab_size": tokenizer.vocab_size,
        "dtype": token_dtype(tokenizer.vocab_size),
        "separator": {"id": tokenizer.bos_id, "side": "before"},
        "corpus": corpus.identity(),
        "bits_per_byte_floor": corpus.bits_per_byte_floor(),
        "first_held_out": sum(1 for block in note.blocks[: first + 1] if block.shards["held_out"]),
        "splits": splits_as_json(splits),
    }
    write_json(draft / META_FILE, meta)
    (draft / NOTE_FILE).unlink(missing_ok=True)


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
