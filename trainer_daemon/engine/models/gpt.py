"""The model of family nanochat, whole: change it here.

A decoder-only transformer without biases or learned norms: rotary positions, QK-norm, relu², a sliding window on most
layers, value embeddings on every second one, a smear of each token into the next, and scalars that mix the embedding
back into every block. Shapes come from `contract.scaling.ModelShape`. Matrices are kept in fp32 and cast where they
are used; embedding tables are kept in the compute dtype. `inference/decoder.py` computes the same function for writing,
fast: until it is changed as well, text is right but slow.

B batch   T tokens   C width   H heads   K key/value heads   D head width   V vocabulary   L layers
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer_daemon.contract.estimate import ActivationCheckpointing
from trainer_daemon.contract.events import AttentionKernel
from trainer_daemon.contract.scaling import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, ModelShape
from trainer_daemon.engine.models.attention import Attend, borders_of, build_attention
from trainer_daemon.engine.models.fp8 import fits_fp8, product
from trainer_daemon.engine.models.fused import rms_norm, rotary_tables, rotate
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.models.linear import Linear
from trainer_daemon.engine.models.loss import Reduction, softcap, softcapped_cross_entropy
from trainer_daemon.engine.models.recompute import run_block

LOGIT_CAP = 15.0
ROTARY_BASE = 100_000.0
ROTARY_SPAN = 10
"""Positions with rotary angles, in contexts: few-shot evaluation prompts run longer than the training context."""
QK_GAIN = 1.2
"""Sharpens attention after QK-norm."""
VALUE_GATE_MAX = 3.0


class Attention(nn.Module):
    def __init__(self, shape: ModelShape, layer: int, attend: Attend) -> None:
        super().__init__()
        self.attend = attend
        C, H, K, D = shape.n_embd, shape.n_head, shape.n_kv_head, shape.head_dim
        self.layer, self.window = layer, shape.windows[layer]
        self.n_head, self.n_kv_head, self.head_dim = H, K, D
        self.c_q = Linear(C, H * D)
        self.c_k = Linear(C, K * D)
        self.c_v = Linear(C, K * D)
        self.c_proj = Linear(C, C)
        self.ve_gate = Linear(VALUE_GATE_CHANNELS, K) if shape.has_value_embedding(layer) else None

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        value_embedding: Tensor | None,
        borders: Any,
    ) -> Tensor:
        """`(B, T, C) -> (B, T, C)`; `value_embedding` is (B, T, K·D) on the layers that have one, `borders` what the
        kernel must know of documents."""
        B, T, C = x.shape
        H, K, D = self.n_head, self.n_kv_head, self.head_dim
        # one product over the three stacked weights reads x once
        weight = torch.cat([self.c_q.weight, self.c_k.weight, self.c_v.weight])  # ((H+2K)·D, C)
        fp8 = self.c_q.fp8 if self.training and fits_fp8(weight.shape) else None
        qkv = product(x, weight, fp8).view(B, T, H + 2 * K, D)
        qk, v = torch.split(qkv, [H + K, K], dim=2)  # (B, T, H+K, D), (B, T, K, D)
        if self.ve_gate is not None and value_embedding is not None:
            gate = VALUE_GATE_MAX * torch.sigmoid(self.ve_gate(x[..., :VALUE_GATE_CHANNELS]))  # (B, T, K)
            v = v + gate[..., None] * value_embedding.view(B, T, K, D)
        qk = rms_norm(rotate(qk, *rotation), gain=QK_GAIN)
        q, k = torch.split(qk, [H, K], dim=2)  # (B, T, H, D), (B, T, K, D)
        y = self.attend(q, k, v, self.window, borders)  # (B, T, H, D)
        return self.c_proj(y.reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.c_fc = Linear(shape.n_embd, 4 * shape.n_embd)
        self.c_proj = Linear(4 * shape.n_embd, shape.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C) -> (B, T, C)`"""
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, shape: ModelShape, layer: int, attend: Attend) -> None:
        super().__init__()
        self.attn = Attention(shape, layer, attend)
        self.mlp = MLP(shape)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        value_embedding: Tensor | None,
        borders: Any,
    ) -> Tensor:
        """`(B, T, C) -> (B, T, C)`"""
        x = x + self.attn(rms_norm(x), rotation, value_embedding, borders)
        return x + self.mlp(rms_norm(x))


