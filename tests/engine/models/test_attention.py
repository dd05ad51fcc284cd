"""Every attention kernel against a softmax with a full mask, and the choice among them."""

import math
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import AttentionKernel
from trainer_daemon.contract.scaling import ModelShape, model_shape
from trainer_daemon.contract.spec import ModelSpec
from trainer_daemon.engine.models import attention
from trainer_daemon.engine.models.attention import (
    Attend,
    FlexAttention,
    borders_of,
    build_attention,
    choose_attention,
)
from trainer_daemon.engine.models.plain_attention import attend_in_blocks, attend_whole

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def plain_attention(q: Tensor, k: Tensor, v: Tensor, window: int, documents: Tensor | None = None) -> Tensor:
    T, S, H, K = q.size(1), k.size(1), q.size(2), k.size(2)
    k, v = k.repeat_interleave(H // K, 2), v.repeat_interleave(H // K, 2)
    i, j = torch.arange(S - T, S, device=q.device)[:, None], torch.arange(S, device=q.device)[None, :]
    score = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.size(-1))
    score = score.masked_fill((j > i) | (j < i - window), -math.inf)
    if documents is not None:
        score = score.masked_fill((documents[:, :, None] != documents[:, None, :])[:, None], -math.inf)
    return torch.einsum("bhts,bshd->bthd", score.softmax(-1), v)


