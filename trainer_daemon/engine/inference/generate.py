"""Continues a text token by token from any GPT, in training or from a checkpoint, one text at a time.

Sampling is done on the CPU from a generator of its own: the same logits and seed give the same text on every device,
and a sample taken during training leaves the training's random numbers as they were.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.inference.kv_cache import KVCache
from trainer_daemon.engine.models.gpt import GPT


def generate(
    model: GPT,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Yields up to `max_tokens` ids as they are made; ends before the first one in `stop_ids`, which is not yielded.

    Temperature 0 takes the likeliest; `top_k` draws among the k likeliest. Ids of the table's padding never come.
    When prompt and text outgrow the context, the last half context of tokens is read again and the text goes on from
    there. The weights must not change between two tokens. Raises SpecError at once for a prompt without tokens, with
    an unknown one, or a sampling choice that cannot be.
    """
    if not prompt_ids:
        raise SpecError("the prompt has no tokens; begin with the tokenizer's beginning-of-text token")
    highest = max(prompt_ids)
    if not 0 <= min(prompt_ids) <= highest < model.shape.vocab_size:
        raise SpecError(
            f"the prompt has token {highest}, the vocabulary ends at {model.shape.vocab_size - 1}"
        )
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise SpecError(f"temperature must be 0 or more and top_k 1 or more, got {temperature} and {top_k}")
    return _generate(model, list(prompt_ids), max_tokens, temperature, top_k, seed, frozenset(stop_ids))


def _generate(
    model: GPT,
    text: list[int],
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    stop_ids: frozenset[int],
) -> Iterator[int]:
    context = model.shape.sequence_len
    device = model.wte.weight.device
    draw = torch.Generator().manual_seed(seed)
    cache = KVCache(model.shape, batch_size=1, capacity=context, dtype=model.compute_dtype, device=device)
    unread = text  # what the cache has not seen
    for _ in range(max_tokens):
        if cache.length + len(unread) > context:
            cache.clear()
            unread = text[-(context // 2) :]
        token = pick_token(_next_logits(model, unread, cache), temperature, top_k, draw)
        if token in stop_ids:
            return
        yield token
        text.append(token)
        unread = [token]


@torch.no_grad()
def _next_logits(model: GPT, ids: list[int], cache: KVCache) -> Tensor:
    """(V,) on the CPU, for the token after `ids`."""
    idx = torch.tensor([ids], device=model.wte.weight.device)  # (1, T)
    was_training = model.training
    if was_training:
        model.eval()
    try:
        last = model.hidden_states(idx, cache)[:, -1:]  # (1, 1, C): no logits of the prompt itself
        return model.unembed(last)[0, 0].cpu()
    finally:
        if was_training:
            model.train()


def pick_token(logits: Tensor, temperature: float, top_k: int | None, draw: torch.Generator) -> int:
    """(V,) -> an id."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top_k is not None and top_k < logits.numel():
        kept, ids = logits.topk(top_k)
        return int(ids[torch.multinomial(kept.softmax(0), 1, generator=draw)])
    return int(torch.multinomial(logits.softmax(0), 1, generator=draw))


class TextStream:
    """Turns tokens into text as they come: a character whose bytes are split over tokens waits for its last byte."""

    def __init__(self, decode_bytes: Callable[[int], bytes]) -> None:
        self._decode_bytes = decode_bytes
        # bytes that are no UTF-8 become U+FFFD: a young model writes many
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this token completes, possibly none."""
        return self._decoder.decode(self._decode_bytes(token))

    def finish(self) -> str:
        """What is left: a replacement character if the last one never became whole."""
        return self._decoder.decode(b"", final=True)
