"""A thinned history shows the course of a long run and keeps every event that is not a step."""

from pathlib import Path

import pytest

from tests.cli.conftest import train_step
from trainer_daemon.contract import history as history_module
from trainer_daemon.contract import journal as journal_module
from trainer_daemon.contract.events import Evaluated, Notice, RanksPaced, SystemSampled, TrainStep
from trainer_daemon.contract.history import STEPS_PER_GROUP, read_history, thin_history
from trainer_daemon.contract.journal import JournalWriter, read_all, segments

STEPS = 2000
SPIKES = {333: 50.0, 700: float("nan")}


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A long run in small segments, with two spikes, an evaluation every 500 steps, and another stream beside it."""
    from dataclasses import replace

    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 100_000)
    with JournalWriter(tmp_path, "train", 1) as train, JournalWriter(tmp_path, "daemon", 1) as daemon:
        for step in range(1, STEPS + 1):
            train.append(replace(train_step(step), loss_nats=SPIKES.get(step, 5.0 - step / STEPS)))
            if step % 500 == 0:
                train.append(Evaluated(step, 1.0, 3.0, 640, 0.1))
                daemon.append(Notice("info", str(step)))
    assert len(segments(tmp_path, "train")) > 4
    return tmp_path


def steps_of(journal: Path) -> list[int]:
    return [r.event.step for r in read_history(journal) if isinstance(r.event, TrainStep)]


def test_a_long_history_keeps_few_steps_every_spike_and_all_else(journal: Path) -> None:
    records = list(read_history(journal))
    steps = [r.event.step for r in records if isinstance(r.event, TrainStep)]
    open_steps = segments(journal, "train")[-1].read_bytes().count(b"\n")
    assert len(steps) < 3 * STEPS / STEPS_PER_GROUP + open_steps + 2 * len(segments(journal, "train"))
    assert set(SPIKES) <= set(steps)
    assert steps == sorted(steps)
    assert steps[-1] == STEPS
    others = [(r.stream, r.seq) for r in read_all(journal) if not isinstance(r.event, TrainStep)]
    assert [(r.stream, r.seq) for r in records if not isinstance(r.event, TrainStep)] == others
    whole = {(r.stream, r.seq): r for r in read_all(journal)}
    assert all(whole[r.stream, r.seq] == r for r in records), "what is kept is what was written"


def test_the_segment_being_written_is_thinned_but_for_its_newest_part(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_bytes, piece_bytes = 20_000, 15_000
    monkeypatch.setattr(history_module, "WHOLE_BYTES", whole_bytes)
    monkeypatch.setattr(history_module, "PIECE_BYTES", piece_bytes)
    newest = segments(journal, "train")[-1].read_bytes()
    assert len(newest) > whole_bytes + 2 * piece_bytes
    lines = newest.splitlines(keepends=True)
    per_line = max(map(len, lines))
    steps = steps_of(journal)
    tail = list(range(STEPS - whole_bytes // per_line + 1, STEPS + 1))
    assert steps[-len(tail) :] == tail, "the newest steps are all there"
    first = STEPS + 1 - len(lines)
    newest_lines = (whole_bytes + piece_bytes) // min(map(len, lines)) + 2
    older = [step for step in steps if first <= step <= STEPS - newest_lines]
    pieces = len(newest) // piece_bytes
    assert len(older) < 3 * len(lines) / STEPS_PER_GROUP + 2 * pieces
    others = [(r.stream, r.seq) for r in read_all(journal) if not isinstance(r.event, TrainStep)]
    read = [(r.stream, r.seq) for r in read_history(journal) if not isinstance(r.event, TrainStep)]
    assert read == others


def test_looks_at_ranks_and_machine_are_thinned_too_and_thin_no_step_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 100_000)
    monkeypatch.setattr(history_module, "WHOLE_BYTES", 20_000)
    monkeypatch.setattr(history_module, "PIECE_BYTES", 100_000)
    with JournalWriter(tmp_path, "train", 1) as train, JournalWriter(tmp_path, "system", 1) as system:
        for step in range(1, STEPS + 1):
            train.append(train_step(step))
            if step % 50 == 0:
                train.append(RanksPaced(step, 50, [0.1], [0.2]))
            system.append(SystemSampled(1.0, 2, 0.5, step, 2 * step, [], []))
    kept = list(read_history(tmp_path))
    steps = [r.event.step for r in kept if isinstance(r.event, TrainStep)]
    paces = [r.event.step for r in kept if isinstance(r.event, RanksPaced)]
    looks = [r.event.memory_bytes or 0 for r in kept if isinstance(r.event, SystemSampled)]
    open_steps = segments(tmp_path, "train")[-1].read_bytes().count(b"train_step")
    assert len(steps) < 3 * STEPS / STEPS_PER_GROUP + open_steps + 2 * len(segments(tmp_path, "train"))
    assert len(paces) < STEPS / 50 / 2
    assert len(looks) < STEPS / 4
    for numbers in (steps, paces, looks):
        assert numbers == sorted(numbers)
        assert numbers[-1] == STEPS


def test_a_watcher_that_goes_on_behind_a_thinned_history_misses_nothing(journal: Path) -> None:
    cursors: dict[str, int] = {record.stream: record.seq for record in read_history(journal)}
    assert list(read_all(journal, cursors)) == []
    with JournalWriter(journal, "train", 2) as train:
        train.append(Notice("info", "next"))
    assert [r.event for r in read_all(journal, cursors)] == [Notice("info", "next")]


def test_it_is_made_once_and_made_again_when_it_is_damaged(journal: Path) -> None:
    first = steps_of(journal)
    files = sorted((journal / "history").iterdir())
    assert len(files) == len(segments(journal, "train")) - 1
    made = [f.stat().st_ino for f in files]
    assert steps_of(journal) == first
    assert [f.stat().st_ino for f in files] == made
    files[0].write_bytes(files[0].read_bytes()[:-20])
    files[1].write_bytes(b"")
    assert steps_of(journal) == first
    assert [f.stat().st_ino for f in files] != made
    files[2].unlink()
    thin_history(journal)
    assert files[2].exists()


def test_a_run_in_progress_is_thinned_piece_by_piece_and_each_line_is_in_one_of_them(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "PIECE_BYTES", 7_000)
    monkeypatch.setattr(history_module, "WHOLE_BYTES", 0)
    monkeypatch.setattr(history_module, "STEPS_PER_GROUP", 1)  # thins nothing
    thin_history(journal, most=3)
    assert len(list((journal / "history").iterdir())) == 3
    thin_history(journal)
    first, *_, last = segments(journal, "train")
    pieces = sorted((journal / "history").glob(f"{first.stem}*"))
    assert len(pieces) == -(-first.stat().st_size // 7_000)
    assert b"".join(piece.read_bytes() for piece in pieces) == first.read_bytes()
    of_open = sorted((journal / "history").glob(f"{last.stem}*"))
    assert len(of_open) == last.stat().st_size // 7_000
    assert last.read_bytes().startswith(b"".join(piece.read_bytes() for piece in of_open))
    assert steps_of(journal) == list(range(1, STEPS + 1))


def test_where_it_cannot_be_written_the_history_is_read_all_the_same(journal: Path) -> None:
    (journal / "history").write_text("in the way")
    assert set(SPIKES) <= set(steps_of(journal))
    assert (journal / "history").read_text() == "in the way"


def test_a_short_history_is_whole(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, "train", 1) as train:
        for step in range(1, 301):
            train.append(train_step(step))
    assert steps_of(tmp_path) == list(range(1, 301))
    assert not (tmp_path / "history").exists()
