"""The model of family moe, whole: change it here.

A mixture of experts in every block: a router sends each token to a few of several SwiGLU experts, and one more sees all of
them. Attention has full-width queries; keys and values of all heads are made from one narrow latent each. Rotary positions,
RMSNorm with learned gains before attention and mixture, no biases, an untied head. Parameters are kept in fp32; as under
autocast, products are made in the compute dtype while norms, router and the residual stream stay in fp32. How tokens come
to their experts and back is `grouped.py`. `inference/moe_decoder.py` computes the same function for writing, fast: until it
is changed as well, text is right but slow.

B batch   T tokens   N = B·T   C width   H heads   D head width   R latent width   E experts   k of them a token
V vocabulary   L layers
"""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer_daemon.contract.estimate import ActivationCheckpointing
from trainer_daemon.contract.events import AttentionKernel
from trainer_daemon.contract.scaling import Mixture, ModelShape
from trainer_daemon.engine.models.attention import Attend, borders_of, build_attention
from trainer_daemon.engine.models.grouped import (
    from_experts,
    group_by_expert,
    grouped_product,
    to_experts,
)
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.models.linear import Linear
from trainer_daemon.engine.models.loss import Reduction, head_cross_entropy
from trainer_daemon.engine.models.recompute import run_block

NORM_EPS = 1e-5
ROTARY_BASE = 10_000.0
ROTARY_SPAN = 4
"""Positions with rotary angles, in contexts: few-shot evaluation prompts run longer than the training context."""
INIT_STD = 0.02


class Routing(NamedTuple):
    """How a block sent its tokens, over all of a batch."""

    probability: Tensor
    """(E,): mean of the router's probability for each expert."""
    first_choice: Tensor
    """(E,): share of the tokens that prefer each expert to all others; has no gradient."""
    share: Tensor
    """(E,): share of the N·k choices that each expert has got; has no gradient."""
    entropy: Tensor
    """(): mean entropy of the router's probabilities in nats; has no gradient."""

    def balance_loss(self) -> Tensor:
        """(): E·Σ probability·first_choice, 1 where all experts are alike, E where one has everything (Switch,
        arXiv 2101.03961)."""
        return self.probability.numel() * (self.probability * self.first_choice).sum()


class Attention(nn.Module):
    def __init__(self, shape: ModelShape, mixture: Mixture, attend: Attend) -> None:
        super().__init__()
        C, H, D, R = shape.n_embd, shape.n_head, shape.head_dim, mixture.latent_width
        self.attend, self.window = attend, shape.sequence_len
        self.n_head, self.head_dim = H, D
        self.query = Linear(C, C)
        self.key_latent = Linear(C, R)
        self.value_latent = Linear(C, R)
        self.key_expand = nn.Parameter(torch.empty(H, R, D))
        self.value_expand = nn.Parameter(torch.empty(H, R, D))
        self.c_proj = Linear(C, C)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], borders: Any) -> Tensor:
        """`(B, T, C) -> (B, T, C)`; `borders`: what the kernel must know of documents."""
        B, T, C = x.shape
        q = rotate_pairs(self.query(x).view(B, T, self.n_head, self.head_dim), rotation)  # (B, T, H, D)
        k = rotate_pairs(expand(self.key_latent(x), self.key_expand), rotation)  # (B, T, H, D)
        v = expand(self.value_latent(x), self.value_expand)  # (B, T, H, D)
        y = self.attend(q, k, v, self.window, borders)  # (B, T, H, D)
        return self.c_proj(y.reshape(B, T, C))


