"""The mixture of experts of llmctl for Hugging Face transformers: loaded with `trust_remote_code=True` from the folder it lies
in.

Exported beside the weights because transformers has no mixture whose keys and values come from one latent each, turned after
it was expanded. Whole texts are read each time; there is no cache. Depends on torch and transformers alone, so that the folder
needs nothing of llmctl.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class LlmctlMoEConfig(PretrainedConfig):
    model_type = "llmctl_moe"

    def __init__(
        self,
        vocab_size: int = 50257,
        num_hidden_layers: int = 4,
        hidden_size: int = 256,
        num_attention_heads: int = 8,
        max_position_embeddings: int = 1024,
        num_experts: int = 6,
        num_experts_per_tok: int = 2,
        moe_intermediate_size: int = 688,
        latent_size: int = 64,
        rope_theta: float = 10_000.0,
        norm_eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.num_hidden_layers = num_hidden_layers
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.latent_size = latent_size
        self.rope_theta = rope_theta
        self.norm_eps = norm_eps
        kwargs.setdefault("tie_word_embeddings", False)
        kwargs.setdefault("use_cache", False)
        super().__init__(**kwargs)


def turned(x: Tensor, theta: float) -> Tensor:
    """(B, T, H, D): channel 2i with channel 2i + 1."""
    T, D = x.size(1), x.size(-1)
    frequencies = theta ** -(torch.arange(0, D, 2, device=x.device) / D)
    angles = torch.outer(torch.arange(T, device=x.device).float(), frequencies)[:, None]  # (T, 1, D/2)
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: LlmctlMoEConfig) -> None:
        super().__init__()
        C, H, R = config.hidden_size, config.num_attention_heads, config.latent_size
        self.n_head, self.theta = H, config.rope_theta
        self.query = nn.Linear(C, C, bias=False)
        self.key_latent = nn.Linear(C, R, bias=False)
        self.value_latent = nn.Linear(C, R, bias=False)
        self.key_expand = nn.Parameter(torch.empty(H, R, C // H))
        self.value_expand = nn.Parameter(torch.empty(H, R, C // H))
        self.c_proj = nn.Linear(C, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        B, T, C = x.shape
        q = turned(self.query(x).view(B, T, self.n_head, -1), self.theta)
        k = turned(torch.einsum("btr,hrd->bthd", self.key_latent(x), self.key_expand), self.theta)
        v = torch.einsum("btr,hrd->bthd", self.value_latent(x), self.value_expand)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # each (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class SwiGLU(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Mixture(nn.Module):
    def __init__(self, config: LlmctlMoEConfig) -> None:
        super().__init__()
        E, C, inner = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.experts_per_token = config.num_experts_per_tok
        self.router = nn.Parameter(torch.empty(E, C))
        self.gate = nn.Parameter(torch.empty(E, inner, C))
        self.up = nn.Parameter(torch.empty(E, inner, C))
        self.down = nn.Parameter(torch.empty(E, C, inner))
        self.shared = SwiGLU(C, inner)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        tokens = x.flatten(0, 1)
        probability = F.linear(tokens.float(), self.router.float()).softmax(-1)
        weight, chosen = probability.topk(self.experts_per_token)
        weight = (weight / weight.sum(-1, keepdim=True)).to(x.dtype)
        y = self.shared(tokens)
        for e in range(len(self.router)):
            token, choice = (chosen == e).nonzero(as_tuple=True)
            u = tokens[token]
            answer = (F.silu(u @ self.gate[e].T) * (u @ self.up[e].T)) @ self.down[e].T
            y = y.index_add(0, token, answer * weight[token, choice, None])
        return y.view_as(x)


class Block(nn.Module):
    def __init__(self, config: LlmctlMoEConfig) -> None:
        super().__init__()
        self.norm_1 = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = Attention(config)
        self.norm_2 = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.moe = Mixture(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm_1(x))
        return x + self.moe(self.norm_2(x))


class LlmctlMoEForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = LlmctlMoEConfig
    _no_split_modules = ("Block",)

    def __init__(self, config: LlmctlMoEConfig) -> None:
        super().__init__(config)
        C = config.hidden_size
        self.wte = nn.Embedding(config.vocab_size, C)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm_f = nn.RMSNorm(C, config.norm_eps)
        self.lm_head = nn.Linear(C, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_unused: Any,
    ) -> CausalLMOutput:
        """(B, T) -> logits (B, T, V). Texts of a batch must be of one length."""
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("this model takes no padding; give it texts of one length")
        x = self.wte(input_ids)
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.norm_f(x)).float()
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_unused: Any) -> dict[str, Tensor]:
        """Everything is read again for each token, the last context of it."""
        return {"input_ids": input_ids[:, -self.config.max_position_embeddings :]}
