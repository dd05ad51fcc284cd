from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.spec import DataSpec, TokenizerSpec
from trainer_daemon.engine.data.batches import Batches, as_tensors
from trainer_daemon.engine.data.order import RowOrder
from trainer_daemon.engine.data.prepare import prepare
from trainer_daemon.engine.data.rows import PADDING, ConcatRows, open_rows, plan_best_fit, plan_padded
from trainer_daemon.engine.data.shards import Prepared, Split, SplitWriter, split_meta

WORDS = ["ash", "birch", "cedar", "elm", "fir", "hazel", "juniper", "larch", "maple", "oak"]


@pytest.fixture(params=[100_000_000, 1000], ids=["one shard", "many shards"])
def prepared(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """1,500 documents of 1 to 60 words, in one shard or in many small ones."""
    monkeypatch.setattr("trainer_daemon.engine.data.writing.SHARD_TOKENS", request.param)
    monkeypatch.setattr("trainer_daemon.engine.data.encode.BATCH_CHARACTERS", 1000)
    rng = np.random.default_rng(0)
    with (tmp_path / "trees.jsonl").open("w") as file:
        for _ in range(1500):
            words = " ".join(rng.choice(WORDS, size=int(rng.integers(1, 60))))
            file.write(f'{{"text": "{words}"}}\n')
    data = DataSpec(source=str(tmp_path / "trees.jsonl"))
    return prepare(data, TokenizerSpec(vocab_size=300), tmp_path / "cache", lambda *_: None)


def documents(prepared: Prepared) -> list[list[int]]:
    starts = prepared.train.document_starts()
    return [prepared.train.read(a, b - a).tolist() for a, b in pairwise(starts.tolist())]


def test_concat_holds_every_token_once_as_a_target(prepared: Prepared) -> None:
    rows = open_rows(prepared.train, 64, "concat")
    whole = prepared.train.read(0, len(prepared.train))
    assert (len(whole) - 1) // 64 == len(rows)
    targets = np.concatenate([rows.row(i)[1:] for i in range(len(rows))])
    np.testing.assert_array_equal(targets, whole[1 : 1 + len(rows) * 64])
    np.testing.assert_array_equal(rows.row(3), whole[3 * 64 : 4 * 64 + 1])


def test_a_concat_row_has_its_last_target_too(tmp_path: Path) -> None:
    for tokens, expected in [(4, 0), (5, 1), (8, 1), (9, 2)]:
        writer = SplitWriter(tmp_path / str(tokens), "uint16")
        writer.add(np.arange(tokens, dtype=np.uint16), np.array([tokens]), tokens - 1)
        shard = writer.close_shard()
        assert shard is not None
        rows = ConcatRows(Split(tmp_path / str(tokens), split_meta((shard,), 0), "uint16"), 4)
        assert [rows.row(i).tolist() for i in range(len(rows))] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]][
            :expected
        ]


def test_a_best_fit_row_is_made_of_whole_documents_and_at_most_one_cropped_at_its_end(
    prepared: Prepared,
) -> None:
    rows = open_rows(prepared.train, 64, "bos-bestfit")
    whole = {tuple(document) for document in documents(prepared)}
    starts_of = {document[:k] for document in whole for k in range(1, len(document) + 1)}
    bos = prepared.tokenizer.bos_id
    for i in range(len(rows)):
        row = rows.row(i).tolist()
        assert len(row) == 65
        assert row[0] == bos
        cuts = [*(at for at, token in enumerate(row) if token == bos), 65]
        pieces = [tuple(row[a:b]) for a, b in pairwise(cuts)]
        assert all(piece in whole for piece in pieces[:-1])
        assert pieces[-1] in starts_of


def test_best_fit_takes_no_document_twice(prepared: Prepared) -> None:
    starts = prepared.train.document_starts()
    plan = plan_best_fit(starts, 65)
    assert len(set(plan[:, 0].tolist())) == len(plan)
    assert set(plan[:, 0].tolist()) <= set(starts[:-1].tolist())


