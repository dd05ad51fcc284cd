"""Texts that come, are written together and leave."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.generation import Generation, Piece
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.inference.batch import Batch, write
from trainer_daemon.engine.inference.decoder import Decoder
from trainer_daemon.engine.models.language_model import LanguageModel

GREEDY = Generation(prompt="Once", max_tokens=40, temperature=0)


@pytest.fixture
def batch(windowed: LanguageModel, letters: Tokenizer) -> Batch:
    return Batch(Decoder.of(windowed), letters, rows=3)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def alone(batch: Batch, request: Generation) -> list[Piece]:
    pieces = list(write(batch, request))
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert batch.is_idle
    return pieces


def test_sixteen_texts_of_different_lengths_are_written_together_as_they_would_be_alone(
    trained: tuple[LanguageModel, Tokenizer, Path],
) -> None:
    model, tokenizer, _ = trained
    decoder = Decoder.of(model)
    requests = [
        Generation(
            prompt="One day the fox " * (i % 5) + "went",
            max_tokens=3 + 7 * i,
            temperature=0.0 if i % 3 == 0 else 1.2,
            top_k=20 if i % 2 else None,
            top_p=0.9 if i % 4 == 1 else 1.0,
            seed=i,
            logprobs=1,
        )
        for i in range(16)
    ]
    batch = Batch(decoder, tokenizer, rows=6)  # so that some wait, and take the rows of others
    tickets = {batch.begin(request): i for i, request in enumerate(requests)}
    together: list[list[Piece]] = [[] for _ in requests]
    while not batch.is_idle:
        for ticket, piece in batch.step():
            together[tickets[ticket]].append(piece)
    for request, pieces in zip(requests, together, strict=True):
        expected = alone(Batch(decoder, tokenizer, rows=1), request)
        assert text_of(pieces) == text_of(expected)
        for ours, theirs in zip(pieces, expected, strict=True):
            assert (ours.tokens, ours.finish_reason) == (theirs.tokens, theirs.finish_reason)
            assert [t.logprob for t in ours.logprobs] == pytest.approx(
                [t.logprob for t in theirs.logprobs], abs=1e-4
            )


def test_a_cancelled_text_leaves_and_the_others_go_on(batch: Batch) -> None:
    expected = text_of(alone(batch, GREEDY))
    other = batch.begin(replace(GREEDY, prompt="Another", max_tokens=1000))
    mine = batch.begin(GREEDY)
    batch.begin(replace(GREEDY, prompt="x", max_tokens=1000))
    waiting = batch.begin(replace(GREEDY, prompt="y"))
    pieces = [piece for _ in range(3) for ticket, piece in batch.step() if ticket == mine]
    batch.cancel(other)
    batch.cancel(waiting)
    batch.cancel(waiting - 1)
    while not batch.is_idle:
        told = batch.step()
        assert {ticket for ticket, _ in told} == {mine}
        pieces += [piece for _, piece in told]
    assert text_of(pieces) == expected


def test_after_an_error_everything_can_be_dropped_and_begun_anew(batch: Batch) -> None:
    expected = text_of(alone(batch, GREEDY))
    tickets = [batch.begin(GREEDY) for _ in range(5)]
    batch.step()
    assert batch.abandon() == tickets
    assert batch.is_idle
    assert text_of(alone(batch, GREEDY)) == expected


def test_past_the_context_it_goes_on_from_the_last_half_and_says_so(
    trained: tuple[LanguageModel, Tokenizer, Path],
) -> None:
    model, tokenizer, _ = trained
    batch = Batch(Decoder.of(model), tokenizer, rows=1)
    ids = [tokenizer.bos_id, *tokenizer.encode("Once")]
    prompt_tokens = len(ids)
    request = Generation(prompt="Once", max_tokens=300, temperature=1.0, seed=3, logprobs=0)
    pieces = alone(batch, request)
    assert pieces[-1].tokens > 260, "choose another seed: this text ended by itself"
    # 256 positions are read; the token after them is chosen from the last 128
    assert {p.forgotten for p in pieces if prompt_tokens + p.tokens <= 257} == {0}
    later = [p for p in pieces if prompt_tokens + p.tokens > 257]
    assert {p.forgotten for p in later} == {257 - 128}
    text = "Once" + text_of(pieces)
    continued = [tokenizer.bos_id, *tokenizer.encode(text)]
    assert len(continued) > 257


def test_a_prompt_longer_than_the_context_slides_or_is_refused(
    batch: Batch, windowed: LanguageModel, letters: Tokenizer
) -> None:
    prompt = "".join(chr(ord("a") + n * n % 26) for n in range(700))
    slid = alone(batch, replace(GREEDY, prompt=prompt, max_tokens=1, logprobs=1))
    assert (slid[0].prompt_tokens, slid[0].forgotten) == (701, 701 - 128)
    with torch.no_grad():
        expected = windowed(torch.tensor([letters.encode(prompt)[-128:]]))[0, -1].log_softmax(0)
    assert slid[0].logprobs[0].logprob == pytest.approx(float(expected.max()), abs=1e-4)
    with pytest.raises(SpecError, match="the prompt has 701 tokens and the context 256"):
        batch.begin(replace(GREEDY, prompt=prompt, overflow="refuse"))
    short = alone(batch, replace(GREEDY, prompt=prompt[:250], overflow="refuse"))
    assert (short[-1].finish_reason, short[-1].tokens) == ("length", 256 - 251 + 1)


def test_the_same_seed_draws_the_same_text(batch: Batch) -> None:
    def drawn(seed: int, **changes: float | None) -> str:
        settings = {"temperature": 1.5, "max_tokens": 30, "seed": seed, **changes}
        return text_of(alone(batch, replace(GREEDY, **settings)))  # type: ignore[arg-type]  # a dict of settings

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, top_k=1) == drawn(2, top_p=1e-9) == drawn(3, min_p=1.0) == drawn(1, temperature=0)
    assert drawn(1, top_k=10_000) == drawn(1)


def test_a_text_ends_before_a_stop_string_wherever_token_borders_fall(batch: Batch) -> None:
    free = text_of(alone(batch, GREEDY))
    stop = free[20:23]
    pieces = alone(batch, replace(GREEDY, stop=("never", stop)))
    assert text_of(pieces) == free[: free.index(stop)]
    assert pieces[-1].finish_reason == "stop"
    assert text_of(alone(batch, replace(GREEDY, stop=(free[-1] + "never",)))) == free  # held back, then given


def test_log_probabilities_are_the_models_own(
    batch: Batch, windowed: LanguageModel, letters: Tokenizer
) -> None:
    pieces = alone(batch, replace(GREEDY, temperature=2.0, top_k=5, logprobs=3, max_tokens=5))
    with torch.no_grad():
        prompt = torch.tensor([[letters.bos_id, *letters.encode("Once")]])
        expected = windowed(prompt)[0, -1].log_softmax(0)
    (token,) = pieces[0].logprobs
    assert [a.logprob for a in token.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-4)
    assert token.top[0].logprob >= token.logprob
    assert sum(len(piece.logprobs) for piece in pieces) == pieces[-1].tokens


def test_training_does_not_notice_a_sample(windowed: LanguageModel, letters: Tokenizer) -> None:
    windowed.train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in write(Batch(Decoder.of(windowed), letters, rows=1), replace(GREEDY, temperature=1.0)):
        assert windowed.training
        assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in windowed.parameters())
    windowed.eval()
