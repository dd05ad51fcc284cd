"""Writing token by token against reading everything again for each token."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.engine.inference.conftest import CLASSIC, FULL, MOE, WINDOWED, perturbed
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.inference.decoder import Decoder
from trainer_daemon.engine.inference.moe_decoder import MoEDecoder, ask_all, ask_chosen
from trainer_daemon.engine.inference.recorded import RecordedDecoder, recording_size
from trainer_daemon.engine.inference.uncached import DECODERS
from trainer_daemon.engine.models.language_model import LanguageModel

PROMPT = [3, 14, 15, 9, 26]


def fast_decoder(model: LanguageModel) -> Decoder:
    """Of the model's family, whether it agrees or not."""
    return DECODERS[model.shape.family][0].of(model)


def greedy_without_cache(
    model: LanguageModel, prompt: list[int], tokens: int
) -> tuple[list[int], torch.Tensor]:
    """The likeliest tokens, and the log-probabilities (tokens, V) that they were chosen by."""
    text, seen = list(prompt), []
    with torch.no_grad():
        for _ in range(tokens):
            seen.append(model(torch.tensor([text]))[0, -1].log_softmax(0))
            text.append(int(seen[-1].argmax()))
    return text[len(prompt) :], torch.stack(seen)


def greedy_with_cache(
    decoder: Decoder, prompts: list[list[int]], tokens: int
) -> tuple[list[list[int]], torch.Tensor]:
    """Of texts side by side: their tokens, and the log-probabilities (texts, tokens, V)."""
    cache = decoder.new_cache(len(prompts))
    logits = torch.stack([decoder.prefill(prompt, cache, cache.add()) for prompt in prompts])
    written, seen = [], []
    for i in range(tokens):
        seen.append(logits.log_softmax(1))
        written.append(logits.argmax(1).tolist())
        if i < tokens - 1:
            logits = decoder.decode(written[-1], cache)
    return [list(text) for text in zip(*written, strict=True)], torch.stack(seen, dim=1)


@pytest.mark.parametrize("name", ["windowed", "full", "classic", "moe", "trained"])
def test_the_decoder_computes_what_the_model_computes(name: str, request: pytest.FixtureRequest) -> None:
    fixture: LanguageModel | tuple[LanguageModel, Tokenizer, Path] = request.getfixturevalue(name)
    model = fixture if isinstance(fixture, LanguageModel) else fixture[0]
    expected, expected_logprobs = greedy_without_cache(model, PROMPT, 200)
    decoder = fast_decoder(model)
    assert decoder.agrees_with(model)
    (written,), logprobs = greedy_with_cache(decoder, [PROMPT], 200)
    assert written == expected
    assert (logprobs[0] - expected_logprobs).abs().max() < 1e-4
    if name != "trained":
        assert len(set(expected)) > 10


@pytest.mark.parametrize("name", ["windowed", "full", "classic", "moe", "trained"])
def test_texts_side_by_side_are_what_they_are_alone(name: str, request: pytest.FixtureRequest) -> None:
    fixture: LanguageModel | tuple[LanguageModel, Tokenizer, Path] = request.getfixturevalue(name)
    decoder = fast_decoder(fixture if isinstance(fixture, LanguageModel) else fixture[0])
    prompts = [
        [n * n % 261 for n in range(start, start + length)] for start, length in ((1, 1), (4, 33), (9, 8))
    ]
    together, logprobs = greedy_with_cache(decoder, prompts, 200)
    for i, prompt in enumerate(prompts):
        (alone,), logprobs_alone = greedy_with_cache(decoder, [prompt], 200)
        assert together[i] == alone
        assert (logprobs[i] - logprobs_alone[0]).abs().max() < 1e-4


@pytest.mark.parametrize("length", [1, 7, 8, 9, 31, 100, 255, 256])
def test_a_prompt_of_any_length_against_its_windows_is_read_right(
    windowed: LanguageModel, length: int
) -> None:
    prompt = [n * 7 % 261 for n in range(length)]
    tokens = min(20, WINDOWED.sequence_len - length + 1)
    expected, expected_logprobs = greedy_without_cache(windowed, prompt, tokens)
    (written,), logprobs = greedy_with_cache(fast_decoder(windowed), [prompt], tokens)
    assert written == expected
    assert (logprobs[0] - expected_logprobs).abs().max() < 1e-4


