"""What a model remembers of a text so that the next token costs one position, not all of them.

Preallocated for a fixed capacity; every row of the batch is at the same position. Beside each layer's keys and values
it keeps the last token's embedding, which the smear adds to the next one.
B batch, T new tokens, S tokens so far, K key/value heads, D head width, C width, L layers.
"""

import torch
from torch import Tensor

from trainer_daemon.contract.scaling import ModelShape


class KVCache:
    def __init__(
        self,
        shape: ModelShape,
        *,
        batch_size: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.length = 0
        """Tokens seen by every layer; the layers of a forward pass in progress are ahead of it."""
        self.capacity = capacity
        size = (
            shape.n_layer,
            batch_size,
            capacity,
            shape.n_kv_head,
            shape.head_dim,
        )  # (L, B, capacity, K, D)
        self._keys = torch.empty(size, dtype=dtype, device=device)
        self._values = torch.empty(size, dtype=dtype, device=device)
        self._last_embedding = torch.empty(batch_size, 0, shape.n_embd, dtype=dtype, device=device)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, T, K, D) keys and values to one layer; returns all of that layer's, (B, S+T, K, D)."""
        end = self.length + k.size(1)
        assert end <= self.capacity, f"{end} tokens in a cache made for {self.capacity}"
        self._keys[layer, :, self.length : end] = k
        self._values[layer, :, self.length : end] = v
        return self._keys[layer, :, :end], self._values[layer, :, :end]

    def exchange_last_embedding(self, newest: Tensor) -> Tensor:
        """Keep (B, 1, C) for the next call and return the one kept by the last: (B, 0, C) at the text's beginning."""
        last, self._last_embedding = self._last_embedding, newest
        return last

    def advance(self, tokens: int) -> None:
        """All layers have taken `tokens` more."""
        self.length += tokens

    def clear(self) -> None:
        """Forget the text, keep the memory."""
        self.length = 0
        self._last_embedding = self._last_embedding[:, :0]