def random_qkv(queries: int, keys: int, head_dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Four query heads over two key/value heads."""
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, queries, 4, head_dim, generator=draw)
    k, v = (torch.randn(2, keys, 2, head_dim, generator=draw) for _ in "kv")
    return q, k, v


@pytest.mark.parametrize("attend", [attend_in_blocks, attend_whole])
@pytest.mark.parametrize(
    ("queries", "keys"), [(300, 300), (128, 128), (1, 1), (1, 200), (130, 290), (3, 300)]
)
@pytest.mark.parametrize("window", [0, 1, 64, 128, 250, 300])
def test_a_query_sees_itself_and_the_window_before_it(
    attend: Attend, queries: int, keys: int, window: int
) -> None:
    qkv = random_qkv(queries, keys)
    ours, plain = ([z.clone().requires_grad_() for z in qkv] for _ in "ab")
    got = attend(ours[0], ours[1], ours[2], window)
    wanted = plain_attention(plain[0], plain[1], plain[2], window)
    assert got.shape == qkv[0].shape
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    torch.autograd.backward([(got * weight).sum(), (wanted * weight).sum()])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("attend", [attend_in_blocks, attend_whole])
@pytest.mark.parametrize(("queries", "keys"), [(300, 300), (1, 200), (130, 290)])
@pytest.mark.parametrize("window", [8, 64, 300])
def test_in_bf16_it_is_as_exact_as_bf16_is(attend: Attend, queries: int, keys: int, window: int) -> None:
    check_in_half_precision(attend, CPU, torch.bfloat16, random_qkv(queries, keys), window)


def cut_at(length: int, *rows: tuple[int, ...]) -> Tensor:
    """(B, T): the number of the document that each position of a row is in, from where its later documents begin."""
    begins = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, firsts in enumerate(rows):
        begins[row, list(firsts)] = True
    return begins.cumsum(1, dtype=torch.int32)


BORDERS = cut_at(300, (1, 2, 128, 200), (137, 299))
"""Documents of a token, at a block's end, over several blocks, and one that is a row's last token."""


@pytest.mark.parametrize("attend", [attend_in_blocks, attend_whole])
@pytest.mark.parametrize("window", [0, 8, 128, 300])
def test_a_query_sees_no_document_but_its_own(attend: Attend, window: int) -> None:
    qkv = random_qkv(300, 300)
    ours, plain = ([z.clone().requires_grad_() for z in qkv] for _ in "ab")
    got = attend(ours[0], ours[1], ours[2], window, BORDERS)
    wanted = plain_attention(plain[0], plain[1], plain[2], window, BORDERS)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    torch.autograd.backward([(got * weight).sum(), (wanted * weight).sum()])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("attend", [attend_in_blocks, attend_whole])
def test_a_document_in_a_row_attends_as_it_does_alone(attend: Attend) -> None:
    q, k, v = random_qkv(300, 300)
    together = attend(q, k, v, 64, BORDERS)
    for row, firsts in enumerate(((0, 1, 2, 128, 200, 300), (0, 137, 299, 300))):
        for first, end in pairwise(firsts):
            mine = slice(row, row + 1), slice(first, end)
            alone = attend(q[mine], k[mine], v[mine], 64)
            torch.testing.assert_close(together[mine], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attend", [attend_in_blocks, attend_whole])
def test_documents_are_kept_apart_in_bf16_as_well(attend: Attend) -> None:
    check_in_half_precision(attend, CPU, torch.bfloat16, random_qkv(300, 300), 64, BORDERS)


def check_in_half_precision(
    attend: Attend,
    device: torch.device,
    dtype: torch.dtype,
    qkv: tuple[Tensor, Tensor, Tensor],
    window: int,
    documents: Tensor | None = None,
) -> None:
    """Outputs and gradients within 1 % of fp32 ones from the same rounded inputs, by Frobenius norm."""
    rounded = [z.to(device, dtype) for z in qkv]
    ours, plain = ([z.clone().to(kind).requires_grad_() for z in rounded] for kind in (dtype, torch.float32))
    borders = None if documents is None else borders_of(attend, documents)
    got = attend(ours[0], ours[1], ours[2], window, borders)
    wanted = plain_attention(plain[0], plain[1], plain[2], window, documents)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    torch.autograd.backward([(got * weight).sum(), (wanted * weight.float()).sum()])
    assert got.dtype == dtype
    assert (got.float() - wanted).norm() < 0.01 * wanted.norm()
    for a, b in zip(ours, plain, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert (a.grad.float() - b.grad).norm() < 0.01 * b.grad.norm()


@pytest.fixture
def without_compiling() -> Iterator[None]:
    """FlexAttention's own eager form, which computes the same without a kernel."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("without_compiling")
@pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile", "ignore::DeprecationWarning"
)
@pytest.mark.parametrize(
    ("queries", "keys"), [(300, 300), (1, 200), (130, 290)], ids=["training", "a token", "a cache"]
)
@pytest.mark.parametrize("window", [1, 64, 128, 299])
def test_flex_attention_sees_the_same_keys(queries: int, keys: int, window: int) -> None:
    attend = FlexAttention(300, (window,), CPU)
    qkv = random_qkv(queries, keys)
    with torch.no_grad():
        torch.testing.assert_close(attend(*qkv, window), plain_attention(*qkv, window), atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("without_compiling")
@pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile", "ignore::DeprecationWarning"
)
@pytest.mark.parametrize("length", [300, 150], ids=["training", "another length"])
def test_flex_attention_keeps_documents_apart(length: int) -> None:
    attend = FlexAttention(300, (64, 299), CPU)
    qkv, documents = random_qkv(length, length), BORDERS[:, :length]
    borders = borders_of(attend, documents)
    with torch.no_grad():
        for window in (64, 299):
            wanted = plain_attention(*qkv, window, documents)
            torch.testing.assert_close(attend(*qkv, window, borders), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile's own deprecations
def test_flex_attention_compiled_skips_no_block_that_is_seen() -> None:
    """Eager FlexAttention reads the mask's rule; only the compiled one goes by its blocks."""
    qkv = random_qkv(300, 300)
    attend = FlexAttention(300, (64, 299), CPU)
    with torch.no_grad():
        for documents in (None, BORDERS, BORDERS.flip(0)):
            borders = None if documents is None else borders_of(attend, documents)
            for window in (64, 299):
                wanted = plain_attention(*qkv, window, documents)
                torch.testing.assert_close(attend(*qkv, window, borders), wanted, atol=1e-5, rtol=1e-4)


@pytest.fixture
def fa3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a `flash_attn_interface` with this source for the test."""

    def install(source: str) -> None:
        (tmp_path / "flash_attn_interface.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    attention.load_fa3.cache_clear()
    yield install
    sys.modules.pop("flash_attn_interface", None)
    attention.load_fa3.cache_clear()


# what the package documents of itself: a window of keys before and after, (-1, -1) for none, and the newest keys last
DOCUMENTED_FA3 = """
import torch

def flash_attn_func(q, k, v, causal=False, window_size=(-1, -1), deterministic=False):
    assert causal
    T, S = q.size(1), k.size(1)
    i, j = torch.arange(S - T, S)[:, None], torch.arange(S)[None]
    before, after = window_size
    seen = (j <= i) & ((before < 0) | (j >= i - before)) & ((after < 0) | (j <= i + after))
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    return {}
"""


@pytest.mark.parametrize("returned", ["y.transpose(1, 2)", "(y.transpose(1, 2), None)"])
@pytest.mark.parametrize(("queries", "keys"), [(30, 30), (1, 20), (13, 29)])
@pytest.mark.parametrize("window", [0, 8, 29])
def test_flash_attention_3_is_asked_for_the_same_keys(
    fa3: Callable[[str], None], returned: str, queries: int, keys: int, window: int
) -> None:
    """By the package's documentation; with the package itself it is tested on a GPU below."""
    fa3(DOCUMENTED_FA3.format(returned))
    qkv = random_qkv(queries, keys)
    got = attention.load_fa3()(*qkv, window)
    torch.testing.assert_close(got, plain_attention(*qkv, window), atol=1e-5, rtol=1e-4)


def test_a_flash_attention_3_that_does_not_import_is_an_obstacle_in_words(
    fa3: Callable[[str], None],
) -> None:
    fa3("raise OSError('undefined symbol: _ZN3c10')")
    with pytest.raises(ImportError, match=r"flash_attn_interface cannot be imported \(undefined symbol"):
        attention.load_fa3()


def test_documents_are_kept_apart_by_a_kernel_that_knows_them(
    fa3: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Hopper GPU's answers stand in for one."""
    fa3(DOCUMENTED_FA3.format("y"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(attention, "_is_installed", lambda _name: True)
    choice = choose_attention("auto", CUDA, torch.bfloat16, head_dim=128, masks_documents=True)
    assert choice.kernel == "flex"
    assert "no fa3: it does not know the documents" in choice.why
    with pytest.raises(SpecError, match=r"fa3 cannot run here: .*data\.document_mask"):
        choose_attention("fa3", CUDA, torch.bfloat16, head_dim=128, masks_documents=True)


def test_a_cpu_takes_queries_in_blocks() -> None:
    choice = choose_attention("auto", CPU, torch.float32, head_dim=32)
    assert choice.kernel == "blocked"
    assert "blocks of queries" in choice.why


@pytest.mark.parametrize(("kernel", "reason"), [("fa3", "Hopper"), ("flex", "no backward on cpu")])
def test_a_kernel_that_cannot_run_is_refused_with_the_reason(kernel: AttentionKernel, reason: str) -> None:
    with pytest.raises(SpecError, match=f"runtime.attention: {kernel} cannot run here: .*{reason}"):
        choose_attention(kernel, CPU, torch.float32, head_dim=32)


@pytest.mark.parametrize(
    ("capability", "dtype", "triton", "kernel", "why"),
    [
        ((9, 0), torch.bfloat16, True, "fa3", "the fastest"),
        ((9, 0), torch.float32, True, "flex", "no fa3: it computes in bf16 or fp16, not in float32"),
        ((8, 0), torch.bfloat16, True, "flex", "this one is 8.0"),
        ((8, 0), torch.bfloat16, False, "sdpa", "triton is not installed"),
    ],
)
def test_a_gpu_gets_the_first_kernel_that_nothing_speaks_against(
    fa3: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    dtype: torch.dtype,
    triton: bool,
    kernel: AttentionKernel,
    why: str,
) -> None:
    """What a driver and the installed packages would answer stands in for a GPU."""
    fa3(DOCUMENTED_FA3.format("y"))
    installed = attention._is_installed
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(
        attention, "_is_installed", lambda name: triton if name == "triton" else installed(name)
    )
    choice = choose_attention("auto", CUDA, dtype, head_dim=128)
    assert choice.kernel == kernel
    assert why in choice.why


def gpu_shape(n_kv_head: int) -> ModelShape:
    spec = ModelSpec(depth=2, aspect_ratio=256, head_dim=128, n_kv_head=n_kv_head, sequence_len=1024)
    return model_shape(spec, 1000)


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("kernel", ["fa3", "flex", "sdpa", "blocked"])
@pytest.mark.parametrize("window", [256, 1024])
@pytest.mark.parametrize("n_kv_head", [1, 4])
def test_on_a_gpu_every_kernel_computes_the_same(
    kernel: AttentionKernel, window: int, n_kv_head: int
) -> None:
    try:
        choose_attention(kernel, CUDA, torch.bfloat16, head_dim=128)
    except SpecError as e:
        pytest.skip(str(e))
    attend = build_attention(kernel, gpu_shape(n_kv_head), CUDA)
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, 1024, 4, 128, generator=draw)
    k, v = (torch.randn(2, 1024, n_kv_head, 128, generator=draw) for _ in "kv")
    check_in_half_precision(attend, CUDA, torch.bfloat16, (q, k, v), window)
    if kernel != "fa3":
        documents = cut_at(1024, (1, 128, 700), (512,)).to(CUDA)
        check_in_half_precision(attend, CUDA, torch.bfloat16, (q, k, v), window, documents)
    with torch.no_grad():  # a cache: fewer queries than keys, and a single one
        for queries in (130, 1):
            late = [z.to(CUDA, torch.bfloat16) for z in (q[:, -queries:], k, v)]
            wanted = plain_attention(late[0].float(), late[1].float(), late[2].float(), window)
            got = attend(late[0], late[1], late[2], window).float()
            assert (got - wanted).norm() < 0.01 * wanted.norm()
