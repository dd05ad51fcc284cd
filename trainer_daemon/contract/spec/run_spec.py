"""A run's spec, whole: its sections, which of them a family has, and the hash of what it says."""

import json
from functools import cache, reduce
from hashlib import sha256
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from trainer_daemon.contract.spec.data import DataSpec, TokenizerSpec
from trainer_daemon.contract.spec.family import Family, OnlyOf, is_of
from trainer_daemon.contract.spec.machine import AlertsSpec, HealthSpec, RuntimeSpec
from trainer_daemon.contract.spec.model import ModelSpec, MoESpec
from trainer_daemon.contract.spec.optimizers import (
    AdamWSpec,
    MuonAndAdamW,
    MuonSpec,
    OptimSpec,
    ScheduleSpec,
)
from trainer_daemon.contract.spec.rules import broken_rules
from trainer_daemon.contract.spec.section import AddedLater, Section, section_of
from trainer_daemon.contract.spec.training import CheckpointSpec, EvalSpec, SampleSpec, TrainSpec


class RunSpec(Section):
    """One run, whole. Its canonical JSON is hashed; the hash travels with every checkpoint."""

    preset: str | None = None
    """The preset it was made from, for the reader; decides nothing."""
    tag: Annotated[str, Field(max_length=32, pattern=r"^[\w.+-]*$")] = ""
    """A word to tell runs apart by, shown in `ls`; decides nothing."""
    notes: str = Field(default="", max_length=2000)
    """What the run is for, in the reader's own words, shown in `status`; decides nothing."""
    seed: int = Field(default=42, ge=0, lt=1 << 63)
    """Seeds initial weights, row order and sampling."""
    model: ModelSpec = ModelSpec()
    moe: Annotated[MoESpec, OnlyOf("moe")] = MoESpec()
    data: DataSpec = DataSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    optim: Annotated[OptimSpec, OnlyOf("nanochat")] = OptimSpec()
    muon: Annotated[MuonSpec, OnlyOf("moe")] = MuonSpec()
    adamw: Annotated[AdamWSpec, OnlyOf("classic", "moe")] = AdamWSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    train: TrainSpec = TrainSpec()
    eval: EvalSpec = EvalSpec()
    sample: SampleSpec = SampleSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    health: HealthSpec = HealthSpec()
    alerts: AlertsSpec = AlertsSpec()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        if broken := "; ".join(broken_rules(self, foreign_keys)):
            raise ValueError(broken)
        return self

    @model_serializer(mode="wrap")
    def _own_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what means nothing to the family."""
        tables: dict[str, Any] = handler(self)
        for key in foreign_keys(self.model.family):
            _drop(tables, key)
        return tables

    @property
    def optimizer(self) -> OptimSpec | AdamWSpec | MuonAndAdamW:
        """The sections of the family's optimizer."""
        match self.model.family:
            case "nanochat":
                return self.optim
            case "classic":
                return self.adamw
            case "moe":
                return MuonAndAdamW(self.muon, self.adamw)

    def canonical_json(self) -> str:
        """The spec as one line of JSON with sorted keys: the same spec gives the same bytes."""
        tables = self.model_dump(mode="json")
        for key, default in _added_later().items():
            if reduce(getattr, key.split("."), self) == default:
                _drop(tables, key)
        return json.dumps(tables, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def content_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return sha256(self.canonical_json().encode()).hexdigest()[:16]


@cache
def foreign_keys(family: Family) -> tuple[str, ...]:
    """Sections and keys that mean nothing to a family, in the order of the spec."""
    keys = []
    for name, field in RunSpec.model_fields.items():
        if not is_of(family, field):
            keys.append(name)
        elif section := section_of(field.annotation):
            keys += [
                f"{name}.{key}" for key, inner in section.model_fields.items() if not is_of(family, inner)
            ]
    return tuple(keys)


@cache
def _added_later() -> dict[str, Any]:
    """The keys and sections that are `AddedLater`, each with its default."""
    fields = dict(RunSpec.model_fields)
    for name, field in RunSpec.model_fields.items():
        if section := section_of(field.annotation):
            fields |= {f"{name}.{key}": inner for key, inner in section.model_fields.items()}
    return {
        key: field.default
        for key, field in fields.items()
        if any(isinstance(mark, AddedLater) for mark in field.metadata)
    }


def _drop(tables: dict[str, Any], key: str) -> None:
    """Take a section or a `section.key` out of a spec's tables."""
    name, dot, inner = key.partition(".")
    if dot:
        tables.get(name, {}).pop(inner, None)
    else:
        tables.pop(name, None)
