"""The optimizer: Muon for the matrices inside the blocks, AdamW for the rest, which of family classic is everything.

Gradients come averaged over the ranks, whole, on every rank. State and work are split: a rank updates its rows of every
table and its matrices of every shape, and while one group's result travels to the others the next is computed. Learning
rates, momentum and weight decay come in with each call, so the optimizer knows no schedule and its state is tensors and
a step count.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.scaling import OneRate, TrainingPlan, TwoRates
from trainer_daemon.contract.spec import AdamWSpec, MuonAndAdamW, MuonSpec, OptimSpec
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.models.moe import MoEGPT
from trainer_daemon.engine.optim.adamw import AdamGroup, AdamRule, adam_rules, plain_adam_rules
from trainer_daemon.engine.optim.muon import MuonStack
from trainer_daemon.engine.optim.sharding import SplitState
from trainer_daemon.engine.ranks import ALONE, Ranks


def build_optimizer(
    model: LanguageModel,
    plan: TrainingPlan,
    optim: OptimSpec | AdamWSpec | MuonAndAdamW | None = None,
    ranks: Ranks = ALONE,
) -> "MuonAdamW":
    """The optimizer of this model at the plan's rates, with fresh state: this rank's part of it.

    `optim`: the sections of the model's family; None: as they stand by default.
    """
    rates = plan.learning_rates
    if isinstance(rates, OneRate):
        adamw = optim or AdamWSpec()
        assert isinstance(adamw, AdamWSpec), "another family's optimizer"
        return MuonAdamW(model, plain_adam_rules(model, rates, adamw), adamw.eps, ranks)
    if isinstance(rates, TwoRates):
        optim = optim or MuonAndAdamW(MuonSpec(), AdamWSpec())
        assert isinstance(model, MoEGPT), "another family's plan"
        assert isinstance(optim, MuonAndAdamW), "another family's optimizer"
        return MuonAdamW(
            model,
            plain_adam_rules(model, rates, optim.adamw, but=model.muon_names()),
            optim.adamw.eps,
            ranks,
            matrix_rate=rates.muon,
            weight_decay=plan.weight_decay,
        )
    optim = optim or OptimSpec()
    assert isinstance(model, GPT), "another family's plan"
    assert isinstance(optim, OptimSpec), "another family's optimizer"
    return MuonAdamW(
        model,
        adam_rules(model, rates, optim),
        optim.adam_eps,
        ranks,
        matrix_rate=rates.matrix,
        weight_decay=plan.weight_decay,
        muon_beta2=optim.muon_beta2,
    )


class MuonAdamW:
    """Reads `.grad` of every parameter, which must be there, and updates the parameters in place.

    Building it moves the parameters into buffers of its own, so it comes before anything that holds on to their storage.
    """

    def __init__(
        self,
        model: LanguageModel,
        rules: Sequence[AdamRule],
        adam_eps: float,
        ranks: Ranks,
        *,
        matrix_rate: float = 0.0,
        weight_decay: float = 0.0,
        muon_beta2: float | None = None,
    ) -> None:
        """Muon takes every parameter that no rule names, at `matrix_rate` and `weight_decay`; plain without `muon_beta2`."""
        parameters = dict(model.named_parameters())
        self.steps_taken = 0
        self._ranks = ranks
        self._matrix_rate = matrix_rate
        self._weight_decay = weight_decay
        self._adam = [
            AdamGroup(rule, [parameters.pop(name) for name in rule.names], eps=adam_eps, ranks=ranks)
            for rule in rules
        ]
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters.values():
            by_shape[parameter.shape[-2:]].append(parameter)
        stacks = [
            MuonStack(
                matrices,
                beta2=muon_beta2,
                working_dtype=torch.bfloat16 if model.compute_dtype == torch.bfloat16 else torch.float32,
                ranks=ranks,
            )
            for matrices in by_shape.values()
        ]
        # the largest first: only the last one's journey is not hidden behind computation
        self._muon = sorted(stacks, key=lambda stack: stack.size, reverse=True)

    @torch.no_grad()
    def step(self, *, learning_rate_scale: float, muon_momentum: float, weight_decay_scale: float) -> None:
        """One update. All ranks. The scales multiply peak rates; `weight_decay_scale` is Muon's, AdamW's is constant."""
        matrix_rate = self._matrix_rate * learning_rate_scale
        weight_decay = self._weight_decay * weight_decay_scale
        travelling: list[dist.Work] = []
        for group in self._adam:  # before Muon: quickly computed, and the most to send
            group.step(learning_rate_scale)
            travelling += group.send()
        for stack in self._muon:
            stack.step(matrix_rate, muon_momentum, weight_decay)
            travelling += stack.send()
        if travelling:
            with self._ranks.flight.exchanging("parameters"):
                for exchange in travelling:
                    exchange.wait()
        self.steps_taken += 1

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state on the main rank, under flat names; nothing elsewhere. All ranks call it.

        With one rank these are the state's own tensors, else copies on the host. `steps_taken` belongs to them.
        """
        gathered = {name: state.gathered(self._ranks) for name, state in self._state().items()}
        return {name: tensor for name, tensor in gathered.items() if tensor is not None}

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor], steps_taken: int) -> None:
        """Take this rank's part of a whole state, whichever number of ranks saved it, bit for bit.

        Raises SpecError when it is not the state of such a model.
        """
        own = self._state()
        differing = sorted(
            name
            for name in own.keys() | tensors.keys()
            if name not in own
            or name not in tensors
            or (own[name].shape, own[name].own.dtype) != (tensors[name].shape, tensors[name].dtype)
        )
        if differing:
            raise SpecError(
                f"the optimizer state was saved from another model: {len(differing)} tensors differ in name, shape or "
                f"dtype, the first is {differing[0]}; resume with the run's own spec and precision"
            )
        for name, state in own.items():
            state.fill(tensors[name])
        self.steps_taken = steps_taken
        for group in self._adam:
            group.set_steps_taken(steps_taken)

    def _state(self) -> dict[str, SplitState]:
        """In the same order on all ranks, who gather it in that order."""
        groups = [group.state() for group in self._adam] + [stack.state() for stack in self._muon]
        return {name: state for states in groups for name, state in states.items()}
