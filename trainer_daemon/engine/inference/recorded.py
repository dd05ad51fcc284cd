"""Decoding on a GPU as CUDA graphs: one launch a step instead of hundreds, which cost more than their work.

A graph has fixed shapes, so one is recorded for each power of two of texts and each stretch of `EXTENT_STEP` positions,
when it is first needed; rows beyond the texts in use are computed and thrown away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_daemon.engine.inference.decoder import Decoder
from trainer_daemon.engine.inference.kv_cache import KVCache

EXTENT_STEP = 256
"""Positions; attention reads at most so many slots in vain."""
WARM_UPS = 2
"""Steps before a recording, in which the libraries choose their kernels and take their workspaces."""


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    idx: Tensor
    """(rows,), where a replay reads."""
    position: Tensor
    """(rows,)"""
    logits: Tensor
    """(rows, V), where a replay writes."""


class RecordedDecoder:
    """`Decoder.decode` for one cache on a CUDA device."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder = decoder
        self._cache = cache
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()

    @torch.inference_mode()
    def decode(self, ids: Sequence[int]) -> Tensor:
        """(N,) -> (N, V) fp32 logits on the CPU: one more token for each text in the cache, in row order."""
        cache, N = self._cache, len(ids)
        rows, extent = recording_size(N, max(cache.lengths) + 1, cache)
        unused = [0] * (rows - N)
        idx, position = ([*values, *unused] for values in (ids, cache.lengths))
        recording = self._recordings.get((rows, extent))
        if recording is None:
            recording = self._recordings[rows, extent] = self._record(idx, position, extent)
        recording.idx.copy_(torch.tensor(idx))
        recording.position.copy_(torch.tensor(position))
        recording.graph.replay()
        cache.lengths = [length + 1 for length in cache.lengths]
        return recording.logits[:N].cpu()

    def _record(self, idx: list[int], position: list[int], extent: int) -> _Recording:
        decoder, cache = self._decoder, self._cache
        device = decoder.device
        at_idx, at_position = torch.tensor(idx, device=device), torch.tensor(position, device=device)
        # a step moves the smear on, so what it moved is put back: the replay that follows is the first to count
        last_embedding = cache.last_embedding.clone()
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                decoder.step(at_idx, at_position, cache, extent, is_ragged=True)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = decoder.step(at_idx, at_position, cache, extent, is_ragged=True)
        cache.last_embedding.copy_(last_embedding)
        return _Recording(graph, at_idx, at_position, logits)


def recording_size(texts: int, extent: int, cache: KVCache) -> tuple[int, int]:
    """(rows, extent) of the recording that serves so many texts of at most so many positions."""
    rows = min(1 << (texts - 1).bit_length(), cache.rows)
    return rows, min(-(-extent // EXTENT_STEP) * EXTENT_STEP, cache.context)
