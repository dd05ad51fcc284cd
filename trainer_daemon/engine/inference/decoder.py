"""The model of `models/gpt.py` a second time, for writing: no gradients, weights cast and packed once, texts side by side.

Training casts fp32 weights at each use and takes rows of one length; a token at a time, that would read every weight
three times over. Packing alone is worth 1.3 to 3.5 a product on a CPU (`make bench`). The price is that whoever changes
the model changes two files: `test_the_decoder_computes_what_the_model_computes` says so. Until then `agrees_with`, asked
before anything is written, leaves the writing to the model itself (`uncached.py`).

N texts   B batch   T tokens   C width   H heads   K key/value heads   G = H/K   D head width   S slots   V vocabulary
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_daemon.contract.scaling import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, ModelShape
from trainer_daemon.engine.inference.kv_cache import KVCache
from trainer_daemon.engine.models.fused import rotary_tables
from trainer_daemon.engine.models.gpt import LOGIT_CAP, QK_GAIN, ROTARY_BASE, VALUE_GATE_MAX
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.models.loss import softcap
from trainer_daemon.engine.models.plain_attention import attend

Product = Callable[[Tensor], Tensor]
"""`(..., in) -> (..., out)`"""
LayerAttention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""layer, (B, T, H, D), (B, T, K, D), (B, T, K, D) -> (B, T, H, D): with what the layer remembers of these texts."""

PACKED_FROM = 1 << 19
"""Elements of an fp32 matrix from which oneDNN's layout is faster than MKL for one row; in bf16 it always is."""
NORM_EPS = torch.finfo(torch.float32).eps
AGREEMENT_EPS, AGREEMENT_FLOOR = 16, 0.01
"""How far the logits may lie apart, as a share of their size: so many roundings of the compute dtype, but no less than
this. Other kernels and orders of adding make 2 to 4 roundings of it (bf16: 0.017 to 0.026), another function 0.1 to 1."""


@dataclass(frozen=True)
class _Layer:
    qkv: Product
    """`(..., C) -> (..., (H+2K)·D)`"""
    attn_out: Product
    fc: Product
    mlp_out: Product
    value_table: Tensor | None
    """(Vp, K·D) on the layers that have one."""
    value_gate: Tensor | None
    """(K, 12)"""
    resid: float
    x0: float


