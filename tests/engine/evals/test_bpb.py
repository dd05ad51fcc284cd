import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer_daemon.contract.spec import DataSpec, TokenizerSpec
from trainer_daemon.engine.data.prepare import prepare
from trainer_daemon.engine.data.rows import Rows, open_rows
from trainer_daemon.engine.data.shards import Prepared
from trainer_daemon.engine.evals.bpb import BpbResult, bits_per_byte, evaluated_rows, held_out_sums

T = 32


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("bpb")
    lines = [f'{{"text": "Line {i}: {"über " * (i % 23)}end."}}' for i in range(3000)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    data = DataSpec(source=str(folder / "a.jsonl"))
    return prepare(data, TokenizerSpec(vocab_size=300), folder / "cache", lambda *_: None)


@pytest.fixture(scope="module")
def rows(prepared: Prepared) -> Rows:
    return open_rows(prepared.held_out, T, "bos-bestfit")


@pytest.fixture(scope="module")
def token_bytes(prepared: Prepared) -> Tensor:
    return torch.from_numpy(prepared.tokenizer.token_byte_lengths())


def loss_by_id(inputs: Tensor, targets: Tensor) -> Tensor:
    """A model whose loss is of its own for every pair of ids."""
    return torch.sin(inputs * 1.7 + targets).abs().view(-1) + 0.1


def run(
    loss: Callable[[Tensor, Tensor], Tensor],
    rows: Rows,
    token_bytes: Tensor,
    *,
    max_tokens: int = 10**9,
    batch_rows: int = 8,
    world_size: int = 1,
) -> BpbResult:
    parts = evaluated_rows(rows, max_tokens=max_tokens, batch_rows=batch_rows, world_size=world_size)
    return sum_of(loss, rows, token_bytes, parts, batch_rows, world_size)


def sum_of(
    loss: Callable[[Tensor, Tensor], Tensor],
    rows: Rows,
    token_bytes: Tensor,
    parts: Sequence[range],
    batch_rows: int,
    world_size: int,
) -> BpbResult:
    shares = [
        held_out_sums(
            loss,
            rows,
            token_bytes,
            numbers=part,
            batch_rows=batch_rows,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
        for part in parts
    ]
    return bits_per_byte(*(sum(share) for share in zip(*shares, strict=True)))


def test_uniform_logits_cost_log2_of_the_vocabulary_for_each_token(rows: Rows, token_bytes: Tensor) -> None:
    vocab_size = len(token_bytes)

    def uniform(inputs: Tensor, targets: Tensor) -> Tensor:
        logits = torch.zeros(targets.numel(), vocab_size)
        return torch.nn.functional.cross_entropy(logits, targets.view(-1), reduction="none")

    result = run(uniform, rows, token_bytes)
    targets = np.concatenate([rows.row(i)[1:] for i in range(len(rows))])
    counted = token_bytes.numpy()[targets]
    assert result.tokens == np.count_nonzero(counted)
    assert result.val_bpb == pytest.approx(math.log2(vocab_size) * result.tokens / counted.sum(), rel=1e-6)
    assert result.loss_nats == pytest.approx(math.log(vocab_size), rel=1e-6)


def test_special_tokens_count_in_neither_loss_nor_bytes(
    prepared: Prepared, rows: Rows, token_bytes: Tensor
) -> None:
    def infinite_for_bos(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where(targets.view(-1) == prepared.tokenizer.bos_id, math.inf, 0.5)

    result = run(infinite_for_bos, rows, token_bytes)
    assert result.loss_nats == 0.5


@pytest.mark.parametrize(("world_size", "batch_rows"), [(1, 1), (1, 7), (2, 8), (3, 4), (4, 100)])
def test_the_result_depends_neither_on_the_batch_nor_on_the_number_of_ranks(
    rows: Rows, token_bytes: Tensor, world_size: int, batch_rows: int
) -> None:
    alone = run(loss_by_id, rows, token_bytes)
    shared = run(loss_by_id, rows, token_bytes, batch_rows=batch_rows, world_size=world_size)
    assert shared.tokens == alone.tokens
    assert shared.val_bpb == pytest.approx(alone.val_bpb, rel=1e-12)


@pytest.mark.parametrize(("world_size", "batch_rows", "steps"), [(1, 4, 2), (2, 4, 1), (3, 2, 1), (1, 50, 0)])
def test_whole_batches_are_as_many_as_the_batch_allows_and_their_figure_moves_with_it(
    rows: Rows, token_bytes: Tensor, world_size: int, batch_rows: int, steps: int
) -> None:
    """nanochat takes eval_tokens // (rows x T x ranks) steps; 11 rows of tokens are asked for here."""
    whole, rest = evaluated_rows(rows, max_tokens=11 * T + 5, batch_rows=batch_rows, world_size=world_size)
    assert whole == range(steps * batch_rows * world_size)
    assert (rest.start, rest.stop) == (whole.stop, 11)
    if steps:
        all_rows = run(loss_by_id, rows, token_bytes, max_tokens=11 * T + 5)
        in_whole = sum_of(loss_by_id, rows, token_bytes, [whole], batch_rows, world_size)
        assert in_whole.val_bpb != all_rows.val_bpb
        fixed = run(
            loss_by_id, rows, token_bytes, max_tokens=11 * T + 5, batch_rows=batch_rows, world_size=world_size
        )
        assert fixed.val_bpb == pytest.approx(all_rows.val_bpb, rel=1e-12)


def test_whole_rows_are_read_from_the_head_up_to_max_tokens_and_one_at_least(
    rows: Rows, token_bytes: Tensor
) -> None:
    seen: list[Tensor] = []

    def keep(inputs: Tensor, targets: Tensor) -> Tensor:
        seen.extend(inputs)
        return torch.ones(targets.numel())

    for max_tokens, expected in [(1, 1), (T, 1), (2 * T, 2), (3 * T - 1, 2), (10**9, len(rows))]:
        seen.clear()
        run(keep, rows, token_bytes, max_tokens=max_tokens)
        assert len(seen) == expected
        assert all(row.tolist() == rows.row(i)[:-1].tolist() for i, row in enumerate(seen))
