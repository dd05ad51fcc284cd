"""The same model and optimizer as anyone would first write them in PyTorch: the yardstick of `make bench`.

Eager, fp32 or bf16 weights cast per use, full logits, SDPA with an explicit mask for windows, one Python loop over the
matrices in Muon. A test holds that it computes what the engine computes.
B batch, T tokens, C width, H heads, D head width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer_daemon.contract.scaling import LearningRates, TrainingPlan
from trainer_daemon.contract.spec import OptimSpec
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.optim.adamw import adam_rules
from trainer_daemon.engine.optim.muon import POLAR_EXPRESS

SETTINGS = OptimSpec()


class PlainGPT(nn.Module):
    """Takes over the parameters of a GPT, under the same names; (B, T), (B, T) -> mean loss."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.shape, self.dtype = model.shape, model.compute_dtype
        self.p = nn.ParameterDict(
            {n.replace(".", "/"): p.detach().clone() for n, p in model.named_parameters()}
        )
        D = self.shape.head_dim
        angles = torch.outer(torch.arange(self.shape.sequence_len), 100_000.0 ** -(torch.arange(0, D, 2) / D))
        self.register_buffer("cos", angles.cos()[:, None].to(self.dtype))
        self.register_buffer("sin", angles.sin()[:, None].to(self.dtype))

    def weight(self, name: str) -> Tensor:
        weight: Tensor = self.p[name.replace(".", "/")]
        return weight.to(self.dtype)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        shape = self.shape
        e = _norm(F.embedding(idx, self.weight("wte.weight")))
        gate = torch.sigmoid(F.linear(e[:, 1:, :24], self.weight("smear_gate.weight")))
        x = x0 = torch.cat([e[:, :1], e[:, 1:] + self.weight("smear_lambda") * gate * e[:, :-1]], 1)
        kept = x
        for layer in range(shape.n_layer):
            x = self.weight("resid_lambdas")[layer] * x + self.weight("x0_lambdas")[layer] * x0
            x = x + self.attention(_norm(x), idx, layer)
            hidden = F.linear(_norm(x), self.weight(f"blocks.{layer}.mlp.c_fc.weight"))
            x = x + F.linear(F.relu(hidden).square(), self.weight(f"blocks.{layer}.mlp.c_proj.weight"))
            if layer == shape.n_layer // 2:
                kept = x
        x = _norm(x - self.weight("backout_lambda") * kept)
        logits = F.linear(x, self.weight("lm_head.weight"))[..., : shape.vocab_size].float()  # (B, T, V)
        logits = 15 * torch.tanh(logits / 15)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def attention(self, u: Tensor, idx: Tensor, layer: int) -> Tensor:
        shape, (B, T, C), name = self.shape, u.shape, f"blocks.{layer}.attn."
        heads = {"q": shape.n_head, "k": shape.n_kv_head, "v": shape.n_kv_head}
        q, k, v = (
            F.linear(u, self.weight(f"{name}c_{part}.weight")).view(B, T, count, shape.head_dim)
            for part, count in heads.items()
        )
        if shape.has_value_embedding(layer):
            g = 3 * torch.sigmoid(F.linear(u[..., :12], self.weight(name + "ve_gate.weight")))
            v = v + g[..., None] * F.embedding(idx, self.weight(f"value_embeds.{layer}.weight")).view_as(v)
        q, k = 1.2 * _norm(self.rotated(q)), 1.2 * _norm(self.rotated(k))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        window, grouped = shape.windows[layer], shape.n_head != shape.n_kv_head
        if window >= T:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        else:
            i, j = torch.arange(T)[:, None], torch.arange(T)[None]
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=(j <= i) & (j >= i - window), enable_gqa=grouped
            )
        return F.linear(y.transpose(1, 2).reshape(B, T, C), self.weight(name + "c_proj.weight"))

    def rotated(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        cos, sin = self.cos[: x.size(1)], self.sin[: x.size(1)]
        return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)


class PlainOptimizer:
    """AdamW by torch, Muon by a loop over matrices."""

    def __init__(self, model: PlainGPT, original: GPT, plan: TrainingPlan) -> None:
        rates = plan.learning_rates
        assert isinstance(rates, LearningRates)
        named = {name.replace("/", "."): p for name, p in model.p.items()}
        groups = [
            {
                "params": [named.pop(n) for n in rule.names],
                "lr": rule.learning_rate,
                "betas": rule.betas,
                "weight_decay": rule.weight_decay,
            }
            for rule in adam_rules(original, rates, SETTINGS)
        ]
        self.adam = torch.optim.AdamW(groups, eps=SETTINGS.adam_eps)
        self.matrices = [(p, torch.zeros_like(p), _second_moment(p)) for p in named.values()]
        self.rate, self.decay = rates.matrix, plan.weight_decay
        self.dtype = model.dtype

    @torch.no_grad()
    def step(self) -> None:
        self.adam.step()
        for w, momentum, square in self.matrices:
            assert w.grad is not None
            momentum.lerp_(w.grad, 0.15)
            x = w.grad.lerp(momentum, 0.85).to(self.dtype)
            x = x * (x.norm() * x.size(0) ** -0.5 / x.norm(dim=1, keepdim=True).clamp(min=1e-6))
            x = x / (1.01 * x.norm() + 1e-6)
            is_tall = w.size(0) > w.size(1)
            x = x.T if is_tall else x
            for a, b, c in POLAR_EXPRESS:
                gram = x @ x.T
                x = a * x + (b * gram + c * gram @ gram) @ x
            x = x.T if is_tall else x
            x = x.float() * (min(x.shape) ** 0.5 / x.norm().clamp(min=1e-6))
            norm = x.norm()
            square.lerp_(
                x.square().mean(1 if w.size(0) >= w.size(1) else 0, keepdim=True), 1 - SETTINGS.muon_beta2
            )
            x = x / square.clamp(min=1e-10).sqrt()
            x = x * (norm / x.norm().clamp(min=1e-6))
            rate = self.rate * max(1.0, w.size(0) / w.size(1)) ** 0.5
            w -= rate * (x + self.decay * w * (x * w >= 0))


def _second_moment(w: Tensor) -> Tensor:
    rows, cols = w.shape
    return torch.zeros((rows, 1) if rows >= cols else (1, cols))


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))
