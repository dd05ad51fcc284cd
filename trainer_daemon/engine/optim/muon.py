"""Muon: for each matrix, momentum made orthogonal, with its rows evened out before and after, and a cautious decay.

Matrices of one shape are updated together as one stack, which is what makes Muon cheap: a handful of batched products
a step. Each rank updates its part of every stack. A parameter may be a stack of matrices itself, as experts are.

Muon: Jordan et al. 2024; Polar Express: arXiv 2505.16932; NorMuon: arXiv 2510.05491. Without NorMuon's running means it is
plain Muon, whose rows are evened out neither before nor after.
N matrices of a stack that this rank updates, rows x cols each.
"""

from math import sqrt

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer_daemon.engine.optim.sharding import SharedBuffer, Split, SplitState
from trainer_daemon.engine.ranks import ALONE, Ranks

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients (a, b, c) of X ← aX + (bA + cA²)X with A = XXᵀ, one line an iteration."""


FLOOR = 1e-6
"""Of norms, so that a zero matrix stays zero: behind the zero projections of a new model all gradients are."""


class MuonStack:
    """All matrices of one shape, and the state of those that this rank updates.

    Building one makes the parameters views of a common buffer.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        *,
        beta2: float | None,
        working_dtype: torch.dtype,
        ranks: Ranks = ALONE,
    ) -> None:
        """Parameters of (rows, cols) or (several, rows, cols). `beta2`: None for plain Muon."""
        self.rows, self.cols = matrices[0].shape[-2:]
        stacks = [matrix.data.view(-1, self.rows, self.cols) for matrix in matrices]
        split = Split(sum(map(len, stacks)), ranks.rank, ranks.world_size)
        self.size = sum(matrix.numel() for matrix in matrices)
        self._buffer = SharedBuffer(torch.cat(stacks), split)
        self._own_matrices: list[tuple[nn.Parameter, slice]] = []
        """Parameters that this rank updates, and which of the matrices of each."""
        first = 0
        for matrix, stack in zip(matrices, stacks, strict=True):  # the rest of the buffer is padding
            last = first + len(stack)
            matrix.data = self._buffer.whole[first:last].view_as(matrix)
            own = slice(max(split.own.start, first) - first, min(split.own.stop, last) - first)
            if own.start < own.stop:
                self._own_matrices.append((matrix, own))
            first = last
        self._beta2 = beta2
        self._working_dtype = working_dtype
        stacked = self._buffer.whole  # (count + padding, rows, cols)
        self._momentum = SplitState(stacked, split)
        self._square: SplitState | None = None
        if beta2 is not None:  # one value for each index of the longer side: (N, rows, 1) or (N, 1, cols)
            self._square = SplitState(stacked[:, :, :1] if self.rows >= self.cols else stacked[:, :1], split)

    def step(self, learning_rate: float, momentum: float, weight_decay: float) -> None:
        """Update this rank's matrices, in place. `learning_rate` is that of a square matrix; a tall one gets more."""
        if not self._own_matrices:
            return
        learning_rate *= sqrt(max(1.0, self.rows / self.cols))
        gradient = torch.cat(
            [gradient_of(matrix).view(-1, self.rows, self.cols)[own] for matrix, own in self._own_matrices]
        )  # (N, rows, cols)
        momentum_buffer = self._momentum.own.lerp_(gradient, 1 - momentum)
        nesterov = gradient.lerp_(momentum_buffer, momentum)
        if self._square is None or self._beta2 is None:
            norm = torch.linalg.vector_norm(nesterov, dim=(-2, -1), keepdim=True)  # (N, 1, 1)
            scaled = (nesterov / (1.01 * norm + FLOOR)).to(self._working_dtype)
            update = gradient.copy_(polar_express(scaled))
        else:
            orthogonal = polar_express(equalize_rows(nesterov, self._working_dtype))
            # into memory that is no longer needed, and row by row again where the polar iteration ran transposed
            scales = self._row_scales(orthogonal, self._square.own, self._beta2)
            update = torch.mul(orthogonal, scales, out=gradient)

        weights = self._buffer.own
        # cautious decay: only where it pushes the same way as the update
        decay = torch.mul(update, weights).ge_(0).mul_(weights)
        update.add_(decay, alpha=weight_decay)
        weights.add_(update, alpha=-learning_rate)

    def send(self) -> list[dist.Work]:
        """Begin to exchange the updated matrices. All ranks."""
        return self._buffer.send()

    def state(self) -> dict[str, SplitState]:
        """Momentum and NorMuon's second moments, by name."""
        name = f"muon.{self.rows}x{self.cols}"
        momentum = {f"{name}.momentum": self._momentum}
        return momentum if self._square is None else {**momentum, f"{name}.square": self._square}

    def _row_scales(self, x: Tensor, square: Tensor, beta2: float) -> Tensor:
        """What each row (column where wide) is multiplied by: NorMuon evens them out by their running mean square and
        keeps the Frobenius norm that Muon+ has set to √min(rows, cols). All of it from one pass over x."""
        along, across = (-1, -2) if self.rows >= self.cols else (-2, -1)
        squares = torch.linalg.vector_norm(x, dim=along, keepdim=True, dtype=torch.float32).square_()
        norm = squares.sum(across, keepdim=True).sqrt_().clamp_(min=FLOOR)  # (N, 1, 1)
        scale = sqrt(min(self.rows, self.cols)) / norm
        mean_square = squares * (scale * scale / x.size(along))
        even = square.lerp_(mean_square, 1 - beta2).clamp(min=1e-10).rsqrt_()
        evened_norm = (squares * even.square()).sum(across, keepdim=True).sqrt_().clamp_(min=FLOOR)
        return even * (scale * norm / evened_norm)


def equalize_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, rows, cols): every row of a matrix gets the same norm (MuonEq), and the matrix one just below 1."""
    row_norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (N, rows, 1)
    scale = torch.linalg.vector_norm(row_norm, dim=-2, keepdim=True) * x.size(-2) ** -0.5
    scale = scale / row_norm.clamp(min=FLOOR)
    norm = torch.linalg.vector_norm(row_norm * scale, dim=-2, keepdim=True)  # (N, 1, 1)
    return (x * (scale / (1.01 * norm + FLOOR))).to(dtype)


def polar_express(x: Tensor) -> Tensor:
    """(N, rows, cols), norms just below 1: singular values brought to about 1, singular vectors kept."""
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(x, x.mT)  # (N, short side, short side)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def gradient_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "step() before backward()"
    return parameter.grad
