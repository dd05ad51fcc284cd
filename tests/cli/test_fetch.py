"""`data fetch` against a hub of our own on loopback: the real client, whole files, no network."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from cli.data import parse_count
from tests.cli.conftest import PROGRAM, Llmctl, Result
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.fetch import CORPORA, RemoteFile, choose_files

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

STORIES, CLIMBMIX = CORPORA["tinystories"], CORPORA["climbmix"]
FILES = {
    STORIES.train: b"Once.\n<|endoftext|>\nTwice.\n" * 50,
    STORIES.held_out: b"Thrice.\n" * 20,
    "README.md": b"hello",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as the client asks for."""

    repository = STORIES.repository
    files: ClassVar[dict[str, bytes]] = FILES
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/datasets/{self.repository}/tree/main"):
            listed = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": "0" * 40,
                    "lfs": {
                        "oid": sha256(FILES.get(name, data)).hexdigest(),
                        "size": len(data),
                        "pointerSize": 1,
                    },
                }
                for name, data in self.files.items()
            ]
            self.answer(json.dumps(listed).encode(), "application/json")
        else:
            self.answer(self.files[path.rpartition("/")[2]], "text/plain")

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name for it
        """Nobody reads it."""


@contextmanager
def serving(kind: type[Hub]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


@pytest.fixture
def hub() -> Iterator[str]:
    with serving(Hub) as address:
        yield address


def fetch(*arguments: str, **environment: str) -> Result:
    """The program, since the client reads its settings when it is imported."""
    done = subprocess.run(
        [PROGRAM, "data", "fetch", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_a_corpus_is_fetched_whole_once_and_only_when_it_is_said(
    hub: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fetch("tinystories", HF_ENDPOINT=hub)
    assert asked.code == 2
    assert "say --yes" in asked.err
    assert not (home / "data").exists()

    fetched = fetch("tinystories", "--yes", HF_ENDPOINT=hub)
    assert fetched.code == 0, fetched.err
    folder = home / "data" / "tinystories"
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == {
        name: data for name, data in FILES.items() if name != "README.md"
    }
    again = fetch("tinystories", "--json", HF_ENDPOINT=hub)  # nothing is missing, so nothing is asked
    assert json.loads(again.out)["path"] == str(folder)

    (folder / STORIES.held_out).unlink()
    monkeypatch.setattr(Hub, "files", {**FILES, STORIES.held_out: b"?" * len(FILES[STORIES.held_out])})
    wrong = fetch("tinystories", "--yes", HF_ENDPOINT=hub)
    assert wrong.code == 6
    assert "did not arrive as the hub has it" in wrong.err
    assert not (folder / STORIES.held_out).exists()


class ShakyHub(Hub):
    """Has no time for the first to ask for anything, and cuts the first answer with a file short."""

    repository = CLIMBMIX.repository
    files: ClassVar[dict[str, bytes]] = {
        "shard_00000.parquet": b"abcdefg" * 3_500_000,
        "shard_00001.parquet": b"small",
    }
    asked: ClassVar[set[str]] = set()
    served_from: ClassVar[dict[str, int]] = {}
    """The offset at which the answer began that was not cut short, of each file."""

    def do_GET(self) -> None:
        what = f"{self.command} {self.path.partition('?')[0]}"
        if what not in self.asked:
            self.asked.add(what)
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()

    def answer(self, body: bytes, kind: str) -> None:
        cut = f"cut {self.path}"
        if self.command == "HEAD" or "/tree/" in self.path:
            super().answer(body, kind)
        elif cut not in self.asked:
            self.asked.add(cut)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            self.served_from[self.path.rpartition("/")[2]] = first
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body) - first))
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            self.wfile.write(body[first:])


@pytest.mark.slow
def test_a_hub_that_refuses_at_first_and_breaks_off_is_asked_again_for_what_lacks(home: Path) -> None:
    with serving(ShakyHub) as hub:
        fetched = fetch("climbmix", "--yes", HF_ENDPOINT=hub)
    assert fetched.code == 0, fetched.err
    assert "asking again in 1 s" in fetched.err
    folder = home / "data" / "climbmix"
    assert {p.name: p.read_bytes() for p in folder.glob("*.parquet")} == ShakyHub.files
    # the client keeps whole blocks of 10 MB
    assert {name: first > 0 for name, first in ShakyHub.served_from.items()} == {
        "shard_00000.parquet": True,
        "shard_00001.parquet": False,
    }


@pytest.mark.slow
def test_tokens_fetch_the_first_files_and_a_second_time_only_more(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {f"shard_{i:05d}.parquet": bytes([i]) * 1000 for i in range(6)}
    monkeypatch.setattr(Hub, "files", shards)
    monkeypatch.setattr(Hub, "repository", CLIMBMIX.repository)
    folder = home / "data" / "climbmix"
    with serving(Hub) as hub:
        assert fetch("climbmix", "--tokens", "1k", "--yes", HF_ENDPOINT=hub).code == 0
        assert sorted(p.name[6:11] for p in folder.glob("*.parquet")) == ["00000", "00001", "00005"]
        more = fetch("climbmix", "--tokens", "1.6K", "--yes", HF_ENDPOINT=hub)
        assert more.code == 0, more.err
    assert {p.name: p.read_bytes() for p in folder.glob("*.parquet")} == {
        name: data for name, data in shards.items() if name[10] in "0125"
    }


@pytest.mark.slow
def test_without_a_network_it_says_so(home: Path) -> None:
    refused = fetch("climbmix", "--yes", HF_HUB_OFFLINE="1")
    assert refused.code == 6
    assert "Is there a network?" in refused.err
    assert not (home / "data").exists()


def test_an_unknown_corpus_is_refused_and_the_known_are_listed(llmctl: Llmctl) -> None:
    assert 'did you mean "climbmix"' in llmctl("data", "fetch", "climbmicks").err
    shown = llmctl("data", "fetch")
    assert all(name in shown.out for name in CORPORA)


def test_a_part_is_the_first_files_and_always_the_validation() -> None:
    there = [RemoteFile(f"shard_{i:05d}.parquet", 100_000_000, None) for i in range(10)]
    corpus = CORPORA["climbmix"]
    assert [f.path[6:11] for f in choose_files(corpus, there, 100e6)] == ["00009", "00000", "00001"]
    assert len(choose_files(corpus, there, None)) == 10
    with pytest.raises(SpecError, match="no longer has"):
        choose_files(corpus, there[:1], None)


@pytest.mark.parametrize(("text", "value"), [("6B", 6e9), ("1.5m", 1.5e6), ("500", 500), ("20k", 2e4)])
def test_a_count_has_the_units_people_use(text: str, value: float) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["", "B", "six", "-1M", "nan", "infB"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--tokens takes a number"):
        parse_count(text)