class Decoder:
    """One model's weights, ready to write. Holds no text: that is the cache's.

    Another family overrides `_load`, `_embed`, `_trunk` and `_logits`; how texts are kept is the same for all.
    """

    def __init__(
        self,
        shape: ModelShape,
        tensors: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """`tensors`: a state dict of the family's model, not to be changed while this writes. Raises KeyError for one that is
        missing."""
        self.shape, self.dtype, self.device = shape, dtype, torch.device(device)
        with torch.inference_mode():
            self._load({name: tensor.detach().to(self.device) for name, tensor in tensors.items()})

    def _load(self, t: Mapping[str, Tensor]) -> None:
        """Cast and pack what a step reads."""

        def product(*names: str) -> Product:
            return packed(torch.cat([t[name] for name in names]).to(self.dtype))

        self._embedding = t["wte.weight"].to(self.dtype)  # (Vp, C)
        self._head = product("lm_head.weight")
        self._smear_gate = t["smear_gate.weight"].to(self.dtype)  # (1, 24)
        self._smear_lambda, self._backout_lambda = (
            float(t[name]) for name in ("smear_lambda", "backout_lambda")
        )
        resid, x0 = t["resid_lambdas"].tolist(), t["x0_lambdas"].tolist()
        self._layers = []
        for i in range(self.shape.n_layer):
            a, m, has_value = f"blocks.{i}.attn.", f"blocks.{i}.mlp.", self.shape.has_value_embedding(i)
            self._layers.append(
                _Layer(
                    qkv=product(f"{a}c_q.weight", f"{a}c_k.weight", f"{a}c_v.weight"),
                    attn_out=product(f"{a}c_proj.weight"),
                    fc=product(f"{m}c_fc.weight"),
                    mlp_out=product(f"{m}c_proj.weight"),
                    value_table=t[f"value_embeds.{i}.weight"].to(self.dtype) if has_value else None,
                    value_gate=t[f"{a}ve_gate.weight"].to(self.dtype) if has_value else None,
                    resid=resid[i],
                    x0=x0[i],
                )
            )
        self._cos, self._sin = (
            table.to(self.device)
            for table in rotary_tables(self.shape.sequence_len, self.shape.head_dim, ROTARY_BASE, self.dtype)
        )  # (T, 1, D)

    @classmethod
    def of(cls, model: LanguageModel) -> Self:
        """A decoder with a model's present weights, in its compute dtype, on its device."""
        device = next(model.parameters()).device
        return cls(model.shape, model.state_dict(), dtype=model.compute_dtype, device=device)

    def agrees_with(self, model: LanguageModel) -> bool:
        """Whether both compute the same function, up to rounding: compared on one text, without the model's fp8.

        The text overruns the shortest window, so that a window that only one of the two has is noticed.
        """
        return self._agrees_on(model, start=1)

    def _agrees_on(self, model: LanguageModel, start: int) -> bool:
        tokens = min(self.shape.sequence_len, max(8, min(self.shape.windows) + 2))
        ids = [(7 * i + start) % self.shape.vocab_size for i in range(tokens)]
        theirs = logits_of_model(model, ids)
        cache = self.new_cache(rows=1)
        ours = self.prefill(ids, cache, cache.add())
        if not theirs.isfinite().all():  # broken weights say nothing about the function
            return not bool(ours.isfinite().all())
        share = max(AGREEMENT_FLOOR, AGREEMENT_EPS * torch.finfo(self.dtype).eps)
        return bool((ours - theirs).norm() <= share * theirs.norm())

    def new_cache(self, rows: int) -> KVCache:
        """Room for so many texts."""
        return KVCache(self.shape, rows=rows, dtype=self.dtype, device=self.device)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int], cache: KVCache, row: int) -> Tensor:
        """(T,) -> (V,) fp32 logits on the CPU, for the token after the text; the row has seen it then.

        The row must be empty and the text no longer than the context.
        """
        T = len(ids)
        assert cache.lengths[row] == 0, "a text is read whole, into an empty row"
        assert 0 < T <= self.shape.sequence_len, f"{T} tokens for a context of {self.shape.sequence_len}"
        idx = torch.tensor([ids], device=self.device)  # (1, T)
        position = torch.arange(T, device=self.device)
        embedding = self._embed(idx, position)  # (1, T, C)
        before = F.pad(embedding[:, :-1], (0, 0, 1, 0))  # the first token has none before it
        cache.last_embedding[row] = embedding[0, -1]

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.fill(row, layer, k, v)
            return attend(q, k, v, self.shape.windows[layer])

        hidden = self._trunk(idx, embedding, before, position, attention)
        cache.lengths[row] = T
        return self._logits(hidden[0, -1:])[0].cpu()

    @torch.inference_mode()
    def decode(self, ids: Sequence[int], cache: KVCache) -> Tensor:
        """(N,) -> (N, V) fp32 logits on the CPU: one more token for each text in the cache, in row order."""
        lengths = cache.lengths
        assert len(ids) == len(lengths), f"{len(ids)} tokens for {len(lengths)} texts"
        extent = max(lengths) + 1
        assert extent <= self.shape.sequence_len, "a text has used up its context"
        logits = self.step(
            torch.tensor(ids, device=self.device),
            torch.tensor(lengths, device=self.device),
            cache,
            extent,
            is_ragged=min(lengths) + 1 < extent,
        )
        cache.lengths = [length + 1 for length in lengths]
        return logits.cpu()

    def step(self, idx: Tensor, position: Tensor, cache: KVCache, extent: int, *, is_ragged: bool) -> Tensor:
        """(N,), (N,) -> (N, V): what `decode` does on the device, with nothing in it that a CUDA graph cannot record.

        No text may be longer than `extent` afterwards; unless `is_ragged`, all are exactly so long.
        """
        N, K, H, D = idx.size(0), self.shape.n_kv_head, self.shape.n_head, self.shape.head_dim
        embedding = self._embed(idx, position)[:, None]  # (N, 1, C)
        before = cache.last_embedding[:N, None].clone()  # (N, 1, C)
        cache.last_embedding[:N] = embedding[:, 0]
        row = torch.arange(N, device=self.device)
        places: dict[int, tuple[Tensor, Tensor | None]] = {}
        """Slots of a layer -> (slot of this token (N,), slots that are seen (N, 1, 1, seen))."""
        for slots in set(cache.slots):
            seen = torch.arange(min(extent, slots), device=self.device) <= position[:, None]
            places[slots] = position % slots, seen[:, None, None] if is_ragged else None

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kept, slots = cache.layers[layer][:N], cache.slots[layer]  # (N, 2, K, S, D)
            slot, mask = places[slots]
            kept[row, :, :, slot] = torch.stack([k[:, 0], v[:, 0]], dim=1)  # (N, 2, K, D)
            keys, values = kept[:, :, :, :extent].unbind(
                1
            )  # (N, K, seen, D); a slice past the end is the end
            # the G query heads of a key head attend as G queries: nothing is repeated
            grouped = q.view(N, K, H // K, D)
            return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask).view(N, 1, H, D)

        return self._logits(self._trunk(idx[:, None], embedding, before, position[:, None], attention)[:, 0])

    def _trunk(
        self,
        idx: Tensor,
        embedding: Tensor,
        before: Tensor,
        position: Tensor,
        attention: LayerAttention,
    ) -> Tensor:
        """(B, T), (B, T, C), (B, T, C), (T,) or (B, 1) -> (B, T, C); `before` holds the embedding of the token before
        each."""
        B, T, C = embedding.shape
        H, K, D = self.shape.n_head, self.shape.n_kv_head, self.shape.head_dim
        rotation = self._cos[position], self._sin[position]  # (T, 1, D) or (B, 1, 1, D)
        gate = torch.sigmoid(F.linear(embedding[..., :SMEAR_GATE_CHANNELS], self._smear_gate))  # (B, T, 1)
        x = x0 = torch.addcmul(embedding, gate, before, value=self._smear_lambda)
        backout = x
        for i, layer in enumerate(self._layers):
            x = torch.add(x * layer.resid, x0, alpha=layer.x0)
            u = _norm(x)
            qkv = layer.qkv(u).view(B, T, H + 2 * K, D)
            v = qkv[:, :, H + K :]  # (B, T, K, D)
            if layer.value_table is not None and layer.value_gate is not None:
                gate = torch.sigmoid(F.linear(u[..., :VALUE_GATE_CHANNELS], layer.value_gate))  # (B, T, K)
                value = F.embedding(idx, layer.value_table).view(B, T, K, D)
                v = torch.addcmul(v, gate[..., None], value, value=VALUE_GATE_MAX)
            qk = _norm(_rotated(qkv[:, :, : H + K], *rotation), QK_GAIN)
            y = attention(i, qk[:, :, :H], qk[:, :, H:], v)  # (B, T, H, D)
            x = x + layer.attn_out(y.reshape(B, T, C))
            x = x + layer.mlp_out(F.relu(layer.fc(_norm(x))).square())
            if i == self.shape.n_layer // 2:
                backout = x
        return _norm(torch.sub(x, backout, alpha=self._backout_lambda))

    def _embed(self, idx: Tensor, _position: Tensor) -> Tensor:
        """(..., T), (T,) -> (..., T, C)"""
        return _norm(F.embedding(idx, self._embedding))

    def _logits(self, hidden: Tensor) -> Tensor:
        """(N, C) -> (N, V)"""
        return softcap(self._head(hidden)[:, : self.shape.vocab_size], LOGIT_CAP)


