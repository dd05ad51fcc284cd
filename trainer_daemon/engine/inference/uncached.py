"""Writing with the model itself, which reads the whole text again for every token.

So a model that was changed writes what it computes before `decoder.py` was changed with it: slowly, but rightly.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer_daemon.contract.spec import Family
from trainer_daemon.engine.inference.classic_decoder import ClassicDecoder
from trainer_daemon.engine.inference.decoder import Decoder, logits_of_model
from trainer_daemon.engine.inference.moe_decoder import MoEDecoder
from trainer_daemon.engine.models.language_model import LanguageModel

DECODERS: dict[Family, tuple[type[Decoder], str, str]] = {
    "nanochat": (Decoder, "decoder.py", "gpt.py"),
    "classic": (ClassicDecoder, "classic_decoder.py", "classic.py"),
    "moe": (MoEDecoder, "moe_decoder.py", "moe.py"),
}
"""Of each family: the fast decoder, its file, and the file of the model that it follows."""


class Texts:
    """What `UncachedDecoder` remembers in place of keys and values: the tokens. Rows as in `KVCache`."""

    def __init__(self, rows: int, context: int) -> None:
        self.rows = rows
        """Texts that have room."""
        self.context = context
        self.ids: list[list[int]] = []
        """Tokens seen, of each row in use."""

    @property
    def lengths(self) -> list[int]:
        return [len(text) for text in self.ids]

    def add(self) -> int:
        """Take a row into use, empty; returns its number."""
        self.ids.append([])
        return len(self.ids) - 1

    def remove(self, row: int) -> int:
        """Free a row. The last row in use takes its place: returns the number that row had."""
        last = len(self.ids) - 1
        self.ids[row] = self.ids[last]
        self.ids.pop()
        return last


class UncachedDecoder:
    """Writes as `Decoder` does, with the model's own forward pass."""

    def __init__(self, model: LanguageModel) -> None:
        self.shape = model.shape
        _, decoder, file = DECODERS[model.shape.family]
        self.why = (
            f"inference/{decoder} does not compute what models/{file} computes, so the model itself writes and reads its whole "
            f"text again for every token: right, but slower the longer a text gets; change {decoder} as well"
        )
        """What made it necessary, for the reader."""
        self._model = model

    def new_cache(self, rows: int) -> Texts:
        """Room for so many texts."""
        return Texts(rows, self.shape.sequence_len)

    def prefill(self, ids: Sequence[int], cache: Texts, row: int) -> Tensor:
        """(T,) -> (V,) fp32 logits on the CPU, for the token after the text; the row has seen it then."""
        cache.ids[row] = list(ids)
        return logits_of_model(self._model, ids)

    def decode(self, ids: Sequence[int], cache: Texts) -> Tensor:
        """(N,) -> (N, V) fp32 logits on the CPU: one more token for each text in the cache, in row order."""
        for text, token in zip(cache.ids, ids, strict=True):
            text.append(token)
        return torch.stack([logits_of_model(self._model, text) for text in cache.ids])


def decoder_for(model: LanguageModel) -> Decoder | UncachedDecoder:
    """The fast decoder with a model's present weights, or the model itself where that one computes another function."""
    try:
        decoder = DECODERS[model.shape.family][0].of(model)
        if decoder.agrees_with(model):
            return decoder
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001, S110  # a changed model may lack a tensor or have it in another shape
        pass
    return UncachedDecoder(model)
