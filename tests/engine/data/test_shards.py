import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from trainer_daemon.contract.errors import RefusedError, SpecError
from trainer_daemon.contract.spec import DataSpec, TokenizerSpec
from trainer_daemon.engine.data import encode, shards, writing
from trainer_daemon.engine.data import prepare as preparing
from trainer_daemon.engine.data.prepare import prepare
from trainer_daemon.engine.data.shards import Prepared, Split, SplitWriter, split_meta
from trainer_daemon.engine.data.stories import floor_bits_per_byte, story

TOKENIZER = TokenizerSpec(vocab_size=300)


def small_shards(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(writing, "SHARD_TOKENS", tokens)
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 500)


class Told:
    """Collects what prepare reports."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, int, int | None, str]] = []

    def __call__(self, *report: str | int | None) -> None:
        self.reports.append(report)  # type: ignore[arg-type]  # the order of the Progress signature

    @property
    def whats(self) -> list[str]:
        return list(dict.fromkeys(what for what, *_ in self.reports))


@pytest.fixture
def corpus(tmp_path: Path) -> DataSpec:
    """250 documents; 0, 100 and 200 are held out."""
    with (tmp_path / "corpus.jsonl").open("w") as file:
        for i in range(250):
            file.write(json.dumps({"text": f"This is document {i}, número {i}. " * (1 + i % 7)}) + "\n")
    return DataSpec(source=str(tmp_path / "corpus.jsonl"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def texts(prepared: Prepared, split: Split) -> list[str]:
    starts = split.document_starts().tolist()
    documents = [split.read(a, b - a).tolist() for a, b in pairwise(starts)]
    assert all(ids[0] == prepared.tokenizer.bos_id for ids in documents)
    return [prepared.tokenizer.decode(ids) for ids in documents]


def originals(corpus: DataSpec) -> list[str]:
    return [json.loads(line)["text"] for line in Path(str(corpus.source)).read_text().splitlines()]


@pytest.mark.parametrize("shard_tokens", [100_000_000, 500])
def test_shards_hold_the_documents_in_order_train_and_held_out_apart(
    corpus: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch, shard_tokens: int
) -> None:
    small_shards(monkeypatch, shard_tokens)
    prepared = prepare(corpus, TOKENIZER, cache, Told())
    all_texts = originals(corpus)
    assert texts(prepared, prepared.held_out) == all_texts[::100]
    assert texts(prepared, prepared.train) == [text for i, text in enumerate(all_texts) if i % 100]
    assert prepared.held_out.meta.text_bytes == sum(len(text.encode()) for text in all_texts[::100])
    assert prepared.train.meta.documents == 247
    assert (len(prepared.train.meta.shards) > 1) == (shard_tokens == 500)


def test_a_read_may_cross_shards(corpus: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 100)
    train = prepare(corpus, TOKENIZER, cache, Told()).train
    whole = np.concatenate([train.read(i, 1) for i in range(len(train))])
    np.testing.assert_array_equal(train.read(0, len(train)), whole)
    np.testing.assert_array_equal(train.read(77, 1000), whole[77:1077])
    with pytest.raises(IndexError):
        train.read(len(train) - 1, 2)


def test_the_files_are_as_their_format_says(corpus: DataSpec, cache: Path) -> None:
    prepared = prepare(corpus, TOKENIZER, cache, Told())
    folder = prepared.train.folder
    header = np.fromfile(folder / "000000.bin", "<i4", 256)
    assert header[:3].tolist() == [20240520, 1, len(prepared.train)]
    assert not header[3:].any()
    tokens = np.fromfile(folder / "000000.bin", "<u2", offset=1024)
    np.testing.assert_array_equal(tokens, prepared.train.read(0, len(prepared.train)))
    index = np.fromfile(folder / "000000.idx", "<u8")
    assert len(index) == 248
    assert index[-1] == len(tokens)
    assert set(tokens[index[:-1]].tolist()) == {prepared.tokenizer.bos_id}
    meta = json.loads((folder.parent / "meta.json").read_text())
    assert meta["tokenizer"] == prepared.tokenizer.content_hash
    assert meta["separator"] == {"id": prepared.tokenizer.bos_id, "side": "before"}


def test_a_vocabulary_over_65536_is_written_in_32_bits(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path / "wide", "uint32")
    writer.add(np.array([100_000, 7, 70_000], np.uint32), np.array([3]), 5)
    shard = writer.close_shard()
    assert shard is not None
    split = Split(tmp_path / "wide", split_meta((shard,), 5), "uint32")
    assert split.read(0, 3).tolist() == [100_000, 7, 70_000]
    assert np.fromfile(tmp_path / "wide" / "000000.bin", "<i4", 3).tolist() == [20240801, 7, 3]


def test_preparing_again_reuses_what_is_there_without_a_word(corpus: DataSpec, cache: Path) -> None:
    first = prepare(corpus, TOKENIZER, cache, Told())
    made = (first.train.folder / "000000.bin").stat().st_mtime_ns
    told = Told()
    again = prepare(corpus, TOKENIZER, cache, told)
    assert told.reports == []
    assert again.fingerprint == first.fingerprint
    assert again.tokenizer.content_hash == first.tokenizer.content_hash
    assert (again.train.folder / "000000.bin").stat().st_mtime_ns == made


def test_other_settings_or_other_text_are_prepared_apart(corpus: DataSpec, cache: Path) -> None:
    prints = {prepare(corpus, TOKENIZER, cache, Told()).fingerprint}
    prints.add(prepare(corpus, TokenizerSpec(vocab_size=280), cache, Told()).fingerprint)
    with Path(str(corpus.source)).open("a") as file:
        file.write('{"text": "One more."}\n')
    prints.add(prepare(corpus, TOKENIZER, cache, Told()).fingerprint)
    assert len(prints) == 3


def test_the_fingerprint_is_of_the_content_not_of_where_and_when(
    corpus: DataSpec, cache: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(str(corpus.source)).read_bytes())
    elsewhere = corpus.model_copy(update={"source": str(copy)})
    first, second = (prepare(data, TOKENIZER, cache, Told()) for data in (corpus, elsewhere))
    assert first.train.folder != second.train.folder
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("damage", ["tokens", "index"])
def test_shards_too_large_to_be_hashed_each_time_are_measured(
    corpus: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(shards, "HASHED_BYTES", 0)
    first = prepare(corpus, TOKENIZER, cache, Told())
    told = Told()
    prepare(corpus, TOKENIZER, cache, told)
    assert told.reports == []
    file = first.train.folder / ("000000.bin" if damage == "tokens" else "000000.idx")
    os.truncate(file, file.stat().st_size - 2)
    assert prepare(corpus, TOKENIZER, cache, told).fingerprint == first.fingerprint
    assert told.whats == ["writing tokens"]


@pytest.mark.parametrize("damage", ["flip", "cut", "no index", "no tokenizer", "other tokenizer", "no meta"])
def test_damaged_shards_are_made_anew(corpus: DataSpec, cache: Path, damage: str) -> None:
    first = prepare(corpus, TOKENIZER, cache, Told())
    tokens, tokenizer = first.train.folder / "000000.bin", first.folder / "tokenizer.json"
    match damage:
        case "flip":
            data = bytearray(tokens.read_bytes())
            data[2000] ^= 1
            tokens.write_bytes(data)
        case "cut":
            os.truncate(tokens, 3000)
        case "no index":
            tokens.with_suffix(".idx").unlink()
        case "no tokenizer":
            tokenizer.unlink()
        case "other tokenizer":
            prepare(corpus, TokenizerSpec(vocab_size=270), cache, Told()).tokenizer.save(tokenizer)
        case _:
            (tokens.parent.parent / "meta.json").unlink()
    told = Told()
    again = prepare(corpus, TOKENIZER, cache, told)
    assert "writing tokens" in told.whats
    assert again.fingerprint == first.fingerprint
    assert texts(again, again.train) == texts(first, again.train)


def test_what_an_interrupted_preparation_left_is_not_taken_for_shards(corpus: DataSpec, cache: Path) -> None:
    class PowerCutError(Exception):
        pass

    def cut(what: str, done: int, total: int | None, unit: str) -> None:
        if what == "writing tokens":
            raise PowerCutError

    with pytest.raises(PowerCutError):
        prepare(corpus, TOKENIZER, cache, cut)
    (tokenizer,) = (cache / "tokenizers").glob("*.json")
    draft = cache / "shards" / f".{tokenizer.stem}.partial" / "train"
    draft.mkdir(parents=True)  # as a killed process leaves it
    (draft / "000000.bin").write_bytes(b"half")
    told = Told()
    prepared = prepare(corpus, TOKENIZER, cache, told)
    assert "training the tokenizer" not in told.whats  # it was done, and is kept
    assert len(texts(prepared, prepared.train)) == 247
    assert sorted(p.name for p in (cache / "shards").iterdir()) == [f".{tokenizer.stem}.lock", tokenizer.stem]


def test_a_second_preparer_waits_for_the_first_and_takes_what_it_made(corpus: DataSpec, cache: Path) -> None:
    first_is_writing, second_is_waiting = threading.Event(), threading.Event()
    first_told, second_told = Told(), Told()
    results: list[Prepared] = []

    def tell_first(what: str, done: int, total: int | None, unit: str) -> None:
        first_told(what, done, total, unit)
        if what == "writing tokens":
            first_is_writing.set()
            assert second_is_waiting.wait(30)

    def tell_second(what: str, done: int, total: int | None, unit: str) -> None:
        second_told(what, done, total, unit)
        second_is_waiting.set()

    first, second = (
        threading.Thread(target=lambda tell=tell: results.append(prepare(corpus, TOKENIZER, cache, tell)))
        for tell in (tell_first, tell_second)
    )
    first.start()
    assert first_is_writing.wait(30)
    second.start()
    first.join(30)
    second.join(30)
    assert second_told.whats == ["waiting for another run that prepares this text"]
    assert results[0].fingerprint == results[1].fingerprint


def test_the_stories_are_prepared_with_their_floor(cache: Path) -> None:
    data = DataSpec(source="stories", stories=250, level=2, seed=3)
    told = Told()
    prepared = prepare(data, TokenizerSpec(vocab_size=500), cache, told)
    held_out, train = [0, 100, 200], [i for i in range(250) if i % 100]
    assert texts(prepared, prepared.held_out) == [story(3, i, 2).text for i in held_out]
    assert texts(prepared, prepared.train) == [story(3, i, 2).text for i in train]
    assert prepared.bits_per_byte_floor == floor_bits_per_byte(3, held_out, 2)
    assert told.reports[-1] == ("writing tokens", 250, 250, "stories")
    assert (
        prepare(data, TokenizerSpec(vocab_size=500), cache, told).bits_per_byte_floor
        == prepared.bits_per_byte_floor
    )


def test_progress_tells_each_stage_up_to_its_end(corpus: DataSpec, cache: Path) -> None:
    told = Told()
    prepare(corpus, TOKENIZER, cache, told)
    assert told.whats == ["reading text for the tokenizer", "training the tokenizer", "writing tokens"]
    size = Path(str(corpus.source)).stat().st_size
    assert told.reports[-1] == ("writing tokens", size, size, "bytes")


def test_a_corpus_too_large_to_keep_is_read_twice_to_the_same_effect(
    corpus: DataSpec, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = prepare(corpus, TOKENIZER, cache, Told())
    monkeypatch.setattr(preparing, "KEPT_CHARACTERS", 1000)
    assert prepare(corpus, TOKENIZER, tmp_path / "other", Told()).fingerprint == kept.fingerprint


def test_the_tokenizer_learns_from_the_first_of_the_training_text_only(
    corpus: DataSpec, cache: Path, tmp_path: Path
) -> None:
    prepared = prepare(corpus, TokenizerSpec(vocab_size=300, train_bytes=1000), cache, Told())
    path = Path(str(corpus.source))
    lines = path.read_text().splitlines()
    lines[0] = lines[100] = lines[249] = json.dumps(
        {"text": "zzz qqq " * 500}
    )  # held out, held out, and far on
    path.write_text("\n".join(lines))
    other = prepare(corpus, TokenizerSpec(vocab_size=300, train_bytes=1000), tmp_path / "other", Told())
    assert other.tokenizer.content_hash == prepared.tokenizer.content_hash
    assert other.fingerprint != prepared.fingerprint


def test_errors_in_the_text_are_told_as_they_are_and_leave_nothing_half_done(
    corpus: DataSpec, cache: Path
) -> None:
    with Path(str(corpus.source)).open("a") as file:
        file.write("{broken\n")
    with pytest.raises(SpecError, match=r"corpus\.jsonl:251 is not JSON"):
        prepare(corpus, TOKENIZER, cache, Told())
    assert [p.suffix for p in (cache / "shards").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_refused_and_one_that_can_be_read_will_do(
    corpus: DataSpec, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RefusedError, match=r"cannot write the token shards into .*LLMCTL_HOME"):
        prepare(corpus, TOKENIZER, tmp_path / "file", Told())
    prepare(corpus, TOKENIZER, cache, Told())
    next((cache / "shards").glob(".*.lock")).unlink()
    (cache / "shards").chmod(0o500)
    prepare(corpus, TOKENIZER, cache, Told())
    (cache / "shards").chmod(0o700)
    assert not list((cache / "shards").glob(".*.lock"))


class PowerCutError(Exception):
    """What a test raises from a progress report."""


def cut_after(written: int) -> Callable[[str, int, int | None, str], None]:
    """A report that interrupts the writing when so much of the corpus is written."""

    def report(what: str, done: int, total: int | None, unit: str) -> None:
        if what == "writing tokens" and done >= written:
            raise PowerCutError

    return report


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_an_interrupted_preparation_goes_on_from_its_last_whole_shard(
    corpus: DataSpec, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    small_shards(monkeypatch, 500)
    monkeypatch.setattr(preparing, "REPORT_SECONDS", 0)
    whole = prepare(corpus, TOKENIZER, tmp_path / "other", Told())
    with pytest.raises(PowerCutError):
        prepare(corpus, TOKENIZER, cache, cut_after(int(share * Path(str(corpus.source)).stat().st_size)))
    (draft,) = (cache / "shards").glob(".*.partial")
    kept = {p.name: p.stat().st_mtime_ns for p in (draft / "train").glob("*.idx")}
    assert kept
    told = Told()
    resumed = prepare(corpus, TOKENIZER, cache, told)
    assert "reading up to where it was interrupted" in told.whats
    assert resumed.fingerprint == whole.fingerprint
    assert resumed.train.meta == whole.train.meta
    assert {name: (resumed.train.folder / name).stat().st_mtime_ns for name in kept} == kept
    assert not list((cache / "shards").glob(".*.partial"))


def test_an_interrupted_preparation_of_a_text_that_changed_since_begins_anew(
    corpus: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 500)
    monkeypatch.setattr(preparing, "REPORT_SECONDS", 0)
    with pytest.raises(PowerCutError):
        prepare(corpus, TOKENIZER, cache, cut_after(20_000))
    with Path(str(corpus.source)).open("a") as file:
        file.write('{"text": "One more."}\n')
    told = Told()
    assert prepare(corpus, TOKENIZER, cache, told).train.meta.documents == 248
    assert "reading up to where it was interrupted" not in told.whats


@pytest.mark.slow
def test_processes_write_what_threads_write(
    corpus: DataSpec, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 500)
    in_threads = prepare(corpus, TOKENIZER, cache, Told(), workers=2)
    monkeypatch.setattr(writing, "PROCESSES_ABOVE_BYTES", 0)
    in_processes = prepare(corpus, TOKENIZER, tmp_path / "other", Told(), workers=2)
    assert in_processes.fingerprint == in_threads.fingerprint


def test_a_named_set_that_is_damaged_is_refused_with_the_file(corpus: DataSpec, cache: Path) -> None:
    made = prepare(corpus, TOKENIZER, cache, Told(), name="mine")
    named = DataSpec(source="mine")
    assert prepare(named, TOKENIZER, cache, Told()).fingerprint == made.fingerprint
    tokens = made.train.folder / "000000.bin"
    data = tokens.read_bytes()
    tokens.write_bytes(data[:-2])
    with pytest.raises(SpecError, match=rf"{tokens} is damaged: it has {len(data) - 2:,} bytes"):
        prepare(named, TOKENIZER, cache, Told())
    tokens.write_bytes(data[:2000] + b"x" + data[2001:])
    with pytest.raises(SpecError, match=rf"{tokens} or its \.idx is damaged"):
        prepare(named, TOKENIZER, cache, Told())
    tokens.write_bytes(data)
    meta = made.folder / "meta.json"
    stored = json.loads(meta.read_text())
    stored["splits"]["train"]["shards"] *= 2
    meta.write_text(json.dumps(stored))
    with pytest.raises(SpecError, match="names a shard twice"):
        prepare(named, TOKENIZER, cache, Told())


def test_a_set_of_another_tokenizer_is_refused(corpus: DataSpec, cache: Path) -> None:
    made = prepare(corpus, TOKENIZER, cache, Told(), name="mine")
    other = prepare(corpus, TokenizerSpec(vocab_size=270), cache, Told()).tokenizer
    other.save(cache / "tokenizers" / "other.json")
    named = DataSpec(source="mine")
    with pytest.raises(SpecError, match='with another tokenizer than "other"'):
        prepare(named, TokenizerSpec(name="other"), cache, Told())
    for data in named, corpus:
        assert prepare(data, TokenizerSpec(vocab_size=300, sha256=made.tokenizer.content_hash), cache, Told())
        with pytest.raises(SpecError, match=r"tokenizer\.sha256"):
            prepare(data, TokenizerSpec(vocab_size=300, sha256="0" * 64), cache, Told())


@pytest.mark.fault
def test_workers_of_a_preparer_that_is_killed_end_with_it(corpus: DataSpec, cache: Path) -> None:
    code = (
        "import multiprocessing, sys\n"
        "from pathlib import Path\n"
        "from trainer_daemon.contract.spec import DataSpec, TokenizerSpec\n"
        "from trainer_daemon.engine.data import prepare as preparing, writing\n"
        "writing.PROCESSES_ABOVE_BYTES = 0\n"
        "def report(what, *_):\n"
        "    if what == 'writing tokens':\n"
        "        print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "        sys.stdin.read()\n"
        f"preparing.prepare(DataSpec(source={corpus.source!r}), TokenizerSpec(vocab_size=300), Path({str(cache)!r}), report, workers=2)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as preparer:
        assert preparer.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in preparer.stdout.readline().split()]
        assert workers
        preparer.kill()
        _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