@torch.no_grad()
def logits_of_model(model: LanguageModel, ids: Sequence[int]) -> Tensor:
    """(T,) -> (V,) fp32 logits on the CPU, for the token after the text, by the model itself as it evaluates."""
    was_training = model.training
    model.eval()  # in training its products may be made in fp8, which a single text does not fit
    try:
        logits: Tensor = model(torch.tensor([ids], device=next(model.parameters()).device))[0, -1]
    finally:
        model.train(was_training)
    return logits.float().cpu()


def _norm(x: Tensor, gain: float = 1.0) -> Tensor:
    if x.is_cuda:  # where it is one kernel; on a CPU it is eleven, 27 us against 12
        return F.rms_norm(x, (x.size(-1),), eps=NORM_EPS) * gain
    precise = x.float()
    square = torch.linalg.vector_norm(precise, dim=-1, keepdim=True).square_()
    return precise.mul(square.div_(x.size(-1)).add_(NORM_EPS).rsqrt_().mul_(gain)).to(x.dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, T, heads, D): channel i pairs with i + D/2; the second half of `sin` is negated."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([second, first], dim=-1), sin)


def packed(weight: Tensor, bias: Tensor | None = None) -> Product:
    """The product with a matrix (out, in), plus a bias (out,), in oneDNN's own layout where that is faster and this build of
    torch has it."""
    if weight.is_cpu and (weight.dtype == torch.bfloat16 or weight.numel() >= PACKED_FROM):
        # inductor's own operators: not promised by torch, hence the way around them
        mkldnn: Any = torch.ops.mkldnn
        try:
            blocks = mkldnn._reorder_linear_weight(weight)  # noqa: SLF001
            mkldnn._linear_pointwise(weight.new_zeros(1, weight.size(1)), blocks, None, "none", [], "")  # noqa: SLF001
        except (AttributeError, RuntimeError):
            pass
        else:
            return lambda x: mkldnn._linear_pointwise(x, blocks, bias, "none", [], "")  # noqa: SLF001
    return lambda x: F.linear(x, weight, bias)
