"""The optimizer: Muon for the matrices inside the blocks, AdamW for tables, head and scalars.

Every rank holds all of it and computes the same update from gradients that DDP has averaged. Matrices of one shape are
updated together as one stack, which is what makes Muon cheap: a handful of batched products a step. Learning rates,
momentum and weight decay come in with each call, so the optimizer knows no schedule and its state is tensors and a
step count.

Muon: Jordan et al. 2024; Polar Express: arXiv 2505.16932; NorMuon: arXiv 2510.05491.
N matrices in a stack, rows x cols each.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.scaling import LearningRates, TrainingPlan
from trainer_daemon.engine.models.gpt import GPT

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients (a, b, c) of X ← aX + (bA + cA²)X with A = XXᵀ, one line an iteration."""
NORMUON_BETA2 = 0.9
ADAM_EPS = 1e-10


@dataclass(frozen=True, slots=True)
class AdamGroup:
    """Parameters under one AdamW rule, in the order of the model's own names."""

    names: tuple[str, ...]
    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float


def adam_groups(model: GPT, rates: LearningRates) -> list[AdamGroup]:
    """Everything outside the blocks, each parameter in one group."""
    value_embeds = tuple(f"value_embeds.{layer}.weight" for layer in model.value_embeds)
    smear_and_backout = ("smear_gate.weight", "smear_lambda", "backout_lambda")
    return [
        AdamGroup(("lm_head.weight",), rates.unembedding, (0.8, 0.96), 0.01),
        AdamGroup(("wte.weight",), rates.embedding, (0.8, 0.995), 0.001),
        AdamGroup(value_embeds, rates.value_embedding, (0.8, 0.995), 0.01),
        AdamGroup(("resid_lambdas",), rates.resid_lambda, (0.8, 0.95), 0.05),
        # 0.96, not 0.8: measured upstream, with a cliff from 0.97
        AdamGroup(("x0_lambdas",), rates.x0_lambda, (0.96, 0.95), 0.0),
        AdamGroup(smear_and_backout, rates.smear_and_backout, (0.8, 0.95), 0.0),
    ]


def build_optimizer(model: GPT, plan: TrainingPlan) -> "MuonAdamW":
    """The optimizer of this model at the plan's rates, with fresh state."""
    return MuonAdamW(model, plan.learning_rates, plan.weight_decay)


class MuonAdamW:
    """Reads `.grad` of every parameter, which must be there, and updates the parameters in place."""

    def __init__(self, model: GPT, rates: LearningRates, weight_decay: float) -> None:
        parameters = dict(model.named_parameters())
        self.steps_taken = 0
        self._weight_decay = weight_decay
        self._adam = [
            (group, _AdamState([(name, parameters.pop(name)) for name in group.names]))
            for group in adam_groups(model, rates)
        ]
        stacks: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters.values():
            rows, cols = parameter.shape
            stacks[rows, cols].append(parameter)
        bf16 = model.compute_dtype == torch.bfloat16
        self._muon = {
            (rows, cols): _MuonStack(
                matrices,
                learning_rate=rates.matrix * sqrt(max(1.0, rows / cols)),
                working_dtype=torch.bfloat16 if bf16 else torch.float32,
            )
            for (rows, cols), matrices in stacks.items()
        }

    @torch.no_grad()
    def step(self, *, learning_rate_scale: float, muon_momentum: float, weight_decay_scale: float) -> None:
        """One update. The scales multiply peak rates; `weight_decay_scale` is Muon's, AdamW's decay is constant."""
        for group, state in self._adam:
            state.step(group, group.learning_rate * learning_rate_scale)
        for stack in self._muon.values():
            stack.step(learning_rate_scale, muon_momentum, self._weight_decay * weight_decay_scale)
        self.steps_taken += 1

    def state_tensors(self) -> dict[str, Tensor]:
        """The state's own tensors (not copies) under flat names; `steps_taken` belongs to it and is a plain int."""
        tensors: dict[str, Tensor] = {}
        for _, state in self._adam:
            for name, mean, square in zip(state.names, state.means, state.squares, strict=True):
                tensors[f"adamw.{name}.mean"] = mean
                tensors[f"adamw.{name}.square"] = square
        for (rows, cols), stack in self._muon.items():
            tensors[f"muon.{rows}x{cols}.momentum"] = stack.momentum
            tensors[f"muon.{rows}x{cols}.square"] = stack.square
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor], steps_taken: int) -> None:
        """Copy a saved state in, bit for bit. Raises SpecError when it is not the state of such a model."""
        own = self.state_tensors()
        differing = sorted(
            name
            for name in own.keys() | tensors.keys()
            if name not in own
            or name not in tensors
            or (own[name].shape, own[name].dtype) != (tensors[name].shape, tensors[name].dtype)
        )
        if differing:
            raise SpecError(
                f"the optimizer state was saved from another model: {len(differing)} tensors differ in name, shape or "
                f"dtype, the first is {differing[0]}; resume with the run's own spec and precision"
            )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.steps_taken = steps_taken
        for _, state in self._adam:
            state.set_step(steps_taken)


