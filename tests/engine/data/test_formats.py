"""Whatever file documents come in, they become the same ids; and a file that is not what it should be is refused by name."""

import gzip
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.engine.data.conftest import TEST_DATA, needs_tables, needs_test_data
from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.spec import DataSpec, TokenizerSpec
from trainer_daemon.engine.data.prepare import prepare
from trainer_daemon.engine.data.shards import Prepared, header
from trainer_daemon.engine.data.sources import find_files
from trainer_daemon.engine.data.tokenizer import Tokenizer

TEXTS = [f"Document {i}: naïve 中文 👩‍👧 <|bos|>, " + "word " * (i % 29) + "end." for i in range(250)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


@pytest.fixture
def named(tokenizer: Tokenizer, tmp_path: Path) -> TokenizerSpec:
    """The tokenizer by its path."""
    tokenizer.save(tmp_path / "mine.json")
    return TokenizerSpec(name=str(tmp_path / "mine.json"))


def ids_of(tokenizer: Tokenizer, side: str) -> list[int]:
    bos = [tokenizer.bos_id]
    parts = (tokenizer.encode(text) for text in TEXTS)
    return [i for ids in parts for i in (bos + ids if side == "before" else ids + bos)]


def jsonl_bytes() -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def write_plain(folder: Path, _: Tokenizer) -> None:
    (folder / "docs.jsonl").write_bytes(jsonl_bytes())


def write_gzip(folder: Path, _: Tokenizer) -> None:
    (folder / "docs.jsonl.gz").write_bytes(gzip.compress(jsonl_bytes()))


def write_zstd(folder: Path, _: Tokenizer) -> None:
    zstandard = pytest.importorskip("zstandard")
    lines = jsonl_bytes()
    middle = len(lines) // 2  # a dump is many frames, and lines do not care where they meet
    frames = [zstandard.ZstdCompressor().compress(part) for part in (lines[:middle], lines[middle:])]
    (folder / "docs.jsonl.zst").write_bytes(b"".join(frames))


def write_texts(folder: Path, _: Tokenizer) -> None:
    for i, text in enumerate(TEXTS):
        (folder / f"{i:03d}.txt").write_text(text + "\n")


def write_marked_text(folder: Path, _: Tokenizer) -> None:
    (folder / "all.txt").write_text("\n<|endoftext|>\n".join(TEXTS))


def write_parquet(folder: Path, _: Tokenizer) -> None:
    pq.write_table(pa.table({"text": TEXTS}), folder / "docs.parquet", row_group_size=64)


def write_hdf5(folder: Path, tokenizer: Tokenizer) -> None:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("tokens", data=np.array(ids_of(tokenizer, "after"), np.int32))


def write_chunked_hdf5(folder: Path, tokenizer: Tokenizer) -> None:
    with h5py.File(folder / "a.h5", "w") as file:
        ids = np.array(ids_of(tokenizer, "after"), np.int64)
        file.create_dataset("tokens", data=ids, chunks=(1000,), compression="gzip", maxshape=(None,))


def write_bare_bin(folder: Path, tokenizer: Tokenizer) -> None:
    np.array(ids_of(tokenizer, "after"), "<u2").tofile(folder / "all.bin")


def write_headered_bin(folder: Path, tokenizer: Tokenizer) -> None:
    ids = np.array(ids_of(tokenizer, "before"), "<u2")
    for number, part in enumerate(np.split(ids, [3333, 7000])):  # documents run on from shard to shard
        (folder / f"part_{number:06d}.bin").write_bytes(header("uint16", len(part)) + part.tobytes())


def write_wide_bin(folder: Path, tokenizer: Tokenizer) -> None:
    ids = np.array(ids_of(tokenizer, "before"), "<u4")
    (folder / "a.bin").write_bytes(header("uint32", len(ids)) + ids.tobytes())


@pytest.mark.parametrize(
    ("write", "separator"),
    [
        (write_gzip, None),
        (write_zstd, None),
        (write_texts, None),
        (write_marked_text, None),
        (write_parquet, None),
        (write_hdf5, "after"),
        (write_chunked_hdf5, "after"),
        (write_bare_bin, "after"),
        (write_headered_bin, "before"),
        (write_wide_bin, "before"),
    ],
)
def test_the_same_documents_are_the_same_ids_whatever_they_come_in(
    write: Callable[[Path, Tokenizer], None],
    separator: Any,
    tokenizer: Tokenizer,
    named: TokenizerSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer_daemon.engine.data.sources.token_files.BLOCK_TOKENS", 1234)
    monkeypatch.setattr("trainer_daemon.engine.data.sources.hdf5.BLOCK_TOKENS", 1234)
    for folder, writer in ("plain", write_plain), ("other", write):
        (tmp_path / folder).mkdir()
        writer(tmp_path / folder, tokenizer)

    def prepared(folder: str, **rules: Any) -> Prepared:
        data = DataSpec(source=str(tmp_path / folder), held_out="hundredth", **rules)
        return prepare(data, named, tmp_path / "home", lambda *_: None)

    plain, other = prepared("plain"), prepared("other", separator=separator)
    assert plain.train.meta.documents == 247
    assert other.fingerprint == plain.fingerprint
    assert other.train.meta.text_bytes == plain.train.meta.text_bytes


def test_ids_that_nothing_divides_are_cut_and_none_is_lost(named: TokenizerSpec, tmp_path: Path) -> None:
    ids = np.arange(3 * 4096 + 7) % 250
    ids.astype("<u2").tofile(tmp_path / "all.bin")
    data = DataSpec(source=str(tmp_path / "all.bin"), separator="none")
    prepared = prepare(data, named, tmp_path / "home", lambda *_: None)
    assert np.diff(prepared.held_out.document_starts()).tolist() == [4097]
    assert np.diff(prepared.train.document_starts()).tolist() == [4097, 4097, 8]


def test_files_named_as_validation_are_held_out_and_others_can_be_named(
    named: TokenizerSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in ("train", "one two"), ("val", "three"), ("spare", "four"), ("valve", "five"):
        ids = [*tokenizer.encode(text), tokenizer.bos_id]
        np.array(ids, "<u2").tofile(folder / f"{name}.bin")

    def held_out(rule: str) -> str:
        data = DataSpec(source=str(folder), separator="after", held_out=rule)
        split = prepare(data, named, tmp_path / "home", lambda *_: None).held_out
        return tokenizer.decode(split.read(0, len(split)).tolist())

    assert held_out("auto") == "three"
    assert held_out("last_file") == "five"
    assert held_out(str(folder / "spare.bin")) == "four"
    assert held_out(str(folder / "[sv]*.bin")) == "fourthreefive"


@pytest.fixture
def refusal(tmp_path: Path, named: TokenizerSpec) -> Callable[..., str]:
    """What is said of a source when it is prepared, after which nothing of it is left."""

    def refused(source: Path, tokenizer: TokenizerSpec = named, **rules: Any) -> str:
        data = DataSpec(source=str(source), **{"separator": "after", "held_out": "hundredth", **rules})
        with pytest.raises(SpecError) as e:
            prepare(data, tokenizer, tmp_path / "home", lambda *_: None)
        assert not [p for p in tmp_path.glob("home/shards/*") if not p.name.endswith(".lock")]
        return str(e.value)

    return refused


def test_a_damaged_or_wrong_file_of_ids_is_refused_with_its_name_and_place(
    refusal: Callable[..., str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    ids = np.array(ids_of(tokenizer, "after"), "<u2")
    file = tmp_path / "a.bin"

    ids.tofile(file)
    assert "does not begin with the separator" in refusal(file, separator="before")
    assert "side of each document" in refusal(file, separator=None)
    assert "holds ids; name the tokenizer" in refusal(file, tokenizer=TokenizerSpec())
    assert "beyond the tokenizer's last id" in refusal(file, separator_id=70_000)
    file.write_bytes(file.read_bytes() + b"x")
    assert f"{file} has {2 * len(ids) + 1:,} bytes, an odd number" in refusal(file)

    np.array(ids_of(tokenizer, "before"), "<u2").tofile(file)
    assert f"begins with the separator {tokenizer.bos_id}" in refusal(file)

    ids[3000] = 9999
    ids.tofile(file)
    assert f"{file} holds id 9999 as its token 3,000" in refusal(file)

    file.write_bytes(header("uint16", 500) + bytes(998))
    assert "its header says 500 ids, so 2,024 bytes, and it has 2,022" in refusal(file)

    file.write_bytes(b"")
    assert f"{file} holds no ids" in refusal(file)

    text = tmp_path / "b.jsonl"
    text.write_bytes(jsonl_bytes())
    file.write_bytes(b"12")
    assert "holds ids and b.jsonl holds text" in refusal(tmp_path / "[ab].*")


def test_a_damaged_or_wrong_hdf5_file_is_refused(refusal: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["ids"] = np.zeros(9, np.int32)
    assert 'has no dataset "tokens"; it has "ids"' in refusal(path)
    for wrong in (np.zeros((3, 3), np.int32), np.zeros(9)):
        with h5py.File(path, "w") as file:
            file["tokens"] = wrong
        assert "what is read is one row of ids" in refusal(path)
    with h5py.File(path, "w") as file:
        file["tokens"] = np.array([5, 6, -1] * 1000, np.int32)
    assert "holds id -1 as its token 2," in refusal(path)
    cut = tmp_path / "cut.h5"  # HDF5 would take the path above for the file it still has open
    cut.write_bytes(path.read_bytes()[:9000])
    assert "is not a readable HDF5 file" in refusal(cut)


def test_a_damaged_or_wrong_text_is_refused_with_its_name_and_place(
    refusal: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("ä".encode() * 70_000 + b"\xff")
    assert "at byte 140,000" in refusal(path)
    path.write_bytes("ä".encode() * 70_000 + b"\xc3")
    assert "at byte 140,000" in refusal(path)
    path.write_bytes("text".encode("utf-16"))
    assert "is not UTF-8" in refusal(path)
    path.write_bytes("text".encode("utf-16-le"))
    assert "NUL character at byte 1" in refusal(path)

    cut = tmp_path / "b.jsonl.gz"
    cut.write_bytes(gzip.compress(jsonl_bytes())[:700])
    assert f"{cut} ends in the middle, after line" in refusal(cut)
    cut.write_bytes(b"no gzip")
    assert "not a whole .gz" in refusal(cut)


def test_a_cut_zst_file_is_refused(refusal: Callable[..., str], tmp_path: Path) -> None:
    write_zstd(tmp_path, Tokenizer.train(["a"], 265))
    path = tmp_path / "docs.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} ends in the middle, after line" in refusal(path)
    path.write_bytes(b"no zstd")
    assert "not a readable .zst" in refusal(path)


EXTENSIONS = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".bin", ".h5")


def packed(lines: bytes, extension: str) -> bytes:
    if extension == ".jsonl.zst":
        return bytes(pytest.importorskip("zstandard").compress(lines))
    return gzip.compress(lines) if extension == ".jsonl.gz" else lines


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("content", [b"", bytes(range(256)) * 41 + b"z"], ids=["empty", "binary"])
def test_a_file_with_nothing_or_anything_in_it_is_refused_by_name(
    refusal: Callable[..., str], tmp_path: Path, extension: str, content: bytes
) -> None:
    path = tmp_path / f"a{extension}"
    path.write_bytes(content)
    said = refusal(path)
    assert said.startswith(f"data.source: {path}")
    assert "\n" not in said


@pytest.mark.parametrize("extension", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_line_that_is_no_utf_8_is_refused_with_its_number_and_byte(
    refusal: Callable[..., str], tmp_path: Path, extension: str
) -> None:
    path = tmp_path / f"a{extension}"
    good = '{"text": "naïve"}\n'.encode() * 3
    path.write_bytes(packed(good + b'{"text": "caf\xe9"}\n' + good, extension))
    assert f"{path}:4 is not UTF-8 text (invalid continuation byte at byte {len(good) + 13:,}" in refusal(
        path
    )


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc here")
@pytest.mark.parametrize("extension", [e for e in EXTENSIONS if e not in (".parquet", ".bin")])
def test_a_file_that_the_system_cannot_read_is_refused_with_the_systems_reason(
    refusal: Callable[..., str], tmp_path: Path, extension: str
) -> None:
    """The first page of memory, which no process has, is an input/output error to read; root, who may read all, included.
    Its size is 0, by which a .parquet and a .bin are refused before they are read."""
    path = tmp_path / f"a{extension}"
    path.symlink_to("/proc/self/mem")
    assert refusal(path) == f"data.source: cannot read {path}: Input/output error"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_file_that_nobody_may_read_is_refused_by_name(
    refusal: Callable[..., str], tmp_path: Path, extension: str
) -> None:
    path = tmp_path / f"a{extension}"
    path.write_bytes(jsonl_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("modes do not bind this user")
    assert refusal(path) == f"data.source: cannot read {path}: Permission denied"


def test_a_second_file_that_cannot_be_read_leaves_nothing_of_the_first(
    refusal: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(jsonl_bytes())
    (folder / "b.jsonl").write_bytes(jsonl_bytes() + b'{"text": "torn')
    assert f"{folder}/b.jsonl:251 is not JSON" in refusal(folder)


def test_the_same_documents_twice_are_refused(refusal: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(jsonl_bytes())
    (folder / "b.jsonl").symlink_to(folder / "a.jsonl")
    assert "the same documents twice" in refusal(folder)
    (folder / "b.jsonl").unlink()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(jsonl_bytes()))
    assert "the same documents twice" in refusal(folder)


def test_a_file_that_grows_while_it_is_read_is_refused(named: TokenizerSpec, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl_bytes())

    def grow(what: str, *_: object) -> None:
        with path.open("ab") as file:
            file.write(b'{"text": "one more"}\n')

    big = DataSpec(source=str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer_daemon.engine.data.encode.BATCH_CHARACTERS", 100)
        with pytest.raises(SpecError, match="changed while it was read"):
            prepare(big, named, tmp_path / "home", grow)


FIXTURES = TEST_DATA / "fixtures"
OF_IDS = {
    "hdf5": (f"data.source={FIXTURES}/pile_*.h5", "data.separator=after"),
    "bare bin": (f"data.source={FIXTURES}/nanogpt_bin", "data.separator=after"),
    "headered bin": (f"data.source={FIXTURES}/fineweb_bin", "data.separator=before"),
}
OF_TEXT = {
    "jsonl": (f"data.source={FIXTURES}/docs.jsonl", f"data.held_out={FIXTURES}/docs_val.jsonl"),
    "long jsonl": (f"data.source={FIXTURES}/pile_sample.jsonl",),
    "zst": (f"data.source={FIXTURES}/pile_sample.jsonl.zst",),
    "parquet": (f"data.source={FIXTURES}/parquet",),
}


@pytest.fixture(scope="module")
def fixtures_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@needs_test_data
def test_no_real_file_is_left_out_of_those_that_train(tmp_path: Path) -> None:
    paths = [
        rule.partition("=")[2] for rules in {**OF_IDS, **OF_TEXT}.values() for rule in rules if "/" in rule
    ]
    read = {file for path in paths for file in find_files(path, tmp_path)}
    assert read == set(find_files(str(FIXTURES), tmp_path))


@needs_test_data
@needs_tables
@pytest.mark.slow
@pytest.mark.parametrize("name", [*OF_IDS, *OF_TEXT])
def test_real_files_of_every_format_train(
    name: str, fixtures_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "zst":
        pytest.importorskip("zstandard")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TEST_DATA / "tiktoken_cache"))
    seen = Recorder()
    spec = tiny_spec(
        *({**OF_IDS, **OF_TEXT}[name]),
        "tokenizer.name=gpt2",
        "train.num_iterations=3",
        "eval.every=3",
        "sample.every=9",
    )
    finished, job = run_tiny(spec, fixtures_home, seen, tmp_path)
    assert finished.reason == "completed"
    losses = [loss for loss in seen.losses.values() if loss is not None]
    assert losses[-1] < losses[0] == pytest.approx(np.log(50257), rel=0.01)
    assert job.tokenizer.vocab_size == 50257


@needs_test_data
@needs_tables
@pytest.mark.slow
def test_real_files_of_ids_hold_one_stream_and_it_is_that_of_their_texts(
    fixtures_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TEST_DATA / "tiktoken_cache"))
    sets = []
    for rules in OF_IDS.values():
        spec = tiny_spec(*rules, "tokenizer.name=gpt2")
        sets.append(prepare(spec.data, spec.tokenizer, fixtures_home, lambda *_: None))
    assert len({s.fingerprint for s in sets}) == 1
    known = {
        json.loads(line)["text"]
        for name in ("docs", "docs_val")
        for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()
    }
    for split in sets[0].train, sets[0].held_out:
        starts = split.document_starts().tolist()
        for a, b in pairwise(starts[:200]):
            ids = split.read(a, b - a).tolist()
            text = sets[0].tokenizer.decode(ids)
            assert text in known
            assert sets[0].tokenizer.encode(text) == ids[1:]
