"""Causal attention inside a window in plain PyTorch: whole, or in blocks of queries that touch only the keys they see.

Blocks never build a mask of T x S: theirs are small, few and cached. On a CPU that is the fastest way there is. Where
rows hold several documents that must not see each other, `documents` numbers them, (B, T), and a block's mask is then
made anew for its rows.

B batch   T queries   S keys (S >= T: the queries are the last T positions)   H heads   K key/value heads   D head width
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

QUERY_BLOCK = 128
"""Queries taken at a time: 64 and 256 were slower on a CPU at T 256 to 2048."""


def attend(q: Tensor, k: Tensor, v: Tensor, window: int, documents: Tensor | None = None) -> Tensor:
    """(B, T, H, D), (B, S, K, D), (B, S, K, D) -> (B, T, H, D): what a device does well with torch alone."""
    return (attend_in_blocks if q.is_cpu else attend_whole)(q, k, v, window, documents)


def attend_whole(q: Tensor, k: Tensor, v: Tensor, window: int, documents: Tensor | None = None) -> Tensor:
    """(B, T, H, D), (B, S, K, D), (B, S, K, D) -> (B, T, H, D) by one SDPA: with a mask where keys are left out."""
    T, S = q.size(1), k.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # heads before positions
    return _attend_block(q, k, v, window, (0, T, max(0, S - T - window), S), documents).transpose(1, 2)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, window: int, documents: Tensor | None = None) -> Tensor:
    """(B, T, H, D), (B, S, K, D), (B, S, K, D) -> (B, T, H, D). The query at position i sees keys i-window..i, of them
    those of its own document."""
    T, S = q.size(1), k.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # heads before positions
    if q.is_cpu and q.dtype == torch.bfloat16 and T > 1:
        out = _BF16OnCPU.apply(q, _per_query_head(k, q), _per_query_head(v, q), window, documents)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
        return out.transpose(1, 2)
    blocks = [
        _attend_block(q, k, v, window, block, documents).transpose(1, 2) for block in _blocks(T, S, window)
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)


def _blocks(T: int, S: int, window: int) -> list[tuple[int, int, int, int]]:
    """(first query, end, first key, end) of each block of queries and the keys that any of them sees."""
    ahead = S - T  # keys older than the first query
    ends = [(first, min(first + QUERY_BLOCK, T)) for first in range(0, T, QUERY_BLOCK)]
    return [(first, end, max(0, ahead + first - window), ahead + end) for first, end in ends]


def _same_document(documents: Tensor, block: tuple[int, int, int, int]) -> Tensor:
    """(B, T) -> (B, 1, queries, keys) booleans, for all heads. There is no cache: queries and keys are the same positions."""
    first, end, low, high = block
    return (documents[:, first:end, None] == documents[:, None, low:high])[:, None]


def _attend_block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    block: tuple[int, int, int, int],
    documents: Tensor | None,
) -> Tensor:
    first, end, low, high = block
    q, k, v = q[:, :, first:end], k[:, :, low:high], v[:, :, low:high]
    if documents is not None:
        band = _band(end - first, high - low, window, q.device)
        return _sdpa(q, k, v, mask=band & _same_document(documents, block))
    if end - first == 1:
        return _sdpa(q, k, v)
    if high - low == end - first and window >= high - low - 1:
        return _sdpa(q, k, v, is_causal=True)
    return _sdpa(q, k, v, mask=_band(end - first, high - low, window, q.device))


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=q.size(1) != k.size(1)
    )


class _BF16OnCPU(torch.autograd.Function):
    """Plain batched products, block by block: the CPU's fused kernel is fast in fp32 but not in bf16.

    Forward and backward at B·T = 8192, T 256, 1 core with avx512_bf16: SDPA in bf16 80 ms, in fp32 41 ms, this 22 ms
    (4 heads of 32); the wider the heads, the more it gains. The weights are kept for backward, in bf16.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int, documents: Tensor | None) -> Tensor:
        B, H, T, D = q.shape
        S = k.size(2)
        ctx.window = window
        q, k, v = (z.reshape(B * H, -1, D) for z in (q, k, v))
        y = torch.empty(B, T, H, D, dtype=q.dtype)
        weights = []
        for block in _blocks(T, S, window):
            first, end, low, high = block
            score = torch.bmm(q[:, first:end], k[:, low:high].mT).float()  # (B·H, queries, keys)
            bias = _band_bias(end - first, high - low, window, q.device)
            score = torch.add(bias, score, alpha=D**-0.5)
            if documents is not None:
                score.view(B, H, *score.shape[1:]).masked_fill_(~_same_document(documents, block), -torch.inf)
            p = torch.softmax(score, dim=-1).to(q.dtype)
            y[:, first:end] = torch.bmm(p, v[:, low:high]).view(B, H, -1, D).transpose(1, 2)
            weights.append(p)
        ctx.save_for_backward(q, k, v, y, *weights)
        return y.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, y, *weights = ctx.saved_tensors
        B, T, H, D = y.shape
        S = k.size(1)
        g = grad_outputs[0]  # (B, H, T, D)
        # the softmax's own backward needs Σ_j p_ij·∂p_ij, which is g_i·y_i
        dot = (g * y.transpose(1, 2)).sum(-1, dtype=torch.float32).to(g.dtype).view(B * H, T, 1)
        g = g.reshape(B * H, T, D)
        q_grad, k_grad, v_grad = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for p, (first, end, low, high) in zip(weights, _blocks(T, S, ctx.window), strict=True):
            score_grad = torch.bmm(g[:, first:end], v[:, low:high].mT)  # (B·H, queries, keys)
            score_grad.sub_(dot[:, first:end]).mul_(p).mul_(D**-0.5)
            q_grad[:, first:end] = torch.bmm(score_grad, k[:, low:high])
            k_grad[:, low:high] += torch.bmm(score_grad.mT, q[:, first:end])
            v_grad[:, low:high] += torch.bmm(p.mT, g[:, first:end])
        return q_grad.view(B, H, T, D), k_grad.view(B, H, S, D), v_grad.view(B, H, S, D), None, None


def _per_query_head(z: Tensor, q: Tensor) -> Tensor:
    """(B, K, S, D) -> (B, H, S, D): each key/value head repeated for the query heads it serves."""
    return z if z.size(1) == q.size(1) else z.repeat_interleave(q.size(1) // z.size(1), dim=1)


def _band(T: int, S: int, window: int, device: torch.device) -> Tensor:
    """(T, S) booleans, true where the query sees the key."""
    # a compiler makes the mask part of its graph, and warns of a cache that it cannot see
    make = _make_band if torch.compiler.is_compiling() else _kept_band
    return make(T, S, window, device)


def _band_bias(T: int, S: int, window: int, device: torch.device) -> Tensor:
    """(T, S) of 0 where the query sees the key and -inf elsewhere."""
    make = _make_band_bias if torch.compiler.is_compiling() else _kept_band_bias
    return make(T, S, window, device)


def _make_band(T: int, S: int, window: int, device: torch.device) -> Tensor:
    query = torch.arange(S - T, S, device=device)[:, None]
    key = torch.arange(S, device=device)[None, :]
    return (key <= query) & (query - key <= window)


def _make_band_bias(T: int, S: int, window: int, device: torch.device) -> Tensor:
    return torch.zeros(T, S, device=device).masked_fill_(~_make_band(T, S, window, device), -torch.inf)


_kept_band, _kept_band_bias = lru_cache(maxsize=64)(_make_band), lru_cache(maxsize=64)(_make_band_bias)
