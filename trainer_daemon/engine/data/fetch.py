"""Public corpora by name, through huggingface_hub: what there is, what it would cost, and getting as much as is wanted.

A file appears in its place whole and with the hash that the hub tells, or not at all: huggingface_hub writes beside it,
goes on where a connection broke, and renames. What is there already is not fetched again.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from trainer_daemon.contract.errors import LlmctlError, RefusedError, SpecError, did_you_mean


@dataclass(frozen=True, slots=True)
class Named:
    """A corpus on the hub."""

    repository: str
    summary: str
    train: str
    """Glob of its training files; taken from the first on."""
    held_out: str
    """Glob of its validation file, always fetched; or "last" for the last training file."""
    tokens_per_byte: float
    """Rough GPT-2 tokens in a stored, mostly compressed, byte: what a wish in tokens is translated with."""


CORPORA: dict[str, Named] = {
    "tinystories": Named(
        "roneneldan/TinyStories",
        "2.1M small stories by GPT-4; 2.2 GB of text",
        "TinyStoriesV2-GPT4-train.txt",
        "TinyStoriesV2-GPT4-valid.txt",
        0.25,
    ),
    "climbmix": Named(
        "karpathy/climbmix-400b-shuffle",
        "the web text of nanochat, shuffled, 6,543 shards of about 100 MB",
        "shard_*.parquet",
        "last",
        0.55,
    ),
    "fineweb-edu": Named(
        "karpathy/fineweb-edu-100b-shuffle",
        "educational web text, shuffled, 1,823 shards of about 100 MB",
        "shard_*.parquet",
        "last",
        0.55,
    ),
    "pile": Named(
        "monology/pile-uncopyrighted",
        "the Pile without its copyrighted parts, 30 files of .jsonl.zst",
        "train/*.jsonl.zst",
        "val.jsonl.zst",
        0.55,
    ),
}


RETRY_SECONDS = (1, 2, 4, 8)
"""Waits before a file is asked for again. The library goes on by itself where a connection broke, but gives up a file at
the hub's first 503."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub."""

    path: str
    size: int
    sha256: str | None
    """None where the hub does not tell it, for small files."""


def find_corpus(name: str) -> Named:
    """Raises SpecError with the nearest name."""
    if name not in CORPORA:
        raise SpecError(
            f'no corpus is called "{name}"{did_you_mean(name, CORPORA)}; there are: {", ".join(CORPORA)}'
        )
    return CORPORA[name]


def choose_files(corpus: Named, there: list[RemoteFile], tokens: float | None) -> list[RemoteFile]:
    """The validation file and, in order, as many training files as hold about so many tokens; None: all.

    Raises SpecError when the repository has not the files that it used to have.
    """
    train = sorted((f for f in there if fnmatch(f.path, corpus.train)), key=lambda f: f.path)
    held_out = [train.pop()] if corpus.held_out == "last" and train else []
    held_out += [f for f in there if fnmatch(f.path, corpus.held_out)]
    if not (train and held_out):
        raise SpecError(f"{corpus.repository} no longer has the files {corpus.train} and {corpus.held_out}")
    chosen: list[RemoteFile] = []
    held = 0.0
    for file in train:
        if tokens is not None and held >= tokens:
            break
        chosen.append(file)
        held += file.size * corpus.tokens_per_byte
    return [*held_out, *chosen]


def list_files(corpus: Named) -> list[RemoteFile]:
    """Everything in the corpus's repository. Raises RefusedError without a network, SpecError without huggingface_hub."""
    with _hub(corpus.repository) as hub:
        tree = hub.HfApi().list_repo_tree(corpus.repository, repo_type="dataset", recursive=True)
        return [
            RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if isinstance(entry, hub.hf_api.RepoFile)
        ]


def is_there(file: RemoteFile, folder: Path) -> bool:
    """Whether the file was fetched before, by its size."""
    try:
        return (folder / file.path).stat().st_size == file.size
    except OSError:
        return False


def fetch_files(
    corpus: Named,
    files: list[RemoteFile],
    folder: Path,
    report: Callable[[RemoteFile], None],
    warn: Callable[[str], None],
    *,
    bars: bool,
) -> None:
    """Fetch what is not there yet, one file after the other, asking again for one that failed to come.

    Raises RefusedError when the disk fails, or the network after all attempts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not is_there(file, folder):
            with _hub(corpus.repository) as hub:
                if not bars:
                    hub.utils.disable_progress_bars()
                _download(hub, corpus.repository, file, folder, warn)
            _check(folder / file.path, file)
        report(file)


def _download(hub: Any, repository: str, file: RemoteFile, folder: Path, warn: Callable[[str], None]) -> None:
    """Raises what the library raises, the last time."""
    for wait in (*RETRY_SECONDS, None):
        try:
            hub.hf_hub_download(repository, file.path, repo_type="dataset", local_dir=folder)
            return
        except Exception as e:  # the classes of whichever HTTP client the library was built with
            if wait is None or not _may_pass(e):
                raise
            warn(f"{file.path} did not come ({str(e).splitlines()[0][:200]}); asking again in {wait} s")
            time.sleep(wait)


def _may_pass(e: Exception) -> bool:
    """Whether the same request can have another answer: not where the hub refuses it, or the disk what came."""
    if isinstance(e, OSError) and e.errno is not None:
        return e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
    status = getattr(getattr(e, "response", None), "status_code", None)
    return status is None or status >= 500 or status in (408, 429)


def _check(path: Path, file: RemoteFile) -> None:
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    if path.stat().st_size != file.size or (file.sha256 and digest.hexdigest() != file.sha256):
        path.unlink()
        raise RefusedError(f"{file.path} did not arrive as the hub has it, and was removed; fetch it again")


@contextmanager
def _hub(repository: str) -> Iterator[Any]:
    try:
        import huggingface_hub
        import huggingface_hub.hf_api
        import huggingface_hub.utils
    except ImportError as e:
        raise SpecError(
            "fetching needs huggingface_hub, which is not installed here: pip install 'llmctl[hub]'"
        ) from e
    try:
        yield huggingface_hub
    except LlmctlError:
        raise
    except Exception as e:  # the library passes on the classes of whichever HTTP client it was built with
        raise RefusedError(
            f"cannot fetch {repository} from the Hugging Face hub ({type(e).__name__}: {e}). Is there a network? What is "
            f"fetched is kept: try again, or copy the files here from a machine that has one (HF_ENDPOINT names a mirror)"
        ) from e