def test_best_fit_takes_the_largest_that_fits_and_crops_the_shortest_when_none_does() -> None:
    #       lengths: 6, 3, 9, 4, 20 in rows of 10
    starts = np.array([0, 6, 9, 18, 22, 42])
    # 9 fits first; nothing fits in the 1 that is left, so the 3 is cropped to 1; then 6 + 4; the 20 is cropped to 10
    assert plan_best_fit(starts, 10).tolist() == [[9, 9], [6, 1], [0, 6], [18, 4], [22, 10]]


def test_a_last_row_that_cannot_be_filled_is_left_out() -> None:
    assert plan_best_fit(np.array([0, 6, 9]), 10).tolist() == []
    assert plan_best_fit(np.array([0, 10, 13]), 10).tolist() == [[0, 10]]


def test_the_fraction_dropped_is_what_no_row_holds(prepared: Prepared) -> None:
    rows = open_rows(prepared.train, 64, "bos-bestfit")
    assert rows.tokens_dropped == pytest.approx(1 - len(rows) * 65 / prepared.train.meta.tokens)
    assert 0 < rows.tokens_dropped < 0.4
    assert open_rows(prepared.train, 64, "concat").tokens_dropped < 0.01


@pytest.mark.parametrize("packing", ["concat", "bos-bestfit", "best-fit-padded"])
def test_rows_together_are_the_rows_one_by_one(prepared: Prepared, packing: str) -> None:
    rows = open_rows(prepared.train, 64, packing)  # type: ignore[arg-type]  # a parameter is a plain str
    np.testing.assert_array_equal(rows.rows([5, 0, 5]), [rows.row(5), rows.row(0), rows.row(5)])
    for i in (-1, len(rows)):
        with pytest.raises(IndexError, match="row"):
            rows.row(i)


def test_the_plan_is_made_once_and_made_again_when_its_file_is_damaged(prepared: Prepared) -> None:
    first = open_rows(prepared.train, 64, "bos-bestfit").rows(range(10))
    (plan,) = prepared.train.folder.glob("*.npy")
    made = plan.stat().st_mtime_ns
    np.testing.assert_array_equal(open_rows(prepared.train, 64, "bos-bestfit").rows(range(10)), first)
    assert plan.stat().st_mtime_ns == made
    plan.write_bytes(plan.read_bytes()[:100])
    np.testing.assert_array_equal(open_rows(prepared.train, 64, "bos-bestfit").rows(range(10)), first)
    assert plan.stat().st_size > 100
    assert len(list(prepared.train.folder.glob(".*"))) == 0


def test_too_little_text_for_one_row_is_refused(prepared: Prepared) -> None:
    with pytest.raises(SpecError, match=r"held_out has \d+ tokens in 15 documents.*lower model.sequence_len"):
        open_rows(prepared.held_out, 100_000, "bos-bestfit")


def test_micro_batches_of_all_ranks_are_the_same_rows_for_any_number_of_ranks(prepared: Prepared) -> None:
    rows = open_rows(prepared.train, 64, "bos-bestfit")

    def step(world_size: int, micro_batch_size: int) -> torch.Tensor:
        ranks = [
            Batches(
                rows,
                RowOrder(len(rows), 9),
                global_rows=12,
                micro_batch_size=micro_batch_size,
                rank=rank,
                world_size=world_size,
                device=torch.device("cpu"),
            )
            for rank in range(world_size)
        ]
        parts = []
        for batches in ranks:
            for inputs, targets, weight in batches.micro_batches(24):
                assert weight == pytest.approx(world_size * micro_batch_size / 12)
                assert inputs.dtype == targets.dtype == torch.int64
                assert inputs.shape == targets.shape == (micro_batch_size, 64)
                assert torch.equal(inputs[:, 1:], targets[:, :-1])
                parts.append(inputs)
        return torch.cat(parts)

    one = step(1, 12)
    for world_size, micro_batch_size in [(1, 4), (2, 6), (2, 2), (3, 4), (4, 1)]:
        assert torch.equal(step(world_size, micro_batch_size), one)


def padded_pieces(row: list[int], bos: int) -> list[tuple[int, ...]]:
    filled = [token for token in row if token != PADDING]
    assert row == filled + [PADDING] * (len(row) - len(filled))
    cuts = [*(at for at, token in enumerate(filled) if token == bos), len(filled)]
    return [tuple(filled[a:b]) for a, b in pairwise(cuts if cuts[0] == 0 else [0, *cuts])]


