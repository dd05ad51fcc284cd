"""From logits to a token: temperature, filters, penalty, log-probabilities. One text at a time, on the CPU.

A draw takes one number from the text's own generator and finds it in the cumulative distribution; so a seed gives the
same text on every device and whoever else is being written for, up to the rounding of the logits themselves.
V vocabulary   k tokens that may be drawn
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer_daemon.contract.generation import Generation

NUCLEUS_GUESS = 256
"""A nucleus is looked for among so many of the likeliest first: sorting 32768 takes 30 times as long."""


def pick_token(logits: Tensor, how: Generation, text: Sequence[int], uniform: float) -> int:
    """(V,) -> an id. `text`: what stands already; `uniform`: a number drawn from [0, 1)."""
    if how.repetition_penalty != 1.0:
        logits = penalized(logits, text, how.repetition_penalty)
    if how.temperature == 0:
        return int(logits.argmax())
    logits = logits / how.temperature
    if (how.top_k is None or how.top_k >= logits.numel()) and how.top_p == 1.0:
        ids, probabilities = None, logits.softmax(0, dtype=torch.float64)  # (V,)
    else:
        ids, probabilities = likeliest(logits, how.top_k, how.top_p)  # (k,), (k,)
    if how.min_p > 0:
        probabilities = probabilities.where(probabilities >= how.min_p * probabilities.max(), 0)
    cumulative = probabilities.cumsum(0)
    # right: a place whose own probability is 0 is never found
    place = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1]), right=True))
    place = min(place, int(probabilities.nonzero()[-1]))  # rounding may lead past the end
    return place if ids is None else int(ids[place])


def likeliest(logits: Tensor, top_k: int | None, top_p: float) -> tuple[Tensor, Tensor]:
    """(V,) -> ids (k,) from the likeliest down, and their probabilities (k,), which need not sum to 1.

    The nucleus is taken of what top_k leaves.
    """
    V = logits.numel()
    k = min(top_k or V, V)
    if top_p == 1.0:
        kept, ids = logits.topk(k)
        return ids, kept.softmax(0, dtype=torch.float64)
    total = logits.logsumexp(0) if k == V else logits.topk(k).values.logsumexp(0)
    for size in (min(NUCLEUS_GUESS, k), k):
        kept, ids = logits.topk(size)
        probabilities = (kept - total).double().exp()
        before = probabilities.cumsum(0) - probabilities  # of all likelier ones
        if size == k or float(before[-1]) >= top_p:
            break
    inside = max(1, int((before < top_p).sum()))
    return ids[:inside], probabilities[:inside]


def penalized(logits: Tensor, text: Sequence[int], penalty: float) -> Tensor:
    """(V,) -> (V,): tokens of the text made less likely."""
    seen = torch.tensor(sorted(set(text)), dtype=torch.long)
    of_seen = logits[seen]
    return logits.index_put((seen,), torch.where(of_seen > 0, of_seen / penalty, of_seen * penalty))


def logprob_of(logits: Tensor, token: int, alternatives: int) -> tuple[float, list[tuple[int, float]]]:
    """(V,) -> the log-probability of a token, and the likeliest ids with theirs."""
    logprobs = logits.log_softmax(0, dtype=torch.float64)
    values, ids = logprobs.topk(min(alternatives, logits.numel()))
    return float(logprobs[token]), list(zip(ids.tolist(), values.tolist(), strict=True))
