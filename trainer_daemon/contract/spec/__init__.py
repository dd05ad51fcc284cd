"""The run spec: everything that decides what a run computes, parsed once at the edge and frozen.

A field is a choice; whatever can be computed from choices is in `scaling.py`. `None` always means "the depth dial or the
machine decides", never "off". Unknown keys are refused with the nearest known name, because a typo in a learning rate costs
a day. A new key is declared in its section and nowhere else; a new family in `family.py`, with the keys it has and lacks
marked where they stand. Rules over several keys are in `rules.py`.

    model  data  optimizers  training  machine    the sections
    run_spec                                      all of them, and the hash
    reading  keys  meanings                       from TOML and `--set`; by key; in words
"""

from trainer_daemon.contract.spec.data import DataSpec, TokenizerSpec
from trainer_daemon.contract.spec.family import Family
from trainer_daemon.contract.spec.keys import all_keys, flat_values, spec_differences
from trainer_daemon.contract.spec.machine import AlertOccasion, AlertsSpec, HealthSpec, RuntimeSpec
from trainer_daemon.contract.spec.meanings import meaning_of
from trainer_daemon.contract.spec.model import ModelSpec, MoESpec
from trainer_daemon.contract.spec.optimizers import (
    AdamWSpec,
    MuonAndAdamW,
    MuonSpec,
    OptimSpec,
    ScheduleSpec,
)
from trainer_daemon.contract.spec.reading import build_spec, load_toml, parse_override
from trainer_daemon.contract.spec.run_spec import RunSpec
from trainer_daemon.contract.spec.section import Section
from trainer_daemon.contract.spec.training import CheckpointSpec, EvalSpec, SampleSpec, TrainSpec, asking

__all__ = [
    "AdamWSpec",
    "AlertOccasion",
    "AlertsSpec",
    "CheckpointSpec",
    "DataSpec",
    "EvalSpec",
    "Family",
    "HealthSpec",
    "MoESpec",
    "ModelSpec",
    "MuonAndAdamW",
    "MuonSpec",
    "OptimSpec",
    "RunSpec",
    "RuntimeSpec",
    "SampleSpec",
    "ScheduleSpec",
    "Section",
    "TokenizerSpec",
    "TrainSpec",
    "all_keys",
    "asking",
    "build_spec",
    "flat_values",
    "load_toml",
    "meaning_of",
    "parse_override",
    "spec_differences",
]