class SwiGLU(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate = Linear(width, inner)
        self.up = Linear(width, inner)
        self.down = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., C) -> (..., C)`"""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class MixtureOfExperts(nn.Module):
    def __init__(self, width: int, mixture: Mixture, compute_dtype: torch.dtype) -> None:
        super().__init__()
        E, inner = mixture.n_experts, mixture.expert_width
        self.compute_dtype = compute_dtype
        self.experts_per_token = mixture.experts_per_token
        self.router = nn.Parameter(torch.empty(E, width))
        self.gate = nn.Parameter(torch.empty(E, inner, width))
        self.up = nn.Parameter(torch.empty(E, inner, width))
        self.down = nn.Parameter(torch.empty(E, width, inner))
        self.shared = SwiGLU(width, inner)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """`(B, T, C) -> (B, T, C)`; x in fp32, the result in the compute dtype."""
        tokens = x.flatten(0, 1)  # (N, C)
        probability = F.linear(tokens, self.router).softmax(-1)  # (N, E)
        weight, chosen = choose(probability, self.experts_per_token)  # each (N, k)
        tokens = tokens.to(self.compute_dtype)

        groups = group_by_expert(chosen, len(self.router))
        rows = to_experts(tokens, groups)  # (N·k, C)
        inner = F.silu(grouped_product(rows, self.gate, groups)) * grouped_product(rows, self.up, groups)
        answers = from_experts(grouped_product(inner, self.down, groups), groups)  # (N, k, C)
        y = (answers * weight.to(answers.dtype)[..., None]).sum(1) + self.shared(tokens)  # (N, C)
        return y.view_as(x), routing_of(probability, chosen)


class Block(nn.Module):
    def __init__(
        self, shape: ModelShape, mixture: Mixture, attend: Attend, compute_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.compute_dtype = compute_dtype
        self.norm_1 = nn.RMSNorm(shape.n_embd, NORM_EPS)
        self.attn = Attention(shape, mixture, attend)
        self.norm_2 = nn.RMSNorm(shape.n_embd, NORM_EPS)
        self.moe = MixtureOfExperts(shape.n_embd, mixture, compute_dtype)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], borders: Any) -> tuple[Tensor, Routing]:
        """`(B, T, C) -> (B, T, C)`, fp32"""
        x = x + self.attn(self.norm_1(x).to(self.compute_dtype), rotation, borders)
        y, routing = self.moe(self.norm_2(x))
        return x + y, routing


class MoEGPT(LanguageModel):
    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        shape: ModelShape,
        *,
        compute_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        recompute: ActivationCheckpointing = "off",
        attention: AttentionKernel | None = None,
        document_start: int | None = None,
    ) -> None:
        """`document_start`: the id that begins a document, where none may see the one before it in its row."""
        super().__init__()
        C, V = shape.n_embd, shape.padded_vocab_size
        mixture = shape.mixture
        assert mixture is not None, "a shape of another family"
        self.shape = shape
        self.compute_dtype = compute_dtype
        self.recompute = recompute
        self.document_start = document_start
        self.balance_weight = mixture.balance_weight
        self._attend = attend = build_attention(attention, shape, torch.device(device))
        with torch.device(device):
            self.wte = nn.Embedding(V, C, _weight=torch.empty(V, C))
            blocks = nn.ModuleList(Block(shape, mixture, attend, compute_dtype) for _ in range(shape.n_layer))
            self.blocks = cast(
                "list[Block]", blocks
            )  # torch types the items of its containers as bare Modules
            self.norm_f = nn.RMSNorm(C, NORM_EPS)
            self.lm_head = Linear(C, V)
            cos, sin = rotary_angles(ROTARY_SPAN * shape.sequence_len, shape.head_dim)
            # no buffer: DDP would make every rank's that of the first
            self._expert_use = torch.zeros(shape.n_layer, mixture.n_experts + 3)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def longest_text(self) -> int:
        """Positions that have rotary angles."""
        return self.cos.size(0)

    def muon_names(self) -> list[str]:
        """The matrices that Muon trains: those inside the blocks, but for the tensors that expand latents."""
        return [
            name
            for name, parameter in self.named_parameters()
            if name.startswith("blocks.") and parameter.dim() >= 2 and "_expand" not in name
        ]

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draws every parameter from a generator of its own: the same seed on the same kind of device, the same bits."""
        draw = torch.Generator(device=self.wte.weight.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.ones_(parameter)
            elif "_expand" in name:
                nn.init.xavier_uniform_(parameter, generator=draw)
            else:
                nn.init.normal_(parameter, std=INIT_STD, generator=draw)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, loss_reduction: Reduction = "mean"
    ) -> Tensor:
        """`(B, T) -> (B, T, V)` fp32 logits; with targets (B, T) their loss in nats: a scalar, or (B, T) for "none".

        Target -1 counts for nothing. In training the gradient of the mean is that of the loss plus `balance_weight` times
        the layers' mean balance loss of this batch; the value is the loss alone.
        """
        x, routings = self._trunk(idx)
        if targets is None:
            return self.unembed(x)
        loss = head_cross_entropy(
            x.flatten(0, 1), self.lm_head.weight, None, targets.flatten(), loss_reduction
        )
        if loss_reduction == "none":
            return loss.view_as(targets)
        if self.training and loss_reduction == "mean":
            balance = torch.stack([routing.balance_loss() for routing in routings])  # (L,)
            self._note_use(routings, balance.detach())
            penalty = self.balance_weight * balance.mean()
            loss = loss + (penalty - penalty.detach())
        return loss

    def hidden_states(self, idx: Tensor) -> Tensor:
        """`(B, T) -> (B, T, C)`: all of the model but the head, in the compute dtype."""
        return self._trunk(idx)[0]

    def _trunk(self, idx: Tensor) -> tuple[Tensor, list[Routing]]:
        T = idx.size(1)
        assert self.longest_text >= T, f"{T} positions exceed the rotary table's {self.longest_text}"
        rotation = self.cos[:T], self.sin[:T]  # each (T, 1, D/2)
        borders = None
        if self.document_start is not None:  # positions run on
            borders = borders_of(self._attend, (idx == self.document_start).cumsum(1, dtype=torch.int32))
        x = self.wte(idx)  # (B, T, C)
        routings = []
        for block in self.blocks:
            x, routing = run_block(self.recompute, block, x, rotation, borders)
            routings.append(routing)
        return self.norm_f(x).to(self.compute_dtype), routings

    def unembed(self, x: Tensor) -> Tensor:
        """`(..., C) -> (..., V)` fp32 logits."""
        return self.lm_head(x).float()

    @torch.no_grad()
    def _note_use(self, routings: list[Routing], balance: Tensor) -> None:
        shares = torch.stack([routing.share for routing in routings])  # (L, E)
        entropies = torch.stack([routing.entropy for routing in routings])  # (L,)
        rest = torch.stack([balance, entropies, torch.ones_like(balance)], dim=1)  # (L, 3)
        self._expert_use.add_(torch.cat([shares, rest], dim=1))

    def take_expert_use(self) -> Tensor:
        """`(L, E + 3)` on the host, summed over the batches trained on since it was last taken: each expert's share of the
        choices, the balance loss, the router's entropy in nats, and 1."""
        use = self._expert_use.cpu().clone()
        self._expert_use.zero_()
        return use


def choose(probability: Tensor, experts_per_token: int) -> tuple[Tensor, Tensor]:
    """`(N, E) -> (N, k), (N, k)`: the likeliest experts' weights, which add up to 1, and their numbers."""
    likeliest, chosen = probability.topk(experts_per_token)
    return likeliest / likeliest.sum(-1, keepdim=True), chosen


def routing_of(probability: Tensor, chosen: Tensor) -> Routing:
    """(N, E), (N, k)"""
    E = probability.size(1)
    with torch.no_grad():
        votes = F.one_hot(chosen, E).to(probability.dtype)  # (N, k, E)
        entropy = torch.special.entr(probability).sum(-1).mean()
        first_choice, share = votes[:, 0].mean(0), votes.mean((0, 1))
    return Routing(probability.mean(0), first_choice, share, entropy)


def expand(latent: Tensor, expander: Tensor) -> Tensor:
    """`(B, T, R), (H, R, D) -> (B, T, H, D)`: each head's own view of the latent."""
    H, R, D = expander.shape
    matrix = expander.to(latent.dtype).transpose(0, 1).reshape(R, H * D)
    return (latent @ matrix).view(*latent.shape[:-1], H, D)


def rotary_angles(positions: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (positions, 1, D/2), in fp32."""
    frequencies = ROTARY_BASE ** -(torch.arange(0, head_dim, 2) / head_dim)  # (D/2,)
    angles = torch.outer(torch.arange(positions).float(), frequencies)[:, None]  # (positions, 1, D/2)
    return angles.cos(), angles.sin()


def rotate_pairs(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """`(B, T, H, D) -> (B, T, H, D)`: channel 2i is turned with channel 2i + 1; the angles are (T, 1, D/2), or (B, 1, 1, D/2)."""
    cos, sin = rotation
    even, odd = x[..., 0::2], x[..., 1::2]  # (B, T, H, D/2)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
