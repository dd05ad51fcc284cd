"""A model that was changed without `decoder.py` writes what it computes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.engine.inference.conftest import WINDOWED, perturbed
from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.contract.events import Notice, Sampled
from trainer_daemon.contract.generation import Generation
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.inference.batch import Batch, write
from trainer_daemon.engine.inference.decoder import Decoder, logits_of_model
from trainer_daemon.engine.inference.session import load_session
from trainer_daemon.engine.inference.uncached import UncachedDecoder, decoder_for
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.models.language_model import LanguageModel


def text_of(decoder: Decoder | UncachedDecoder, tokenizer: Tokenizer, request: Generation) -> str:
    return "".join(piece.text for piece in write(Batch(decoder, tokenizer, rows=1), request))


def test_a_changed_model_writes_its_own_text_in_training_and_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smear = GPT.smear

    def changed(self: GPT, x: Tensor, begins: Tensor | None) -> Tensor:
        return smear(self, x, begins).flip(-1) * torch.linspace(0.5, 2.0, x.size(-1))

    monkeypatch.setattr(GPT, "smear", changed)
    spec = tiny_spec("sample.temperature=0", "sample.max_tokens=12", "eval.every=off")
    seen = Recorder()
    finished, job = run_tiny(spec, tmp_path / "home", seen, tmp_path)
    assert finished.reason == "completed"
    told = [(e.level, e.text) for e in seen.of(Notice) if "decoder.py" in e.text]
    assert [level for level, _ in told] == ["warning"], "said once, with two samples written"
    assert "slower the longer" in told[0][1]

    last = next(e for e in reversed(seen.of(Sampled)) if e.step == 12)
    ids = [job.tokenizer.bos_id, *job.tokenizer.encode(last.prompt)]
    prompt_tokens = len(ids)
    for _ in range(last.tokens):
        ids.append(int(logits_of_model(job.model, ids).argmax()))
    written = b"".join(map(job.tokenizer.decode_bytes, ids[prompt_tokens:])).decode("utf-8", "replace")
    assert last.text == written
    assert last.tokens > 0

    session = load_session(tmp_path / "checkpoints" / "step-00000012")
    assert isinstance(session.decoder, UncachedDecoder)
    request = Generation(prompt=last.prompt, temperature=0, max_tokens=12)
    assert text_of(session.decoder, session.tokenizer, request) == last.text


def test_the_model_itself_writes_what_the_decoder_writes_text_beside_text(
    windowed: LanguageModel, letters: Tokenizer
) -> None:
    requests = [
        Generation(prompt="One", max_tokens=9, temperature=0.7, top_k=40, seed=3),
        Generation(prompt="x" * 250, max_tokens=12, temperature=0.9, top_p=0.9, seed=4),  # slides
        Generation(prompt="", max_tokens=4, temperature=0),
    ]
    batch = Batch(UncachedDecoder(windowed), letters, rows=2)
    texts = {batch.begin(request): "" for request in requests}
    while not batch.is_idle:
        for ticket, piece in batch.step():
            texts[ticket] += piece.text
    fast = decoder_for(windowed)
    assert isinstance(fast, Decoder)
    assert list(texts.values()) == [text_of(fast, letters, request) for request in requests]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_window_that_only_the_model_has_is_noticed(dtype: torch.dtype) -> None:
    """The text that both are compared on was 8 tokens long: shorter than any window."""
    model = perturbed(WINDOWED, dtype)
    assert isinstance(decoder_for(model), Decoder)
    assert isinstance(model, GPT)
    (shortest, *_), attention = WINDOWED.windows, model.blocks[0].attn
    attention.window = shortest // 2
    assert isinstance(decoder_for(model), UncachedDecoder)


def test_a_model_that_lacks_what_the_decoder_reads_writes_itself() -> None:
    model = perturbed(WINDOWED)
    del model.backout_lambda
    model.register_buffer("backout_lambda", torch.zeros(1), persistent=False)
    assert isinstance(decoder_for(model), UncachedDecoder)


def test_a_model_in_training_in_fp8_is_asked_as_it_evaluates() -> None:
    shape = ModelShape(
        n_layer=1,
        n_embd=128,
        n_head=4,
        n_kv_head=4,
        head_dim=32,
        sequence_len=32,
        vocab_size=261,
        windows=(32,),
    )
    model = perturbed(shape)
    assert model.train_in_fp8("tensorwise")
    model.train()
    assert isinstance(decoder_for(model), Decoder)
    assert model.training
