"""The model of family classic, whole: change it here.

The GPT of the textbooks: learned positions, LayerNorm before attention and MLP, ReLU, biases everywhere but on queries,
keys and values, and a head with weights and a bias of its own. PyTorch's default initialisation. Parameters are kept in
fp32; as under autocast, products are made in the compute dtype while norms and the residual stream stay in fp32.
`inference/classic_decoder.py` computes the same function for writing, fast: until it is changed as well, text is right
but slow.

B batch   T tokens   C width   H heads   D head width   V vocabulary   L layers
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer_daemon.contract.estimate import ActivationCheckpointing
from trainer_daemon.contract.events import AttentionKernel
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.engine.models.attention import Attend, borders_of, build_attention
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.models.linear import Linear
from trainer_daemon.engine.models.loss import Reduction, head_cross_entropy
from trainer_daemon.engine.models.recompute import run_block

NORM_EPS = 1e-5


class Attention(nn.Module):
    def __init__(self, shape: ModelShape, attend: Attend) -> None:
        super().__init__()
        self.attend, self.window = attend, shape.sequence_len
        self.n_head, self.head_dim = shape.n_head, shape.head_dim
        self.qkv = Linear(shape.n_embd, 3 * shape.n_embd)
        self.c_proj = Linear(shape.n_embd, shape.n_embd, bias=True)

    def forward(self, x: Tensor, borders: Any) -> Tensor:
        """`(B, T, C) -> (B, T, C)`; `borders`: what the kernel must know of documents."""
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3 * self.n_head, self.head_dim).chunk(3, dim=2)  # each (B, T, H, D)
        y = self.attend(q, k, v, self.window, borders)  # (B, T, H, D)
        return self.c_proj(y.reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.c_fc = Linear(shape.n_embd, 4 * shape.n_embd, bias=True)
        self.c_proj = Linear(4 * shape.n_embd, shape.n_embd, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C) -> (B, T, C)`"""
        return self.c_proj(F.relu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, shape: ModelShape, attend: Attend, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.compute_dtype = compute_dtype
        self.ln_1 = nn.LayerNorm(shape.n_embd, NORM_EPS)
        self.attn = Attention(shape, attend)
        self.ln_2 = nn.LayerNorm(shape.n_embd, NORM_EPS)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, borders: Any) -> Tensor:
        """`(B, T, C) -> (B, T, C)`, fp32"""
        x = x + self.attn(self.ln_1(x).to(self.compute_dtype), borders)
        return x + self.mlp(self.ln_2(x).to(self.compute_dtype))


class ClassicGPT(LanguageModel):
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
        C, table_rows = shape.n_embd, shape.padded_vocab_size
        self.shape = shape
        self.compute_dtype = compute_dtype
        self.recompute = recompute
        self.document_start = document_start
        self._attend = attend = build_attention(attention, shape, torch.device(device))
        with torch.device(device):
            self.wte = _table(table_rows, C)
            self.wpe = _table(shape.learned_positions, C)
            blocks = nn.ModuleList(Block(shape, attend, compute_dtype) for _ in range(shape.n_layer))
            self.blocks = cast(
                "list[Block]", blocks
            )  # torch types the items of its containers as bare Modules
            self.ln_f = nn.LayerNorm(C, NORM_EPS)
            self.lm_head = Linear(C, table_rows, bias=True)

    @property
    def longest_text(self) -> int:
        """Positions that have an embedding."""
        return self.wpe.num_embeddings

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draws every parameter from a generator of its own: the same seed on the same kind of device, the same bits."""
        draw = torch.Generator(device=self.wte.weight.device).manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=draw)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=draw)
                if module.bias is not None:
                    nn.init.uniform_(module.bias, -bound, bound, generator=draw)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, loss_reduction: Reduction = "mean"
    ) -> Tensor:
        """`(B, T) -> (B, T, V)` fp32 logits; with targets (B, T) their loss in nats: a scalar, or (B, T) for "none".

        Target -1 counts for nothing.
        """
        x = self.hidden_states(idx)
        if targets is None:
            return self.unembed(x)
        V = self.shape.vocab_size
        loss = head_cross_entropy(
            x.flatten(0, 1), self.lm_head.weight[:V], self.lm_head.bias[:V], targets.flatten(), loss_reduction
        )
        return loss.view_as(targets) if loss_reduction == "none" else loss

    def hidden_states(self, idx: Tensor) -> Tensor:
        """`(B, T) -> (B, T, C)`: all of the model but the head, in the compute dtype."""
        T = idx.size(1)
        assert self.longest_text >= T, f"{T} positions, and {self.longest_text} have an embedding"
        borders = None
        if self.document_start is not None:  # positions run on
            borders = borders_of(self._attend, (idx == self.document_start).cumsum(1, dtype=torch.int32))
        x = self.wte(idx) + self.wpe.weight[:T]  # (B, T, C)
        for block in self.blocks:
            x = run_block(self.recompute, block, x, borders)
        return self.ln_f(x).to(self.compute_dtype)

    def unembed(self, x: Tensor) -> Tensor:
        """`(..., C) -> (..., V)` fp32 logits; the table's padding rows are cut off."""
        return self.lm_head(x)[..., : self.shape.vocab_size].float()


def _table(rows: int, width: int) -> nn.Embedding:
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))
