"""Training on a corpus that is still being tokenized: the rows are those of one that was whole, wherever it is cut."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import Command, Evaluated, Event, Notice, TrainStep
from trainer_daemon.contract.spec import DataSpec, RunSpec, TokenizerSpec
from trainer_daemon.engine.data import encode, writing
from trainer_daemon.engine.data import prepare as preparing
from trainer_daemon.engine.data.live import LiveRows, WrittenSet
from trainer_daemon.engine.data.prepare import draft_of, prepare, set_place

TOKENIZER = TokenizerSpec(vocab_size=300)


def write_corpus(file: Path, documents: int = 400) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lines:
        for i in range(documents):
            lines.write(json.dumps({"text": f"This is document {i}, número {i}. " * (1 + i % 7)}) + "\n")
    return file


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few batches each, and each batch reported."""
    monkeypatch.setattr(preparing, "REPORT_SECONDS", 0)
    monkeypatch.setattr(writing, "SHARD_TOKENS", 3000)
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 500)


def quiet(*_: object) -> None:
    """Nobody watches."""


def live_rows(data: DataSpec, home: Path, **more: Any) -> LiveRows:
    place, key = set_place(data, TOKENIZER, home)
    written = WrittenSet(place, draft_of(place), key)
    return LiveRows(written, None, sequence_len=32, packing=data.packing, seed=3, **more)


def epochs_of(live: LiveRows, samples: int, at_a_time: int) -> list[list[int]]:
    """The rows of the first samples, as they are drawn in steps of `at_a_time`."""
    drawn = [live.rows(live.rows_of(i, at_a_time)).tolist() for i in range(0, samples, at_a_time)]
    return [row for part in drawn for row in part]


@pytest.mark.parametrize("packing", ["bos-bestfit", "concat", "best-fit-padded"])
def test_rows_come_shard_by_shard_each_once_an_epoch_in_whatever_batches(
    tmp_path: Path, packing: Any
) -> None:
    data = DataSpec(source=str(write_corpus(tmp_path / "corpus.jsonl")), packing=packing)
    made = prepare(data, TOKENIZER, tmp_path, quiet)
    assert len(made.train.meta.shards) > 4
    with live_rows(data, tmp_path) as live:
        assert live.epoch(0) is None
        draws = live.rows_of(0, 1).tolist()
        while live.epoch(0) is None:
            draws += live.rows_of(len(draws), 1).tolist()
        rows = len(live)
        assert sorted(live.rows_of(0, rows).tolist()) == list(range(rows))
        first_shard = live._counts[0]
        assert sorted(draws[:first_shard]) == list(range(first_shard))
        assert draws[:first_shard] != sorted(draws[:first_shard])
        second = live.rows_of(rows, rows).tolist()
        assert sorted(second) == list(range(rows))
        assert second != live.rows_of(0, rows).tolist()
        one_by_one, many = epochs_of(live, 60, 1), epochs_of(live, 60, 12)
        assert one_by_one == many


def test_rows_drawn_while_the_text_is_tokenized_are_those_of_a_whole_set(tmp_path: Path) -> None:
    data = DataSpec(source=str(write_corpus(tmp_path / "corpus.jsonl")))
    prepare(data, TOKENIZER, tmp_path / "whole", quiet)
    with live_rows(data, tmp_path / "whole") as live:
        wanted = epochs_of(live, 160, 8)
    may_go_on = threading.Semaphore(0)

    def step_by_step(what: str, *_: object) -> None:
        if what == "writing tokens":
            assert may_go_on.acquire(timeout=60)

    home = tmp_path / "home"
    preparer = threading.Thread(target=prepare, args=(data, TOKENIZER, home, step_by_step))
    with live_rows(data, home) as live:
        preparer.start()
        got: list[list[int]] = []
        while len(got) < 160:
            if live.is_ready(len(got), 8):
                got += live.rows(live.rows_of(len(got), 8)).tolist()
            else:
                may_go_on.release()
        assert preparer.is_alive()
        assert got == wanted
        may_go_on.release(10_000)
        preparer.join(60)


def with_validation(folder: Path) -> Path:
    write_corpus(folder / "train.jsonl")
    write_corpus(folder / "val.jsonl", 30)
    return folder


def live_spec(corpus: Path, *more: str) -> RunSpec:
    return tiny_spec(f'data.source="{corpus}"', "eval.every=5", "sample.every=off", *more)


def stop_at(step: int) -> Recorder:
    return Recorder({step: [Command("r1", "stop", {})]})


class Listening(Recorder):
    """Knows when notices with all of these words in them came."""

    def __init__(self, *words: str) -> None:
        super().__init__()
        self._missing = set(words)
        self.has_heard = threading.Event()

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, Notice):
            self._missing -= {words for words in self._missing if words in event.text}
            if not self._missing:
                self.has_heard.set()