def test_padded_rows_hold_every_document_whole_and_each_target_once(prepared: Prepared) -> None:
    rows = open_rows(prepared.train, 64, "best-fit-padded")
    bos = prepared.tokenizer.bos_id
    whole = [tuple(document) for document in documents(prepared)]
    pieces = [piece for i in range(len(rows)) for piece in padded_pieces(rows.row(i).tolist(), bos)]
    short = sorted(document for document in whole if len(document) <= 65)
    assert short
    assert sorted(piece for piece in pieces if piece in set(short)) == short
    targets = sorted(token for piece in pieces for token in piece[1:])
    assert targets == sorted(token for document in whole for token in document[1:])
    assert rows.tokens_dropped == 0
    assert 0 < rows.padding < 0.1


def test_padding_counts_the_targets_there_are(prepared: Prepared) -> None:
    rows = open_rows(prepared.train, 64, "best-fit-padded")
    for numbers in ([0], range(len(rows)), [len(rows) - 1, 3]):
        _, targets = as_tensors(rows.rows(numbers), torch.device("cpu"))
        # of a row with n documents n - 1 targets are separators, which count
        assert rows.count_targets(numbers) == int((targets >= 0).sum())
    inputs, _ = as_tensors(rows.rows(range(len(rows))), torch.device("cpu"))
    assert int(inputs.min()) >= 0


def test_documents_longer_than_a_row_are_cut_where_pieces_share_a_token() -> None:
    # lengths 23, 4, 3 in rows of 10: windows of 10, 10 and 5 tokens open rows, a short one goes beside the last
    plan = plan_padded(np.array([0, 23, 27, 30]), 10)
    assert plan.tolist() == [[0, 10, 0], [9, 10, 1], [18, 5, 2], [23, 4, 2], [27, 3, 3]]
    # 12 and 13 leave windows of 3 and 4: neither stands behind the other
    assert plan_padded(np.array([0, 12, 25]), 10).tolist() == [[0, 10, 0], [9, 3, 1], [12, 10, 2], [21, 4, 3]]


@pytest.mark.parametrize("packing", ["concat", "bos-bestfit", "best-fit-padded"])
def test_micro_batches_weigh_what_makes_their_sum_the_mean_over_the_step(
    prepared: Prepared, packing: str
) -> None:
    rows = open_rows(prepared.train, 64, packing)  # type: ignore[arg-type]  # a parameter is a plain str

    def value(targets: torch.Tensor) -> torch.Tensor:
        return torch.where(targets < 0, 0, targets).double()

    def step(world_size: int, micro_batch_size: int) -> float:
        total = 0.0
        for rank in range(world_size):
            batches = Batches(
                rows,
                RowOrder(len(rows), 9),
                global_rows=12,
                micro_batch_size=micro_batch_size,
                rank=rank,
                world_size=world_size,
                device=torch.device("cpu"),
            )
            for _, targets, weight in batches.micro_batches(24):
                total += float(value(targets).sum() / (targets >= 0).sum()) * weight / world_size
        return total

    order = RowOrder(len(rows), 9).rows(24, 12)
    _, targets = as_tensors(rows.rows(order), torch.device("cpu"))
    expected = float(value(targets).sum() / (targets >= 0).sum())
    for world_size, micro_batch_size in [(1, 12), (1, 4), (2, 3), (3, 4), (4, 1)]:
        assert step(world_size, micro_batch_size) == pytest.approx(expected)


def test_what_was_read_ahead_is_used_only_where_it_belongs(prepared: Prepared) -> None:
    rows = open_rows(prepared.train, 64, "concat")

    def build() -> Batches:
        return Batches(
            rows,
            RowOrder(len(rows), 9),
            global_rows=8,
            micro_batch_size=4,
            rank=0,
            world_size=1,
            device=torch.device("cpu"),
        )

    def inputs(batches: Batches, samples_seen: int) -> torch.Tensor:
        return torch.cat([batch.inputs for batch in batches.micro_batches(samples_seen)])

    running = build()
    for samples_seen in (0, 8, 16, 8, 24, 24, 32):  # with a rollback and a repetition among them
        assert torch.equal(inputs(running, samples_seen), inputs(build(), samples_seen))
