"""Tokenizers that exist already: published vocabularies through tiktoken, and stored ones of our own.

tiktoken downloads a missing table with no timeout and deletes a cached one whose hash does not hold. So the table is
looked for here first, in its cache and in ours, and checked; only then is tiktoken asked, which finds it. What is missing
is fetched with a timeout, or refused with the places where it could lie.
"""

import os
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.rundir import write_durably
from trainer_daemon.contract.spec import TokenizerSpec
from trainer_daemon.contract.vocabulary import PUBLISHED, TRAINED, tokenizer_file
from trainer_daemon.engine.data.tokenizer import Tokenizer

_HOST = "https://openaipublic.blob.core.windows.net"
_R50K = {
    f"{_HOST}/encodings/r50k_base.tiktoken": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
}
_GPT2 = {
    f"{_HOST}/gpt-2/encodings/main/vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    f"{_HOST}/gpt-2/encodings/main/encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
TABLES: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {
    # one vocabulary, published twice: whichever is at hand will do
    "gpt2": (("r50k_base", _R50K), ("gpt2", _GPT2)),
    "r50k_base": (("r50k_base", _R50K), ("gpt2", _GPT2)),
    "p50k_base": (
        (
            "p50k_base",
            {
                f"{_HOST}/encodings/p50k_base.tiktoken": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"
            },
        ),
    ),
    "cl100k_base": (
        (
            "cl100k_base",
            {
                f"{_HOST}/encodings/cl100k_base.tiktoken": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
            },
        ),
    ),
    "o200k_base": (
        (
            "o200k_base",
            {
                f"{_HOST}/encodings/o200k_base.tiktoken": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
            },
        ),
    ),
}
"""Our name -> (tiktoken's name, {URL: sha256}), any of which gives the vocabulary; as in tiktoken_ext.openai_public."""

DOWNLOAD_TIMEOUT_SECONDS = 15.0

Fetch = Callable[[str], bytes]


def open_tokenizer(spec: TokenizerSpec, home: Path) -> Tokenizer | None:
    """The tokenizer that the spec names; None where the run trains its own.

    Raises SpecError when it is not at hand or does not have the hash that the spec binds it to.
    """
    if spec.name == TRAINED:
        return None
    if spec.name in PUBLISHED:
        tokenizer = load_published(spec.name, home)
    else:
        tokenizer = Tokenizer.load(tokenizer_file(spec.name, home))
    check_hash(tokenizer, spec)
    return tokenizer


def check_hash(tokenizer: Tokenizer, spec: TokenizerSpec) -> None:
    """Raises SpecError when the spec binds the run to another tokenizer."""
    if spec.sha256 is not None and tokenizer.content_hash != spec.sha256:
        raise SpecError(
            f'tokenizer.sha256: "{spec.name}" is {tokenizer.content_hash[:16]}… here, the spec wants {spec.sha256[:16]}…: '
            f"the same text would get other ids. Bring the tokenizer that is meant, or change tokenizer.sha256"
        )


def load_published(name: str, home: Path, fetch: Fetch | None = None) -> Tokenizer:
    """A published vocabulary, from `home`/tokenizers when it was loaded before. Raises SpecError when it is nowhere."""
    kept = home / "tokenizers" / f"{name}.json"
    try:
        return Tokenizer.load(kept)
    except SpecError:
        pass  # not loaded before, or damaged: it is made from its tables
    tokenizer = _from_tables(name, home, fetch or _download)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(kept)
    except OSError:
        pass  # a home that may not be written to: it is loaded again next time
    return tokenizer


def _from_tables(name: str, home: Path, fetch: Fetch) -> Tokenizer:
    own = home / "tokenizers" / "tiktoken"
    folders = [*_tiktoken_caches(), own]
    for theirs, files in TABLES[name]:
        for folder in folders:
            if all(_holds(folder, url, digest) for url, digest in files.items()):
                return _construct(theirs, folder)
    theirs, files = TABLES[name][0]
    for url, digest in files.items():
        _keep_download(own, url, digest, fetch, name, folders)
    return _construct(theirs, own)


def _tiktoken_caches() -> list[Path]:
    """Where tiktoken itself would look."""
    set_by_hand = [
        os.environ[key] for key in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if os.environ.get(key)
    ]
    return [Path(folder) for folder in (*set_by_hand, str(Path(tempfile.gettempdir()) / "data-gym-cache"))]


def _cache_name(url: str) -> str:
    return sha1(url.encode(), usedforsecurity=False).hexdigest()


def _holds(folder: Path, url: str, digest: str) -> bool:
    """Whether the table lies there whole: with a wrong hash tiktoken would delete it and go to the network."""
    try:
        return sha256((folder / _cache_name(url)).read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _keep_download(own: Path, url: str, digest: str, fetch: Fetch, name: str, looked_in: list[Path]) -> None:
    try:
        data = fetch(url)
    except OSError as e:
        reason = getattr(e, "reason", e)
        raise SpecError(
            f"tokenizer.name: the table of {name} is not at hand and cannot be fetched from {url} ({reason}). On a machine "
            f"with a network run: llmctl tokenizer inspect {name}, and copy {own.parent / name}.json here; or put the file "
            f"as {_cache_name(url)} into one of {', '.join(map(str, looked_in))} (TIKTOKEN_CACHE_DIR names another)"
        ) from e
    if sha256(data).hexdigest() != digest:
        raise SpecError(
            f"tokenizer.name: what {url} sent is not the table of {name}: its hash is another; try again"
        )
    own.mkdir(parents=True, exist_ok=True)
    write_durably(own / _cache_name(url), data)


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as answer:  # noqa: S310  # an https URL from the table
        data: bytes = answer.read()
        return data


def _construct(theirs: str, folder: Path) -> Tokenizer:
    with _cache_at(folder):
        try:
            parts: dict[str, Any] = import_module("tiktoken_ext.openai_public").ENCODING_CONSTRUCTORS[
                theirs
            ]()
        except ImportError as e:
            raise SpecError(
                f"tokenizer.name: loading {theirs} needs tiktoken, which is not installed here: pip install tiktoken"
            ) from e
    ranks: dict[bytes, int] = parts["mergeable_ranks"]
    tokens = [b""] * (max(ranks.values()) + 1)
    for token, rank in ranks.items():
        tokens[rank] = token
    return Tokenizer(tokens, parts["special_tokens"], parts["pat_str"])


@contextmanager
def _cache_at(folder: Path) -> Iterator[None]:
    """Point tiktoken at a folder that has all it will ask for."""
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
