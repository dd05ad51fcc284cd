"""The classic GPT of llmctl for Hugging Face transformers: loaded with `trust_remote_code=True` from the folder it lies in.

Exported beside the weights because transformers' OPT and GPT-2, which compute the rest of it, have no bias in their head.
Whole texts are read each time; there is no cache. Depends on torch and transformers alone, so that the folder needs
nothing of llmctl.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class LlmctlClassicConfig(PretrainedConfig):
    model_type = "llmctl_classic"

    def __init__(
        self,
        vocab_size: int = 50257,
        padded_vocab_size: int = 50304,
        num_hidden_layers: int = 4,
        hidden_size: int = 256,
        num_attention_heads: int = 4,
        max_position_embeddings: int = 1024,
        norm_eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.padded_vocab_size = padded_vocab_size
        self.num_hidden_layers = num_hidden_layers
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.norm_eps = norm_eps
        kwargs.setdefault("tie_word_embeddings", False)
        kwargs.setdefault("use_cache", False)
        super().__init__(**kwargs)


class Attention(nn.Module):
    def __init__(self, config: LlmctlClassicConfig) -> None:
        super().__init__()
        self.n_head = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3 * self.n_head, -1).transpose(1, 2).chunk(3, dim=1)  # (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config: LlmctlClassicConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.c_proj = nn.Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, config: LlmctlClassicConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class LlmctlClassicForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = LlmctlClassicConfig
    _no_split_modules = ("Block",)

    def __init__(self, config: LlmctlClassicConfig) -> None:
        super().__init__(config)
        C = config.hidden_size
        self.wte = nn.Embedding(config.padded_vocab_size, C)
        self.wpe = nn.Embedding(config.max_position_embeddings, C)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(C, config.norm_eps)
        self.lm_head = nn.Linear(C, config.padded_vocab_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_unused: Any,
    ) -> CausalLMOutput:
        """(B, T) -> logits (B, T, V). Texts of a batch must be of one length, no longer than the context."""
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("this model takes no padding; give it texts of one length")
        x = self.wte(input_ids) + self.wpe(torch.arange(input_ids.size(1), device=input_ids.device))
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))[..., : self.config.vocab_size].float()
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_unused: Any) -> dict[str, Tensor]:
        """Everything is read again for each token, the last context of it."""
        return {"input_ids": input_ids[:, -self.config.max_position_embeddings :]}
