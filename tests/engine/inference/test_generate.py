"""Decoding with a cache against reading everything again for each token."""

from collections.abc import Iterator
from itertools import islice

import pytest
import torch

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.engine.inference.generate import TextStream, generate
from trainer_daemon.engine.inference.kv_cache import KVCache
from trainer_daemon.engine.models.gpt import GPT

SHAPE = ModelShape(
    n_layer=3,
    n_embd=64,
    n_head=4,
    n_kv_head=2,
    head_dim=16,
    sequence_len=96,
    vocab_size=83,
    windows=(7, 30, 96),
)
PROMPT = [3, 14, 15, 9, 26]


@pytest.fixture(scope="module")
def model() -> GPT:
    """All weights non-zero and large enough that the likeliest token keeps changing."""
    model = GPT(SHAPE)
    model.init_weights(1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw))
    return model


def greedy_without_cache(model: GPT, prompt: list[int]) -> Iterator[int]:
    text = list(prompt)
    while True:
        with torch.no_grad():
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
        yield text[-1]


def test_cached_decoding_writes_what_rereading_everything_writes(model: GPT) -> None:
    expected = list(islice(greedy_without_cache(model, PROMPT), 80))
    assert len(set(expected)) > 10
    assert list(generate(model, PROMPT, max_tokens=80)) == expected


def test_a_text_read_in_pieces_has_the_logits_of_one_read_whole(model: GPT) -> None:
    text = torch.randint(0, SHAPE.vocab_size, (3, 60), generator=torch.Generator().manual_seed(0))
    cache = KVCache(SHAPE, batch_size=3, capacity=60, dtype=torch.float32)
    with torch.no_grad():
        pieces = [model(piece, cache=cache) for piece in torch.split(text, [20, 1, 1, 33, 5], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(text), atol=1e-4, rtol=1e-4)
    assert cache.length == 60


def test_past_the_context_it_goes_on_from_the_last_half(model: GPT) -> None:
    written = list(generate(model, PROMPT, max_tokens=150))
    assert len(written) == 150
    # 96 positions are read; the one after them begins anew from the last 48 tokens
    text = PROMPT + written
    assert list(islice(greedy_without_cache(model, text[97 - 48 : 97]), 40)) == text[97:137]


def test_a_prompt_longer_than_the_context_is_continued_from_its_last_half(model: GPT) -> None:
    prompt = [n * n % SHAPE.vocab_size for n in range(200)]
    expected = list(generate(model, prompt[-48:], max_tokens=40))
    assert list(generate(model, prompt, max_tokens=40)) == expected


def test_the_same_seed_draws_the_same_text(model: GPT) -> None:
    def drawn(seed: int, top_k: int | None = None, temperature: float = 1.5) -> list[int]:
        return list(generate(model, PROMPT, max_tokens=30, temperature=temperature, top_k=top_k, seed=seed))

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, top_k=1) == list(generate(model, PROMPT, max_tokens=30))
    assert drawn(1, top_k=10_000) == drawn(1)
    assert all(0 <= token < SHAPE.vocab_size for token in drawn(3, temperature=10.0))


def test_it_stops_before_a_stop_token(model: GPT) -> None:
    free = list(generate(model, PROMPT, max_tokens=40))
    stop = free[25]
    assert list(generate(model, PROMPT, max_tokens=40, stop_ids=[stop])) == free[: free.index(stop)]


def test_training_does_not_notice_a_sample(model: GPT) -> None:
    model.train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in generate(model, PROMPT, max_tokens=5, temperature=1.0):
        assert model.training
        assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("prompt", [[], [83], [-1, 4]])
def test_a_prompt_that_the_model_cannot_read_is_refused_before_anything_runs(
    model: GPT, prompt: list[int]
) -> None:
    with pytest.raises(SpecError, match="the prompt has"):
        generate(model, prompt, max_tokens=1)


def test_text_comes_out_whole_when_a_character_is_split_over_tokens() -> None:
    pieces = [b"na", b"\xc3", b"\xafve \xe2", b"\x82", b"\xac", b"\xff", b"\xe2\x82"]
    stream = TextStream(pieces.__getitem__)
    assert [stream.push(n) for n in range(7)] == ["na", "", "ïve ", "", "€", "\ufffd", ""]
    assert stream.finish() == "\ufffd"