@pytest.fixture
def tiny_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen shards a corpus: a run of twelve steps reads several."""
    monkeypatch.setattr(writing, "SHARD_TOKENS", 1200)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_shards")
@pytest.mark.parametrize("mode", ["window", "keep"])
def test_a_live_run_stopped_anywhere_goes_on_as_if_it_had_not_been(tmp_path: Path, mode: str) -> None:
    spec = live_spec(with_validation(tmp_path / "corpus"), f"data.live={mode}", "train.num_iterations=30")
    whole = Recorder()
    finished, _ = run_tiny(spec, tmp_path / "home", whole, tmp_path / "whole")
    assert finished.reason == "completed"
    assert whole.of(TrainStep)[0].epoch is None
    parts = [stop_at(4), stop_at(11), stop_at(20), Recorder()]
    for number, recorder in enumerate(parts):
        home = tmp_path / f"home {number % 2}" if mode == "keep" else tmp_path / "home"
        run_tiny(spec, home, recorder, tmp_path / "parts")
        if number == 1:  # a window that is lost is made again
            shutil.rmtree(tmp_path / "parts" / "live", ignore_errors=True)
    losses: dict[int, float | None] = {}
    for recorder in parts:
        losses |= recorder.losses
    assert losses == whole.losses
    scores = [e.val_bpb for recorder in parts for e in recorder.of(Evaluated)]
    assert {round(score, 9) for score in scores} == {round(e.val_bpb, 9) for e in whole.of(Evaluated)}
    if mode == "window":
        shards = {file.name for file in (tmp_path / "whole" / "live" / "train").glob("*.bin")}
        assert 0 < len(shards) <= 5


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_shards")
def test_training_waits_for_the_preparer_that_it_outruns_and_says_so(tmp_path: Path) -> None:
    spec = live_spec(with_validation(tmp_path / "corpus"), "data.live=keep")
    whole = Recorder()
    run_tiny(spec, tmp_path / "other", whole, tmp_path / "whole")

    seen = Listening("waits: training is ahead", "another process prepares this text")
    batches = 0

    def held_back(what: str, *_: object) -> None:
        nonlocal batches
        batches += what == "writing tokens"
        if batches > 16:  # those of the validation, and of a shard or two
            assert seen.has_heard.wait(100)

    home = tmp_path / "home"
    preparer = threading.Thread(target=prepare, args=(spec.data, spec.tokenizer, home, held_back))
    preparer.start()
    finished, _ = run_tiny(spec, home, seen, tmp_path / "live")
    preparer.join(100)
    assert finished.reason == "completed"
    assert seen.losses == whole.losses
    assert any(notice.text.endswith("are there: training goes on") for notice in seen.of(Notice))


HELD_BACK_PREPARER = """
import sys
from pathlib import Path
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.engine.data import encode, prepare, writing
writing.SHARD_TOKENS, encode.BATCH_CHARACTERS = int(sys.argv[3]), int(sys.argv[4])
prepare.REPORT_SECONDS = 0
batches = 0
def report(what, *_):
    global batches
    batches += what == "writing tokens"
    if batches == 17:
        print("held", flush=True)
        sys.stdin.read()
spec = RunSpec.model_validate_json(Path(sys.argv[1]).read_text())
prepare.prepare(spec.data, spec.tokenizer, Path(sys.argv[2]), report)
"""


@pytest.mark.fault
@pytest.mark.usefixtures("tiny_shards")
def test_a_run_whose_preparer_is_killed_says_so_and_tokenizes_the_rest(tmp_path: Path) -> None:
    spec = live_spec(with_validation(tmp_path / "corpus"), "data.live=keep")
    whole = Recorder()
    run_tiny(spec, tmp_path / "other", whole, tmp_path / "whole")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    home = tmp_path / "home"
    sizes = [str(size) for size in (writing.SHARD_TOKENS, encode.BATCH_CHARACTERS)]
    with subprocess.Popen(
        [sys.executable, "-c", HELD_BACK_PREPARER, str(tmp_path / "spec.json"), str(home), *sizes],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as preparer:
        assert preparer.stdout is not None
        assert preparer.stdout.readline() == "held\n"
        seen = Listening("waits: training is ahead", "another process prepares this text")

        def kill_it() -> None:
            assert seen.has_heard.wait(100)
            preparer.kill()

        killer = threading.Thread(target=kill_it)
        killer.start()
        finished, _ = run_tiny(spec, home, seen, tmp_path / "live")
        killer.join(100)
    assert finished.reason == "completed"
    assert any("ended before it was done" in notice.text for notice in seen.of(Notice))
    assert seen.losses == whole.losses


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_shards")
def test_bad_text_further_on_is_told_at_once_and_ends_the_run_where_rows_run_out(tmp_path: Path) -> None:
    folder = with_validation(tmp_path / "corpus")
    lines = (folder / "train.jsonl").read_text().splitlines()
    lines[350] = "{broken"
    (folder / "train.jsonl").write_text("\n".join(lines))
    spec = live_spec(folder, "data.live=window", "train.num_iterations=100", "tokenizer.train_bytes=3000")
    seen = Recorder()
    finished, job = run_tiny(spec, tmp_path / "home", seen, tmp_path / "run")
    assert finished.reason == "failed"
    assert f"{folder}/train.jsonl:351 is not JSON" in finished.message
    assert 0 < finished.step < 100
    assert job.saved_step == finished.step
    assert any("no more text will come" in notice.text for notice in seen.of(Notice))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_shards")
@pytest.mark.parametrize("mode", ["keep", "window"])
def test_a_live_run_whose_text_changed_is_refused_when_it_is_resumed(tmp_path: Path, mode: str) -> None:
    folder = with_validation(tmp_path / "corpus")
    spec = live_spec(folder, f"data.live={mode}")
    run_tiny(spec, tmp_path / "home", stop_at(5), tmp_path / "run")
    text = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(text.replace("document 3,", "document 4,"))
    with pytest.raises(LlmctlError, match="changed"):
        run_tiny(spec, tmp_path / "home", Recorder(), tmp_path / "run")
