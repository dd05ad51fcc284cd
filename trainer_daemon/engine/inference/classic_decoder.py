"""The model of `models/classic.py` a second time, for writing, as `decoder.py` has that of family nanochat.

N texts   B batch   T tokens   C width   H heads   D head width   V vocabulary
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_daemon.engine.inference.decoder import Decoder, LayerAttention, Product, packed
from trainer_daemon.engine.models.classic import NORM_EPS


@dataclass(frozen=True)
class _Norm:
    """LayerNorm in fp32, its result in the dtype of the products."""

    gain: Tensor
    bias: Tensor
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias, NORM_EPS).to(self.dtype)


@dataclass(frozen=True)
class _Layer:
    attn_norm: _Norm
    qkv: Product
    """`(..., C) -> (..., 3·C)`"""
    attn_out: Product
    mlp_norm: _Norm
    fc: Product
    mlp_out: Product


class ClassicDecoder(Decoder):
    """The residual stream is fp32, as in training."""

    def _load(self, t: Mapping[str, Tensor]) -> None:
        def product(name: str) -> Product:
            bias = t.get(f"{name}.bias")
            return packed(t[f"{name}.weight"].to(self.dtype), None if bias is None else bias.to(self.dtype))

        def norm(name: str) -> _Norm:
            return _Norm(t[f"{name}.weight"], t[f"{name}.bias"], self.dtype)

        self._embedding, self._positions = t["wte.weight"], t["wpe.weight"]
        self._blocks = [
            _Layer(
                attn_norm=norm(f"blocks.{i}.ln_1"),
                qkv=product(f"blocks.{i}.attn.qkv"),
                attn_out=product(f"blocks.{i}.attn.c_proj"),
                mlp_norm=norm(f"blocks.{i}.ln_2"),
                fc=product(f"blocks.{i}.mlp.c_fc"),
                mlp_out=product(f"blocks.{i}.mlp.c_proj"),
            )
            for i in range(self.shape.n_layer)
        ]
        self._last_norm = norm("ln_f")
        self._head = product("lm_head")

    def _embed(self, idx: Tensor, position: Tensor) -> Tensor:
        return F.embedding(idx, self._embedding) + self._positions[position]

    def _trunk(
        self,
        _idx: Tensor,
        embedding: Tensor,
        _before: Tensor,
        _position: Tensor,
        attention: LayerAttention,
    ) -> Tensor:
        x = embedding
        B, T, C = x.shape
        for i, layer in enumerate(self._blocks):
            qkv = layer.qkv(layer.attn_norm(x)).view(B, T, 3 * self.shape.n_head, self.shape.head_dim)
            q, k, v = qkv.chunk(3, dim=2)  # each (B, T, H, D)
            x = x + layer.attn_out(attention(i, q, k, v).reshape(B, T, C))
            x = x + layer.mlp_out(F.relu(layer.fc(layer.mlp_norm(x))))
        return self._last_norm(x)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._head(hidden)[:, : self.shape.vocab_size].float()
