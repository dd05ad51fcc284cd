"""The model of `models/moe.py` a second time, for writing, as `decoder.py` has that of family nanochat.

The cache keeps expanded keys and values, turned as they are seen, and not the narrow latents: sixteen times the memory at
width 1024, for which a step expands one position instead of all. Each step reads the experts that its texts chose; on a GPU it
asks all of them, since what is recorded as a CUDA graph cannot wait to hear which these are.

N texts   B batch   T tokens   C width   H heads   D head width   R latent width   E experts   V vocabulary
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_daemon.engine.inference.decoder import Decoder, LayerAttention, Product, packed
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.models.moe import (
    NORM_EPS,
    choose,
    expand,
    rotary_angles,
    rotate_pairs,
)

TEXTS_COMPARED = 4


@dataclass(frozen=True)
class _Expert:
    gate: Product
    up: Product
    down: Product

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


@dataclass(frozen=True)
class _Layer:
    attn_gain: Tensor
    """(C,), fp32"""
    query: Product
    key_latent: Product
    value_latent: Product
    key_expand: Tensor
    """(H, R, D)"""
    value_expand: Tensor
    attn_out: Product
    moe_gain: Tensor
    router: Tensor
    """(E, C), fp32"""
    experts: tuple[_Expert, ...]
    shared: _Expert


def ask_chosen(experts: Sequence[_Expert], tokens: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """(E), (N, C), (N, k), (N, k) -> (N, C): each expert reads the tokens that chose it."""
    y = torch.zeros_like(tokens)
    for e in torch.unique(chosen).tolist():
        token, choice = (chosen == e).nonzero(as_tuple=True)
        y.index_add_(0, token, experts[e](tokens[token]) * weight[token, choice, None])
    return y


def ask_all(experts: Sequence[_Expert], tokens: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """The same without a word to the host: each expert reads all tokens, and counts where it was chosen."""
    share = weight.new_zeros(len(tokens), len(experts)).scatter(1, chosen, weight)  # (N, E)
    y = torch.zeros_like(tokens)
    for e, expert in enumerate(experts):
        y += expert(tokens) * share[:, e, None]
    return y


class MoEDecoder(Decoder):
    """The residual stream and the router are fp32, as in training."""

    def _load(self, t: Mapping[str, Tensor]) -> None:
        assert self.shape.mixture is not None, "a shape of another family"
        self._experts_per_token = self.shape.mixture.experts_per_token

        def product(weight: Tensor) -> Product:
            return packed(weight.to(self.dtype))

        def layer(i: int) -> _Layer:
            a, m = f"blocks.{i}.attn.", f"blocks.{i}.moe."
            stacks = (t[f"{m}{name}"].unbind() for name in ("gate", "up", "down"))
            return _Layer(
                attn_gain=t[f"blocks.{i}.norm_1.weight"],
                query=product(t[f"{a}query.weight"]),
                key_latent=product(t[f"{a}key_latent.weight"]),
                value_latent=product(t[f"{a}value_latent.weight"]),
                key_expand=t[f"{a}key_expand"].to(self.dtype),
                value_expand=t[f"{a}value_expand"].to(self.dtype),
                attn_out=product(t[f"{a}c_proj.weight"]),
                moe_gain=t[f"blocks.{i}.norm_2.weight"],
                router=t[f"{m}router"],
                experts=tuple(_Expert(*map(product, weights)) for weights in zip(*stacks, strict=True)),
                shared=_Expert(*(product(t[f"{m}shared.{name}.weight"]) for name in ("gate", "up", "down"))),
            )

        self._embedding = t["wte.weight"]
        self._blocks = [layer(i) for i in range(self.shape.n_layer)]
        self._last_gain = t["norm_f.weight"]
        self._head = product(t["lm_head.weight"])
        self._cos, self._sin = (
            table.to(self.device) for table in rotary_angles(self.shape.sequence_len, self.shape.head_dim)
        )  # (T, 1, D/2)

    def agrees_with(self, model: LanguageModel) -> bool:
        """As `Decoder` has it, of the first of a few texts that agrees: where a router is undecided between two experts, a
        rounding sends a token to the other one, and that text's logits come out otherwise without another function."""
        return any(self._agrees_on(model, start) for start in range(1, TEXTS_COMPARED + 1))

    def _embed(self, idx: Tensor, _position: Tensor) -> Tensor:
        return F.embedding(idx, self._embedding)

    def _trunk(
        self,
        _idx: Tensor,
        embedding: Tensor,
        _before: Tensor,
        position: Tensor,
        attention: LayerAttention,
    ) -> Tensor:
        x = embedding
        B, T, C = x.shape
        rotation = self._cos[position], self._sin[position]  # (T, 1, D/2) or (B, 1, 1, D/2)
        for i, layer in enumerate(self._blocks):
            u = self._norm(x, layer.attn_gain).to(self.dtype)
            q = rotate_pairs(layer.query(u).view(B, T, self.shape.n_head, self.shape.head_dim), rotation)
            k = rotate_pairs(expand(layer.key_latent(u), layer.key_expand), rotation)
            v = expand(layer.value_latent(u), layer.value_expand)  # each (B, T, H, D)
            x = x + layer.attn_out(attention(i, q, k, v).reshape(B, T, C))
            x = x + self._mixture(layer, self._norm(x, layer.moe_gain))
        return self._norm(x, self._last_gain).to(self.dtype)

    def _mixture(self, layer: _Layer, x: Tensor) -> Tensor:
        """`(B, T, C) -> (B, T, C)`"""
        tokens = x.flatten(0, 1)  # (B·T, C)
        weight, chosen = choose(F.linear(tokens, layer.router).softmax(-1), self._experts_per_token)
        ask = ask_all if x.is_cuda and x.size(1) == 1 else ask_chosen
        tokens = tokens.to(self.dtype)
        y = layer.shared(tokens) + ask(layer.experts, tokens, weight.to(self.dtype), chosen)
        return y.view_as(x)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._head(hidden).float()

    @staticmethod
    def _norm(x: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(x, gain.shape, gain, NORM_EPS)
