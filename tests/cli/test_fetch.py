"""`data fetch` against a hub of our own on loopback: the real client, whole files, no network."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.data import parse_count
from tests.cli.conftest import PROGRAM, Llmctl, Result
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.fetch import CORPORA, RemoteFile, choose_files

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

STORIES = CORPORA["tinystories"]
FILES = {
    STORIES.train: b"Once.\n<|endoftext|>\nTwice.\n" * 50,
    STORIES.held_out: b"Thrice.\n" * 20,
    "README.md": b"hello",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as the client asks for."""

    files = FILES
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/datasets/{STORIES.repository}/tree/main"):
            listed = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": "0" * 40,
                    "lfs": {"oid": sha256(FILES[name]).hexdigest(), "size": len(data), "pointerSize": 1},
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


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(30)
    server.server_close()


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
