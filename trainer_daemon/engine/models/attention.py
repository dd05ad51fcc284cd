"""Which attention kernel a run uses, and why.

All kernels compute the same causal attention inside a window, with grouped heads and more keys than queries: the query
at position i sees keys i-window..i. A test holds each to one plain reference. On Hopper FlashAttention 3 knows windows;
elsewhere on CUDA FlexAttention skips the blocks that a window hides, where SDPA would fall from its flash kernel to one
with a mask; a CPU goes through the queries in blocks. Where documents in a row must not see each other, FlexAttention
skips the blocks between them as well; FlashAttention 3 would need their lengths, which only the device knows.

B batch   T queries   S keys (S >= T: the queries are the last T positions)   H heads   K key/value heads   D head width
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import AttentionKernel
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.engine.models.plain_attention import attend, attend_in_blocks, attend_whole


class Attend(Protocol):
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, window: int, borders: Any = None, /) -> Tensor:
        """(B, T, H, D), (B, S, K, D), (B, S, K, D) -> (B, T, H, D); `borders` as `borders_of` gives them."""


FA3_MODULES = ("flash_attn_interface", "flash_attn_3.flash_attn_interface")
"""Where FlashAttention 3 has been installed by its releases, the newest last."""
FA3_HEAD_DIM = 256
FLEX_HEAD_DIM = 16


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    kernel: AttentionKernel
    why: str
    """In words: asked for, or what spoke against the ones before it."""


def choose_attention(
    asked: AttentionKernel | str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    *,
    masks_documents: bool = False,
) -> AttentionChoice:
    """The kernel for `runtime.attention`: the one asked for, or with "auto" the best that can train here.

    Raises SpecError when the one asked for cannot run on this device in this precision.
    """
    if asked != "auto":
        if obstacle := _obstacle(asked, device, dtype, head_dim, masks_documents):
            raise SpecError(f"runtime.attention: {asked} cannot run here: {obstacle}; use auto")
        return AttentionChoice(asked, "asked for by runtime.attention")  # type: ignore[arg-type]  # the spec has checked it
    if device.type == "cpu":
        return AttentionChoice("blocked", "on a CPU blocks of queries read only the keys they see")
    candidates: tuple[AttentionKernel, ...] = ("fa3", "flex")
    against: list[str] = []
    for kernel in candidates:
        if not (obstacle := _obstacle(kernel, device, dtype, head_dim, masks_documents)):
            return AttentionChoice(kernel, "; ".join(against) or "the fastest on this GPU")
        against.append(f"no {kernel}: {obstacle}")
    return AttentionChoice("sdpa", "; ".join(against))


def build_attention(kernel: AttentionKernel | None, shape: ModelShape, device: torch.device) -> Attend:
    """The kernel for a model of this shape; None: torch's own, which needs nothing installed."""
    if kernel == "fa3":
        return load_fa3()
    if kernel == "flex":
        return FlexAttention(shape.sequence_len, shape.windows, device)
    return {"sdpa": attend_whole, "blocked": attend_in_blocks, None: attend}[kernel]


def borders_of(attend: Attend, documents: Tensor) -> Any:
    """(B, T) numbers that differ from document to document -> what this kernel takes as their borders.

    Made once a forward pass, since all layers share it.
    """
    return attend.masks_within(documents) if isinstance(attend, FlexAttention) else documents


def _obstacle(
    kernel: str, device: torch.device, dtype: torch.dtype, head_dim: int, masks_documents: bool
) -> str | None:
    """Why a kernel cannot train here, as the end of a sentence; None when it can."""
    if kernel == "fa3":
        if masks_documents:
            return "it does not know the documents that data.document_mask keeps apart"
        if device.type != "cuda":
            return f"it needs an NVIDIA Hopper GPU, the device is {device.type}"
        major, minor = torch.cuda.get_device_capability(device)
        if major != 9:
            return f"it needs an NVIDIA Hopper GPU (9.0), this one is {major}.{minor}"
        if dtype not in (torch.bfloat16, torch.float16):
            return f"it computes in bf16 or fp16, not in {str(dtype).removeprefix('torch.')}"
        if head_dim > FA3_HEAD_DIM or head_dim % 8:
            return f"model.head_dim must be a multiple of 8 up to {FA3_HEAD_DIM}"
        try:
            load_fa3()
        except ImportError as e:
            return str(e)
    if kernel == "flex":
        if device.type != "cuda":
            return f"FlexAttention has no backward on {device.type}"
        if not _is_installed("triton"):
            return "triton is not installed"
        if head_dim < FLEX_HEAD_DIM:
            return f"model.head_dim must be at least {FLEX_HEAD_DIM}"
    return None


