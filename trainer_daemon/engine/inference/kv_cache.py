"""What a model remembers of the texts it is writing, so that the next token of each costs one position, not all.

Preallocated. A row is one text; rows 0 to N-1 are in use, without gaps, so that a step works on views and gathers
nothing: when a text ends, the last row moves into its place. A layer with a window keeps only the positions that the
window still sees, in a ring; rotary angles are in the keys already, so their order does not matter.
N rows in use   S slots (positions kept of a layer)   K key/value heads   D head width   C width
"""

import torch
from torch import Tensor

from trainer_daemon.contract.scaling import ModelShape


def cache_bytes(shape: ModelShape, *, rows: int, bytes_each: int) -> int:
    """Memory of a cache, without the smear's embeddings."""
    return 2 * rows * shape.n_kv_head * shape.head_dim * bytes_each * sum(slots_of(shape))


def slots_of(shape: ModelShape) -> list[int]:
    """Positions kept of each layer: a query sees `window` keys before its own."""
    return [min(window + 1, shape.sequence_len) for window in shape.windows]


class KVCache:
    def __init__(
        self, shape: ModelShape, *, rows: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.rows = rows
        """Texts that have room."""
        self.context = shape.sequence_len
        self.lengths: list[int] = []
        """Tokens seen, of each row in use."""
        self.slots = slots_of(shape)
        """Of each layer."""
        self.layers = [
            torch.zeros(rows, 2, shape.n_kv_head, slots, shape.head_dim, dtype=dtype, device=device)
            for slots in self.slots
        ]  # each (rows, 2, K, S, D): keys and values together, so that a step writes once a layer
        self.last_embedding = torch.zeros(rows, shape.n_embd, dtype=dtype, device=device)
        """(rows, C): of each text's last token, for the smear."""

    def add(self) -> int:
        """Take a row into use, empty; returns its number."""
        assert len(self.lengths) < self.rows, "no row is free"
        self.lengths.append(0)
        return len(self.lengths) - 1

    def remove(self, row: int) -> int:
        """Free a row. The last row in use takes its place: returns the number that row had."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.layers:
                layer[row] = layer[last]
            self.last_embedding[row] = self.last_embedding[last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        return last

    def fill(self, row: int, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep (1, T, K, D) keys and values of a text's first T positions, as far as the layer's window reaches back."""
        T, slots = k.size(1), self.slots[layer]
        first = max(0, T - slots)
        kv = torch.stack([k[0, first:], v[0, first:]]).transpose(1, 2)  # (2, K, T - first, D)
        kept = self.layers[layer][row]  # (2, K, S, D)
        turn = first % slots  # position p lies in slot p mod S
        kept[:, :, turn : turn + T - first] = kv[:, :, : slots - turn]
        if T - first > slots - turn:
            kept[:, :, : T - first - (slots - turn)] = kv[:, :, slots - turn :]
