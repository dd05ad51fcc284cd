"""Attention kernels against a softmax with a full mask."""

import math

import pytest
import torch
from torch import Tensor

from trainer_daemon.engine.models.attention import attend


def plain_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    T, S, H, K = q.size(1), k.size(1), q.size(2), k.size(2)
    k, v = k.repeat_interleave(H // K, 2), v.repeat_interleave(H // K, 2)
    i, j = torch.arange(S - T, S)[:, None], torch.arange(S)[None, :]
    score = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.size(-1))
    score = score.masked_fill((j > i) | (j < i - window), -math.inf)
    return torch.einsum("bhts,bshd->bthd", score.softmax(-1), v)


@pytest.mark.parametrize(
    ("queries", "keys"), [(300, 300), (128, 128), (1, 1), (1, 200), (130, 290), (3, 300)]
)
@pytest.mark.parametrize("window", [0, 1, 64, 128, 250, 300])
def test_a_query_sees_itself_and_the_window_before_it(queries: int, keys: int, window: int) -> None:
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, queries, 4, 16, generator=draw)
    k, v = (torch.randn(2, keys, 2, 16, generator=draw) for _ in "kv")
    ours, plain = ([z.clone().requires_grad_() for z in (q, k, v)] for _ in "ab")
    got = attend(ours[0], ours[1], ours[2], window)
    wanted = plain_attention(plain[0], plain[1], plain[2], window)
    assert got.shape == q.shape
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    weight = torch.randn(got.shape, generator=draw)
    torch.autograd.backward([(got * weight).sum(), (wanted * weight).sum()])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("queries", "keys"), [(300, 300), (1, 200), (130, 290)])
@pytest.mark.parametrize("window", [8, 64, 300])
def test_in_bf16_it_is_as_exact_as_bf16_is(queries: int, keys: int, window: int) -> None:
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, queries, 4, 16, generator=draw)
    k, v = (torch.randn(2, keys, 2, 16, generator=draw) for _ in "kv")
    ours, plain = (
        [z.bfloat16().to(dtype).requires_grad_() for z in (q, k, v)]
        for dtype in (torch.bfloat16, torch.float32)
    )
    got = attend(ours[0], ours[1], ours[2], window)
    wanted = plain_attention(plain[0], plain[1], plain[2], window)
    weight = torch.randn(got.shape, generator=draw).bfloat16()
    torch.autograd.backward([(got * weight).sum(), (wanted * weight.float()).sum()])
    assert got.dtype == torch.bfloat16
    assert (got.float() - wanted).norm() < 0.01 * wanted.norm()
    for a, b in zip(ours, plain, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert (a.grad.float() - b.grad).norm() < 0.01 * b.grad.norm()
