"""Splitting the optimizer over ranks changes who computes what, not what is computed."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.engine.optim.small import new_model, small_plan, take_steps
from tests.parallel import in_parallel
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.optim.muon_adamw import MuonAdamW, build_optimizer
from trainer_daemon.engine.optim.sharding import SharedBuffer, Split, SplitState
from trainer_daemon.engine.ranks import ALONE, Ranks


@pytest.mark.parametrize(
    ("count", "world_size", "sizes"),
    [(5, 1, [5]), (5, 3, [2, 2, 1]), (5, 4, [2, 2, 1, 0]), (6, 3, [2, 2, 2]), (1, 3, [1, 0, 0])],
)
def test_every_entry_has_one_owner(count: int, world_size: int, sizes: list[int]) -> None:
    entries = [list(range(count))[Split(count, rank, world_size).own] for rank in range(world_size)]
    assert [len(own) for own in entries] == sizes
    assert [entry for own in entries for entry in own] == list(range(count))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_a_whole_state_is_cut_anew_for_any_number_of_ranks(world_size: int) -> None:
    whole = torch.arange(5.0 * 2).view(5, 2)
    states = [SplitState(whole, Split(5, rank, world_size)) for rank in range(world_size)]
    for state in states:
        assert state.shape == whole.shape
        assert state.own.count_nonzero() == 0
        state.fill(whole)
    assert torch.equal(torch.cat([state.own for state in states]), whole)


def test_one_rank_has_no_padding_and_no_copy() -> None:
    table = torch.zeros(5, 3)
    buffer = SharedBuffer(table, Split(5))
    assert buffer.whole is table
    assert buffer.own.data_ptr() == table.data_ptr()
    assert buffer.send() == []


def built(ranks: Ranks, dtype: torch.dtype) -> tuple[GPT, MuonAdamW]:
    plan = small_plan()
    model = new_model(plan, dtype)
    return model, build_optimizer(model, plan, ranks=ranks)


def test_each_rank_holds_its_share_of_the_state_and_no_more() -> None:
    def size(rank: int, world_size: int) -> int:
        _, optimizer = built(Ranks(rank, world_size, torch.device("cpu")), torch.float32)
        return sum(state.own.numel() for state in optimizer._state().values())

    scalars = 2 * (2 * 5 + 24 + 2)  # two moments of the lambdas and the smear gate, which every rank has
    assert sum(size(rank, 3) for rank in range(3)) == size(0, 1) + 2 * scalars
    assert max(size(rank, 3) for rank in range(3)) < 0.45 * size(0, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_several_ranks_follow_one_stay_equal_and_resume_to_the_bit(tmp_path: Path, world_size: int) -> None:
    in_parallel([sys.executable, "-m", "tests.engine.optim.sharded_steps", str(tmp_path)], world_size)

    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        name = str(dtype).removeprefix("torch.")

        def left(what: str, name: str = name) -> dict[str, Tensor]:
            return load_file(tmp_path / f"{name}-{what}.safetensors")

        def are_equal(one: str, other: str) -> bool:
            a, b = left(one), left(other)
            return all(torch.equal(a[key], b[key]) for key in a | b)

        # replicas are equal to the bit
        assert all(are_equal("5-model-0", f"5-model-{rank}") for rank in range(world_size))

        # and near what one rank computes, whose batched products may be rounded otherwise
        model, alone = built(ALONE, dtype)
        take_steps(model, alone, range(5))
        for what, wanted in (("5-model-0", model.state_dict()), ("5-optimizer", alone.state_tensors())):
            got = left(what)
            assert got.keys() == wanted.keys()
            for key in wanted:
                distance = (got[key].float() - wanted[key].float()).norm()
                assert distance <= tolerance * wanted[key].float().norm(), f"{dtype} {key}: {distance}"

        # a state that was loaded is the one that was saved, and goes on as if nothing had happened
        assert are_equal("loaded-optimizer", "3-optimizer")
        assert are_equal("resumed-model-0", "5-model-0")
        assert are_equal("resumed-optimizer", "5-optimizer")

        # whichever number of ranks takes it over
        alone.load_state_tensors(left("5-optimizer"), steps_taken=5)
        assert all(torch.equal(t, left("5-optimizer")[key]) for key, t in alone.state_tensors().items())