def test_in_bf16_it_stays_near_the_model() -> None:
    model = perturbed(WINDOWED, torch.bfloat16)
    decoder = fast_decoder(model)
    assert decoder.dtype == torch.bfloat16
    cache, text = decoder.new_cache(1), list(PROMPT)
    logits = decoder.prefill(text, cache, cache.add())
    for _ in range(60):  # along the model's own text: in bf16, near ties fall either way
        with torch.no_grad():
            expected = model(torch.tensor([text]))[0, -1]
        assert (logits - expected).abs().mean() < 0.3
        text.append(int(expected.argmax()))
        logits = decoder.decode(text[-1:], cache)[0]


def test_a_freed_row_is_taken_by_the_last_one_and_then_by_the_next_text(windowed: LanguageModel) -> None:
    decoder = fast_decoder(windowed)
    prompts = [PROMPT, [8, 8, 8], [5] * 40]
    (a, b, c), _ = greedy_with_cache(decoder, prompts, 4)
    cache = decoder.new_cache(3)
    for prompt in prompts:
        decoder.prefill(prompt, cache, cache.add())
    assert decoder.decode([a[0], b[0], c[0]], cache).argmax(1).tolist() == [a[1], b[1], c[1]]
    assert cache.remove(0) == 2
    assert decoder.decode([c[1], b[1]], cache).argmax(1).tolist() == [c[2], b[2]]
    decoder.prefill(PROMPT, cache, cache.add())
    assert decoder.decode([c[2], b[2], a[0]], cache).argmax(1).tolist() == [c[3], b[3], a[1]]


def test_windowed_layers_keep_their_window_and_no_more(windowed: LanguageModel) -> None:
    cache = fast_decoder(windowed).new_cache(2)
    assert [layer.size(3) for layer in cache.layers] == [8, 31, 256]


CHANGED: dict[str, Callable[[LanguageModel], Tensor]] = {
    "nanochat": lambda model: model.get_parameter("smear_lambda"),
    "classic": lambda model: model.get_parameter("wpe.weight")[:, ::2],
    "moe": lambda model: model.get_parameter("blocks.1.moe.down"),
}
"""Of each family, what makes it another function."""


@pytest.mark.parametrize("shape", [WINDOWED, FULL, CLASSIC, MOE], ids=["windowed", "full", "classic", "moe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_decoder_of_another_function_is_noticed_and_rounding_is_not(
    shape: ModelShape, dtype: torch.dtype
) -> None:
    """Samples of a sound bf16 run were refused as another function's: its logits, 1.5 in size, lay 0.09 apart at most."""
    model, other = perturbed(shape, dtype).train(), perturbed(shape, dtype)
    with torch.no_grad():
        CHANGED[shape.family](other).add_(2)
    decoder = fast_decoder(model)
    assert decoder.agrees_with(model)
    assert model.training
    assert not decoder.agrees_with(other)


def test_recordings_are_few_and_hold_what_they_serve() -> None:
    cache = fast_decoder(perturbed(FULL)).new_cache(12)
    sizes = {(n, extent): recording_size(n, extent, cache) for n in range(1, 13) for extent in (1, 200, 256)}
    assert all(rows >= n and size >= extent for (n, extent), (rows, size) in sizes.items())
    assert {rows for rows, _ in sizes.values()} == {1, 2, 4, 8, 12}
    assert {size for _, size in sizes.values()} == {256}


@torch.inference_mode()
def test_experts_that_are_all_asked_answer_as_those_that_were_chosen(moe: LanguageModel) -> None:
    """A GPU asks all in a recorded step, whatever the router says."""
    decoder = fast_decoder(moe)
    assert isinstance(decoder, MoEDecoder)
    experts = decoder._blocks[0].experts
    tokens, weight = torch.randn(7, 64), torch.rand(7, 2)
    chosen = torch.stack([torch.randperm(3)[:2] for _ in range(7)])  # nobody chose the fourth
    asked = [ask(experts, tokens, weight, chosen) for ask in (ask_all, ask_chosen)]
    torch.testing.assert_close(*asked, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [WINDOWED, MOE], ids=["windowed", "moe"])
def test_a_recorded_step_is_the_step(shape: ModelShape) -> None:
    decoder = fast_decoder(perturbed(shape).to("cuda"))
    prompts = [PROMPT, [8, 8, 8], [5] * 40]
    expected, _ = greedy_with_cache(decoder, prompts, 200)
    cache = decoder.new_cache(4)
    logits = torch.stack([decoder.prefill(prompt, cache, cache.add()) for prompt in prompts])
    recorded, written = RecordedDecoder(decoder, cache), []
    for _ in range(200):
        written.append(logits.argmax(1).tolist())
        logits = recorded.decode(written[-1])
    assert [list(text) for text in zip(*written, strict=True)] == expected
