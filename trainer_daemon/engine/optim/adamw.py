"""AdamW with a rule for each group of parameters: of family nanochat tables, head and scalars, of family classic all of them.

Tensors of two dimensions are split over the ranks by rows; what is smaller is not worth a message, every rank updates it
all alike.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.adamw import adamw

from trainer_daemon.contract.scaling import LearningRates, OneRate, TwoRates
from trainer_daemon.contract.spec import AdamWSpec, OptimSpec
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.optim.muon import gradient_of
from trainer_daemon.engine.optim.sharding import SharedBuffer, Split, SplitState
from trainer_daemon.engine.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class AdamRule:
    """How the parameters of these names are updated."""

    names: tuple[str, ...]
    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    is_split: bool
    """Whether each rank updates its rows only; else every rank updates all of them."""


def adam_rules(model: GPT, rates: LearningRates, optim: OptimSpec) -> list[AdamRule]:
    """Of family nanochat: everything outside the blocks, each parameter under one rule."""
    value_embeds = tuple(f"value_embeds.{layer}.weight" for layer in model.value_embeds)
    smear_and_backout = ("smear_gate.weight", "smear_lambda", "backout_lambda")
    return [
        AdamRule(("lm_head.weight",), rates.unembedding, optim.unembedding_betas, 0.01, is_split=True),
        AdamRule(("wte.weight",), rates.embedding, optim.embedding_betas, 0.001, is_split=True),
        AdamRule(value_embeds, rates.value_embedding, optim.value_embedding_betas, 0.01, is_split=True),
        AdamRule(("resid_lambdas",), rates.resid_lambda, optim.resid_lambda_betas, 0.05, is_split=False),
        AdamRule(("x0_lambdas",), rates.x0_lambda, optim.x0_lambda_betas, 0.0, is_split=False),
        AdamRule(smear_and_backout, rates.smear_backout, optim.smear_backout_betas, 0.0, is_split=False),
    ]


def plain_adam_rules(
    model: LanguageModel, rates: OneRate | TwoRates, adamw: AdamWSpec, *, but: Collection[str] = ()
) -> list[AdamRule]:
    """Of any model, all parameters but those that Muon takes: those of two or more dimensions decay, embeddings among
    them, the others do not."""
    by_decay: dict[bool, list[str]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if name not in but:
            by_decay[parameter.dim() >= 2].append(name)
    return [
        AdamRule(
            tuple(names),
            rates.adamw,
            adamw.betas,
            adamw.weight_decay if decays else 0.0,
            is_split=decays,
        )
        for decays, names in by_decay.items()
    ]


class AdamGroup:
    """The parameters of one rule; first and second moments in their dtype; the update is PyTorch's fused one.

    Building one may make the parameters views of larger buffers.
    """

    def __init__(
        self,
        rule: AdamRule,
        parameters: list[nn.Parameter],
        *,
        eps: float,
        ranks: Ranks = ALONE,
    ) -> None:
        self._rule = rule
        self._eps = eps
        self._parameters = parameters
        self._buffers = []
        for parameter in parameters:
            rows = parameter.size(0)
            split = Split(rows, ranks.rank, ranks.world_size) if rule.is_split else Split(rows)
            buffer = SharedBuffer(parameter.data, split)
            parameter.data = buffer.whole[:rows]
            self._buffers.append(buffer)
        self._means = [SplitState(buffer.whole, buffer.split) for buffer in self._buffers]
        self._squares = [SplitState(buffer.whole, buffer.split) for buffer in self._buffers]
        self._steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in parameters]

    def step(self, learning_rate_scale: float) -> None:
        """Update this rank's rows, in place."""
        adamw(
            [buffer.own for buffer in self._buffers],
            [
                gradient_of(parameter)[buffer.split.own]
                for parameter, buffer in zip(self._parameters, self._buffers, strict=True)
            ],
            [mean.own for mean in self._means],
            [square.own for square in self._squares],
            max_exp_avg_sqs=[],
            state_steps=self._steps,
            fused=True,
            amsgrad=False,
            beta1=self._rule.betas[0],
            beta2=self._rule.betas[1],
            lr=self._rule.learning_rate * learning_rate_scale,
            weight_decay=self._rule.weight_decay,
            eps=self._eps,
            maximize=False,
        )

    def send(self) -> list[dist.Work]:
        """Begin to exchange the updated rows. All ranks."""
        return [exchange for buffer in self._buffers for exchange in buffer.send()]

    def state(self) -> dict[str, SplitState]:
        """First and second moments, by name."""
        means = {f"adamw.{n}.mean": mean for n, mean in zip(self._rule.names, self._means, strict=True)}
        squares = {
            f"adamw.{n}.square": square for n, square in zip(self._rule.names, self._squares, strict=True)
        }
        return means | squares

    def set_steps_taken(self, steps: int) -> None:
        """The moments are those after so many updates: what their bias correction needs to know."""
        for step in self._steps:
            step.fill_(steps)
