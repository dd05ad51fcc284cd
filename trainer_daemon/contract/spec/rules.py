"""The rules that no one key can hold: each a function that yields what is wrong and what to change."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, get_args

from trainer_daemon.contract.hardware import MPS_TAKES_ONE_RANK
from trainer_daemon.contract.spec.family import Family
from trainer_daemon.contract.spec.optimizers import ScheduleSpec

if TYPE_CHECKING:
    from trainer_daemon.contract.spec.run_spec import RunSpec


def broken_rules(spec: "RunSpec", foreign_keys: Callable[[Family], Sequence[str]]) -> Iterator[str]:
    """What is wrong with a spec whose keys are right each for itself. `foreign_keys`: sections and keys that a family lacks."""
    yield from _keys_of_another_family(spec, foreign_keys)
    yield from _more_experts_than_there_are(spec)
    yield from _waves_beside_a_warmdown(spec)
    yield from _fp8_where_it_cannot_run(spec)
    yield from _several_ranks_on_an_apple_gpu(spec)
    yield from _an_attention_kernel_that_cannot_run(spec)


def _keys_of_another_family(
    spec: "RunSpec", foreign_keys: Callable[[Family], Sequence[str]]
) -> Iterator[str]:
    family = spec.model.family
    if strange := _given(spec, foreign_keys(family)):
        families: tuple[Family, ...] = get_args(Family)
        owners = [other for other in families if not {*strange} & {*_given(spec, foreign_keys(other))}]
        of_whom = f" but of {' and '.join(owners)}" if owners else ""
        own = [name for name in ("optim", "muon", "adamw") if name not in foreign_keys(family)]
        sections = f"section{'s' if len(own) > 1 else ''} {' and '.join(own)}"
        yield (
            f"{', '.join(strange)}: not of model.family {family}{of_whom}; take it out (rates and decay of {family} are in "
            f"{sections})"
        )


def _given(spec: "RunSpec", keys: Sequence[str]) -> list[str]:
    """Of these sections and keys, every key that was given a value."""
    given = []
    for key in keys:
        name, _, inner = key.partition(".")
        if name in spec.model_fields_set:
            given_here = sorted(getattr(spec, name).model_fields_set)
            given += [f"{name}.{each}" for each in given_here if inner in ("", each)]
    return given


def _more_experts_than_there_are(spec: "RunSpec") -> Iterator[str]:
    if spec.model.family == "moe" and spec.moe.experts_per_token > spec.moe.experts:
        yield (
            f"moe.experts_per_token: {spec.moe.experts_per_token} of {spec.moe.experts} experts cannot be chosen; "
            f"at most {spec.moe.experts}"
        )


def _waves_beside_a_warmdown(spec: "RunSpec") -> Iterator[str]:
    usual = ScheduleSpec()
    one_fall = [
        f"schedule.{key}"
        for key in ("warmdown", "warmdown_ratio")
        if getattr(spec.schedule, key) != getattr(usual, key)
    ]
    if spec.schedule.restart_every is not None and one_fall:
        yield (
            f"{', '.join(one_fall)}: there is no one warm-down where schedule.restart_every makes waves; take one of the "
            f"two out"
        )


def _fp8_where_it_cannot_run(spec: "RunSpec") -> Iterator[str]:
    if spec.runtime.precision != "fp8":
        return
    if spec.runtime.device in ("cpu", "mps"):
        yield (
            f"runtime.precision: fp8 needs an NVIDIA GPU, not {spec.runtime.device}; use --set runtime.precision=auto"
        )
    if spec.model.sequence_len % 16:
        yield (
            f"model.sequence_len: {spec.model.sequence_len} is not a multiple of 16, which fp8 needs; "
            f"nearest: {round(spec.model.sequence_len / 16) * 16 or 16}"
        )


def _several_ranks_on_an_apple_gpu(spec: "RunSpec") -> Iterator[str]:
    if spec.runtime.device == "mps" and spec.runtime.nproc not in ("auto", 1):
        yield MPS_TAKES_ONE_RANK


def _an_attention_kernel_that_cannot_run(spec: "RunSpec") -> Iterator[str]:
    if spec.runtime.attention in ("fa3", "flex") and spec.runtime.device in ("cpu", "mps"):
        yield (
            f"runtime.attention: {spec.runtime.attention} needs an NVIDIA GPU and runtime.device is "
            f"{spec.runtime.device}; use auto"
        )
    elif spec.runtime.attention == "fa3" and spec.data.document_mask:
        yield "runtime.attention: fa3 does not know the documents that data.document_mask keeps apart; use auto"
