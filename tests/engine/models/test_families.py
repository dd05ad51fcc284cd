"""A family is whole, or it is not one: whatever is asked of a model is answered for each of them."""

from typing import get_args

import pytest
import torch

from trainer_daemon.contract.alerts import RATES
from trainer_daemon.contract.scaling import count_parameters, training_plan
from trainer_daemon.contract.spec import Family, all_keys, build_spec, flat_values
from trainer_daemon.engine.export.hugging_face import ARCHITECTURES
from trainer_daemon.engine.inference.uncached import DECODERS
from trainer_daemon.engine.models.families import MODELS, new_model

FAMILIES: tuple[Family, ...] = get_args(Family)


def test_every_table_of_the_families_has_each_of_them() -> None:
    for table in (MODELS, DECODERS, ARCHITECTURES, RATES):
        assert set(table) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parameters_that_a_plan_counts_are_those_of_the_model(family: Family) -> None:
    spec = build_spec({}, [f"model.family={family}", "model.depth=3", "model.head_dim=32"])
    plan = training_plan(spec, 1000, 1)
    with torch.device("meta"):
        model = new_model(plan.shape, device="meta")
    assert sum(p.numel() for p in model.parameters()) == count_parameters(plan.shape).total


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_advised_about_rates_are_keys_of_the_family(family: Family) -> None:
    keys = flat_values(build_spec({}, [f"model.family={family}"]))
    advised = " ".join(RATES[family].values()).replace("optim.*_lr", "optim.matrix_lr").replace(",", " ")
    assert not [key for key in all_keys() if key in advised.split() and key not in keys]
    assert [key for key in keys if key in advised.split()]