@lru_cache(maxsize=1)
def load_fa3() -> Attend:
    """FlashAttention 3, which takes windows, grouped heads and a cache as they come. Raises ImportError where it is not."""
    name = next((name for name in FA3_MODULES if _is_installed(name)), None)
    if name is None:
        raise ImportError("flash_attn_interface is not installed")
    try:
        interface = import_module(name)
    except (ImportError, OSError, RuntimeError) as e:  # built for another torch or CUDA
        raise ImportError(f"{name} cannot be imported ({str(e).splitlines()[0]})") from e
    flash = interface.flash_attn_func
    # early releases did not register their operators with torch: a compiler has to step around them
    if not hasattr(getattr(interface, "_flash_attn_forward", None), "register_fake"):
        flash = torch.compiler.disable(flash)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def attend_by_fa3(q: Tensor, k: Tensor, v: Tensor, window: int, borders: Any = None, /) -> Tensor:
        assert borders is None, "choose_attention takes another kernel where documents are kept apart"
        sees_all = window >= k.size(1) - 1
        deterministic = torch.are_deterministic_algorithms_enabled()
        out = flash(
            q,
            k,
            v,
            causal=True,
            window_size=(-1, -1) if sees_all else (window, 0),
            deterministic=deterministic,
        )
        return out[0] if isinstance(out, tuple) else out  # early releases return the log-sum-exp as well

    return attend_by_fa3


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package
        return False


class FlexAttention:
    """Windows at the training length go through FlexAttention, compiled; the rest, for which torch's own kernels are
    as good and no length has to be compiled for, through SDPA.

    The block masks are made here and not in forward, where a compiler would make them again at every step.
    """

    def __init__(self, sequence_len: int, windows: tuple[int, ...], device: torch.device) -> None:
        from torch.nn.attention.flex_attention import flex_attention

        self.sequence_len = sequence_len
        self._windows = tuple(set(windows))
        self._flex: Any = torch.compile(flex_attention, dynamic=False)
        self._make_mask: Any = torch.compile(_block_mask, dynamic=False)
        self._masks = {
            window: _block_mask(sequence_len, window, device)
            for window in set(windows)
            if window < sequence_len - 1
        }

    def masks_within(self, documents: Tensor) -> "dict[int, Any] | Tensor":
        """(B, T) -> for each window the block masks of these rows; the numbers as they are at any other length."""
        T = documents.size(1)
        if self.sequence_len != T:
            return documents
        return {window: self._make_mask(T, window, documents.device, documents) for window in self._windows}

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        window: int,
        borders: "dict[int, Any] | Tensor | None" = None,
        /,
    ) -> Tensor:
        if isinstance(borders, Tensor):
            return attend_whole(q, k, v, window, borders)
        mask = (self._masks if borders is None else borders).get(window)
        if mask is None or not q.size(1) == k.size(1) == self.sequence_len:
            return attend_whole(q, k, v, window)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # heads before positions
        out: Tensor = self._flex(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1))
        return out.transpose(1, 2)


def _block_mask(T: int, window: int, device: torch.device, documents: Tensor | None = None) -> Any:
    """FlexAttention's own description of a window: which blocks are seen, and which of them only in part; with
    documents (B, T) inside each of them, row by row."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key <= window)

    if documents is None:
        return create_block_mask(sees, None, None, T, T, device=device)

    def sees_within(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(batch, head, query, key) & (documents[batch, query] == documents[batch, key])

    return create_block_mask(sees_within, documents.size(0), None, T, T, device=device)
