"""Writing as one would first build it, and as the peer project does: the training model, eager, one text, a cache of keys.

The yardstick of the decoder: nothing is packed, weights are cast at each use, and every operator is called from Python. The
cache is preallocated, so it is no straw man. A test holds that it computes what the model computes.
"""

from functools import partial

import torch
from torch import Tensor

from trainer_daemon.engine.models.fused import rms_norm
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.models.plain_attention import attend


class CachedEager:
    """One text, by a model whose attention it takes over."""

    def __init__(self, model: GPT) -> None:
        self._model, shape = model.eval(), model.shape
        room = (shape.n_layer, 1, shape.sequence_len, shape.n_kv_head, shape.head_dim)
        self._keys = torch.zeros(room, dtype=model.compute_dtype)
        self._values = torch.zeros(room, dtype=model.compute_dtype)
        self._embedding: Tensor | None = None
        """(1, 1, C): of the last token, for the smear."""
        self.length = 0
        """Tokens read; setting it back forgets what came behind."""
        for layer, block in enumerate(model.blocks):
            block.attn.attend = partial(self._attend, layer)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, _documents: None) -> Tensor:
        """(1, T, H, D), (1, T, K, D), (1, T, K, D) -> (1, T, H, D)"""
        end = self.length + q.size(1)
        self._keys[layer][:, self.length : end] = k
        self._values[layer][:, self.length : end] = v
        return attend(q, self._keys[layer][:, :end], self._values[layer][:, :end], window)

    @torch.no_grad()
    def read(self, ids: list[int]) -> Tensor:
        """(T,) -> (V,) logits for the token after these, which continue the text."""
        model, shape, end = self._model, self._model.shape, self.length + len(ids)
        idx = torch.tensor([ids])
        heads = shape.n_head + shape.n_kv_head
        cos, sin = (
            table[self.length : end].expand(len(ids), heads, -1).contiguous()
            for table in (model.cos, model.sin)
        )
        embedded = rms_norm(model.wte(idx).to(model.compute_dtype))  # (1, T, C)
        if self._embedding is None:
            x = model.smear(embedded, None)
        else:
            x = model.smear(torch.cat([self._embedding, embedded], dim=1), None)[:, 1:]
        self._embedding = embedded[:, -1:]
        backout = x0 = x
        for layer, block in enumerate(model.blocks):
            x = model.resid_lambdas[layer] * x + model.x0_lambdas[layer] * x0
            value = None
            if shape.has_value_embedding(layer):
                value = model.value_embeds[str(layer)](idx).to(x.dtype)
            x = block(x, (cos, sin), value, None)
            if layer == shape.n_layer // 2:
                backout = x
        self.length = end
        x = rms_norm(x - model.backout_lambda.to(x.dtype) * backout)
        return model.unembed(x[:, -1:])[0, 0]