class _AdamState:
    """First and second moments of one group, in the parameters' dtype; the update is PyTorch's fused one."""

    def __init__(self, named: list[tuple[str, nn.Parameter]]) -> None:
        self.names = [name for name, _ in named]
        self._parameters = [parameter for _, parameter in named]
        self.means = [torch.zeros_like(p, requires_grad=False) for p in self._parameters]
        self.squares = [torch.zeros_like(p, requires_grad=False) for p in self._parameters]
        self._steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self._parameters]

    def set_step(self, steps_taken: int) -> None:
        for step in self._steps:
            step.fill_(steps_taken)

    def step(self, group: AdamGroup, learning_rate: float) -> None:
        adamw(
            list(self._parameters),
            [_gradient(p) for p in self._parameters],
            self.means,
            self.squares,
            max_exp_avg_sqs=[],
            state_steps=self._steps,
            fused=True,
            amsgrad=False,
            beta1=group.betas[0],
            beta2=group.betas[1],
            lr=learning_rate,
            weight_decay=group.weight_decay,
            eps=ADAM_EPS,
            maximize=False,
        )


class _MuonStack:
    """All matrices of one shape, with their momentum (N, rows, cols) and NorMuon's second moments."""

    def __init__(
        self, matrices: list[nn.Parameter], *, learning_rate: float, working_dtype: torch.dtype
    ) -> None:
        count, (rows, cols) = len(matrices), matrices[0].shape
        device = matrices[0].device
        self._matrices = matrices
        self._learning_rate = learning_rate
        self._working_dtype = working_dtype
        self.momentum = torch.zeros(count, rows, cols, device=device)
        # one value for each index of the longer side: (N, rows, 1) or (N, 1, cols)
        self.square = torch.zeros((count, rows, 1) if rows >= cols else (count, 1, cols), device=device)

    def step(self, learning_rate_scale: float, momentum: float, weight_decay: float) -> None:
        gradient = torch.stack([_gradient(matrix) for matrix in self._matrices])  # (N, rows, cols)
        self.momentum.lerp_(gradient, 1 - momentum)
        nesterov = gradient.lerp_(self.momentum, momentum)
        update = polar_express(equalize_rows(nesterov.to(self._working_dtype))).float()
        update = self._normalize(update)

        learning_rate = self._learning_rate * learning_rate_scale
        weights = torch.stack(list(self._matrices))  # (N, rows, cols)
        # cautious decay: only where it pushes the same way as the update
        decay = weights * (update * weights >= 0)
        update.add_(decay, alpha=weight_decay)
        torch._foreach_add_(list(self._matrices), list(update.unbind(0)), alpha=-learning_rate)

    def _normalize(self, x: Tensor) -> Tensor:
        """NorMuon: even out rows (columns where wide) by their running mean square, keeping the Frobenius norm."""
        rows, cols = x.shape[1:]
        x *= sqrt(min(rows, cols)) / _frobenius(x)  # Muon+
        norm = _frobenius(x)
        self.square.lerp_(x.square().mean(-1 if rows >= cols else -2, keepdim=True), 1 - NORMUON_BETA2)
        x *= self.square.clamp(min=1e-10).rsqrt_()
        x *= norm / _frobenius(x)
        return x


def equalize_rows(x: Tensor) -> Tensor:
    """(N, rows, cols): every row of a matrix gets the same norm, the matrix keeps its own (MuonEq)."""
    row_norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=1e-6)  # (N, rows, 1)
    return x * (_frobenius(x) * x.size(-2) ** -0.5 / row_norm)


def polar_express(x: Tensor) -> Tensor:
    """(N, rows, cols): singular values brought to about 1, singular vectors kept."""
    tall = x.size(-2) > x.size(-1)
    x = x / (1.01 * _frobenius(x) + 1e-6)
    if tall:
        x = x.mT
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(x, x.mT)  # (N, short side, short side)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _frobenius(x: Tensor) -> Tensor:
    """(N, rows, cols) -> (N, 1, 1), floored so that a zero matrix stays zero: behind a zero projection all gradients are."""
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp_(min=1e-6)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "step() before backward()"
    return parameter.grad
