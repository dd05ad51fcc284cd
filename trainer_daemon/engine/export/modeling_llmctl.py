"""The model of llmctl for Hugging Face transformers: loaded with `trust_remote_code=True` from the folder it lies in.

Exported beside the weights because transformers has no architecture that computes this function: its NanoChat family lacks
value embeddings, the smear, sliding windows, residual scalars and backout. Whole texts are read each time; there is no
cache. Depends on torch and transformers alone, so that the folder needs nothing of llmctl.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class LlmctlConfig(PretrainedConfig):
    model_type = "llmctl"

    def __init__(
        self,
        vocab_size: int = 32768,
        padded_vocab_size: int = 32768,
        num_hidden_layers: int = 4,
        hidden_size: int = 256,
        num_attention_heads: int = 2,
        num_key_value_heads: int = 2,
        head_dim: int = 128,
        max_position_embeddings: int = 2048,
        windows: list[int] | None = None,
        value_embedding_layers: list[int] | None = None,
        rope_theta: float = 100_000.0,
        qk_gain: float = 1.2,
        value_gate_max: float = 3.0,
        value_gate_channels: int = 12,
        smear_gate_channels: int = 24,
        final_logit_softcapping: float = 15.0,
        norm_eps: float = 2**-23,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.padded_vocab_size = padded_vocab_size
        self.num_hidden_layers = num_hidden_layers
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.windows = windows or [max_position_embeddings] * num_hidden_layers
        self.value_embedding_layers = value_embedding_layers or []
        self.rope_theta = rope_theta
        self.qk_gain = qk_gain
        self.value_gate_max = value_gate_max
        self.value_gate_channels = value_gate_channels
        self.smear_gate_channels = smear_gate_channels
        self.final_logit_softcapping = final_logit_softcapping
        self.norm_eps = norm_eps
        kwargs.setdefault("tie_word_embeddings", False)
        kwargs.setdefault("use_cache", False)
        super().__init__(**kwargs)


class Attention(nn.Module):
    def __init__(self, config: LlmctlConfig, layer: int) -> None:
        super().__init__()
        self.config, self.window = config, config.windows[layer]
        C, D = config.hidden_size, config.head_dim
        H, K = config.num_attention_heads, config.num_key_value_heads
        self.c_q = nn.Linear(C, H * D, bias=False)
        self.c_k = nn.Linear(C, K * D, bias=False)
        self.c_v = nn.Linear(C, K * D, bias=False)
        self.c_proj = nn.Linear(C, C, bias=False)
        if layer in config.value_embedding_layers:
            self.ve_gate = nn.Linear(config.value_gate_channels, K, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, value_embedding: Tensor | None) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        c = self.config
        B, T, C = x.shape
        q, k, v = (
            product(x).view(B, T, -1, c.head_dim).transpose(1, 2)
            for product in (self.c_q, self.c_k, self.c_v)
        )  # (B, heads, T, D)
        if value_embedding is not None:
            gate = c.value_gate_max * torch.sigmoid(
                self.ve_gate(x[..., : c.value_gate_channels])
            )  # (B, T, K)
            v = v + gate.transpose(1, 2)[..., None] * value_embedding.view(B, T, -1, c.head_dim).transpose(
                1, 2
            )
        q, k = (c.qk_gain * norm(rotate(z, cos, sin), c.norm_eps) for z in (q, k))
        at = torch.arange(T, device=x.device)
        back = at[:, None] - at[None, :]  # how far before the query the key is
        mask = (back >= 0) & (back <= self.window)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.size(1) != k.size(1))
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config: LlmctlConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, 4 * config.hidden_size, bias=False)
        self.c_proj = nn.Linear(4 * config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, config: LlmctlConfig, layer: int) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, value_embedding: Tensor | None) -> Tensor:
        x = x + self.attn(norm(x, self.eps), cos, sin, value_embedding)
        return x + self.mlp(norm(x, self.eps))


class LlmctlForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = LlmctlConfig
    _no_split_modules = ("Block",)

    def __init__(self, config: LlmctlConfig) -> None:
        super().__init__(config)
        C, L = config.hidden_size, config.num_hidden_layers
        self.wte = nn.Embedding(config.padded_vocab_size, C)
        width = config.num_key_value_heads * config.head_dim
        self.value_embeds = nn.ModuleDict(
            {
                str(layer): nn.Embedding(config.padded_vocab_size, width)
                for layer in config.value_embedding_layers
            }
        )
        self.smear_gate = nn.Linear(config.smear_gate_channels, 1, bias=False)
        self.smear_lambda = nn.Parameter(torch.zeros(1))
        self.resid_lambdas = nn.Parameter(torch.ones(L))
        self.x0_lambdas = nn.Parameter(torch.zeros(L))
        self.backout_lambda = nn.Parameter(torch.zeros(1))
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(L))
        self.lm_head = nn.Linear(C, config.padded_vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_unused: Any,
    ) -> CausalLMOutput:
        """(B, T) -> logits (B, T, V). Texts of a batch must be of one length: the smear would read the padding."""
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("this model takes no padding; give it texts of one length")
        c = self.config
        cos, sin = rotary(input_ids.size(1), c.head_dim, c.rope_theta, self.wte.weight)
        x = norm(self.wte(input_ids), c.norm_eps)  # (B, T, C)
        gate = torch.sigmoid(self.smear_gate(x[:, 1:, : c.smear_gate_channels]))  # (B, T-1, 1)
        x = x0 = torch.cat([x[:, :1], x[:, 1:] + self.smear_lambda * gate * x[:, :-1]], dim=1)
        backout = x
        for layer, block in enumerate(self.blocks):
            x = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * x0
            table = self.value_embeds[str(layer)] if layer in c.value_embedding_layers else None
            x = block(x, cos, sin, None if table is None else table(input_ids))
            if layer == c.num_hidden_layers // 2:
                backout = x
        x = norm(x - self.backout_lambda * backout, c.norm_eps)
        logits = self.lm_head(x)[..., : c.vocab_size].float()
        logits = c.final_logit_softcapping * torch.tanh(logits / c.final_logit_softcapping)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_unused: Any) -> dict[str, Tensor]:
        """Everything is read again for each token, the last context of it."""
        return {"input_ids": input_ids[:, -self.config.max_position_embeddings :]}


def norm(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), eps=eps)


def rotary(positions: int, head_dim: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (T, D/2)."""
    frequencies = base ** -(torch.arange(0, head_dim, 2, device=like.device) / head_dim)
    angles = torch.outer(torch.arange(positions, device=like.device).float(), frequencies)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, heads, T, D): channel i pairs with i + D/2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)