class GPT(LanguageModel):
    caps_logits = True
    """Uninitialised after construction: call `init_weights`, or load a state dict."""

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
        L, C, table_rows = shape.n_layer, shape.n_embd, shape.padded_vocab_size
        self.shape = shape
        self.compute_dtype = compute_dtype
        self.recompute = recompute
        self.document_start = document_start
        self._attend = attend = build_attention(attention, shape, torch.device(device))
        # fp16 has too little range for a table's gradients and moments
        table_dtype = torch.float32 if compute_dtype == torch.float16 else compute_dtype
        with torch.device(device):
            self.wte = _table(table_rows, C, table_dtype)
            # torch types the items of its containers as bare Modules, hence the casts
            value_embeds = {
                str(layer): _table(table_rows, shape.n_kv_head * shape.head_dim, table_dtype)
                for layer in range(L)
                if shape.has_value_embedding(layer)
            }
            self.value_embeds = cast("dict[str, nn.Embedding]", nn.ModuleDict(value_embeds))
            self.smear_gate = Linear(SMEAR_GATE_CHANNELS, 1)
            self.smear_lambda = nn.Parameter(torch.empty(1))
            self.resid_lambdas = nn.Parameter(torch.empty(L))
            self.x0_lambdas = nn.Parameter(torch.empty(L))
            self.backout_lambda = nn.Parameter(torch.empty(1))
            self.blocks = cast(
                "list[Block]", nn.ModuleList(Block(shape, layer, attend) for layer in range(L))
            )
            self.lm_head = Linear(C, table_rows)
            positions = ROTARY_SPAN * shape.sequence_len
            cos, sin = rotary_tables(positions, shape.head_dim, ROTARY_BASE, compute_dtype)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def longest_text(self) -> int:
        """Positions that have rotary angles."""
        return self.cos.size(0)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draws every parameter from a generator of its own: the same seed on the same kind of device, the same bits."""
        draw = torch.Generator(device=self.wte.weight.device).manual_seed(seed)
        L, bound = self.shape.n_layer, 3**0.5 * self.shape.n_embd**-0.5  # U(-bound, bound) has std C^-1/2
        nn.init.normal_(self.wte.weight, std=0.8, generator=draw)
        nn.init.normal_(self.lm_head.weight, std=0.001, generator=draw)
        for block in self.blocks:
            attn, mlp = block.attn, block.mlp
            for projection in (attn.c_q, attn.c_k, attn.c_v):
                nn.init.uniform_(projection.weight, -bound, bound, generator=draw)
            nn.init.uniform_(mlp.c_fc.weight, -0.4 * bound, 0.4 * bound, generator=draw)
            nn.init.zeros_(attn.c_proj.weight)  # each block begins as the identity
            nn.init.zeros_(mlp.c_proj.weight)
            if attn.ve_gate is not None:
                nn.init.uniform_(attn.ve_gate.weight, 0.0, 0.02, generator=draw)
        for embedding in self.value_embeds.values():
            nn.init.uniform_(embedding.weight, -bound, bound, generator=draw)
        nn.init.uniform_(self.smear_gate.weight, 0.0, 0.02, generator=draw)
        nn.init.zeros_(self.smear_lambda)
        nn.init.constant_(self.backout_lambda, 0.2)
        depth = torch.arange(L, device=draw.device) / max(L - 1, 1)  # 0 at the first layer, 1 at the last
        self.resid_lambdas.copy_(1.15 - 0.10 * depth)
        self.x0_lambdas.copy_(0.20 - 0.15 * depth)

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        *,
        loss_reduction: Reduction = "mean",
    ) -> Tensor:
        """`(B, T) -> (B, T, V)` fp32 logits; with targets (B, T) their loss in nats: a scalar, or (B, T) for "none".

        Target -1 counts for nothing. Training goes through here, loss included, so that a wrapper such as DDP sees one
        forward.
        """
        x = self.hidden_states(idx)
        if targets is None:
            return self.unembed(x)
        head = self.lm_head.weight[: self.shape.vocab_size]
        loss = softcapped_cross_entropy(x.flatten(0, 1), head, targets.flatten(), LOGIT_CAP, loss_reduction)
        return loss.view_as(targets) if loss_reduction == "none" else loss

    def hidden_states(self, idx: Tensor) -> Tensor:
        """`(B, T) -> (B, T, C)`: all of the model but the head."""
        T = idx.size(1)
        assert self.longest_text >= T, f"{T} positions exceed the rotary table's {self.longest_text}"
        heads = self.shape.n_head + self.shape.n_kv_head  # rotated together
        cos, sin = (table[:T].expand(T, heads, -1).contiguous() for table in (self.cos, self.sin))

        begins, borders = None, None
        if self.document_start is not None:
            # positions run on: rotary angles only tell how far apart two tokens are
            begins = idx == self.document_start
            borders = borders_of(self._attend, begins.cumsum(1, dtype=torch.int32))

        x = rms_norm(self.wte(idx).to(self.compute_dtype))  # (B, T, C)
        x = x0 = self.smear(x, begins)
        backout = x
        for layer, block in enumerate(self.blocks):
            x = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * x0
            table = self.value_embeds[str(layer)] if self.shape.has_value_embedding(layer) else None
            value_embedding = table(idx).to(x.dtype) if table is not None else None  # (B, T, K·D)
            x = run_block(self.recompute, block, x, (cos, sin), value_embedding, borders)
            if layer == self.shape.n_layer // 2:
                backout = x
        return rms_norm(x - self.backout_lambda.to(x.dtype) * backout)

    def smear(self, x: Tensor, begins: Tensor | None) -> Tensor:
        """`(B, T, C) -> (B, T, C)`: adds to each token a gated share of the one before; the first of all has none, nor
        has one that begins a document, `begins` (B, T)."""
        gate = torch.sigmoid(self.smear_gate(x[:, 1:, :SMEAR_GATE_CHANNELS]))  # (B, T-1, 1)
        if begins is not None:
            gate = gate.masked_fill(begins[:, 1:, None], 0)
        return torch.cat([x[:, :1], x[:, 1:] + self.smear_lambda.to(x.dtype) * gate * x[:, :-1]], dim=1)

    def unembed(self, x: Tensor) -> Tensor:
        """`(B, T, C) -> (B, T, V)` fp32 logits within ±15; the table's padding rows are cut off."""
        return softcap(self.lm_head(x)[..., : self.shape.vocab_size], LOGIT_CAP)


def _table(rows: int, width: int, dtype: torch.dtype) -> nn.Embedding:
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width, dtype=dtype))
