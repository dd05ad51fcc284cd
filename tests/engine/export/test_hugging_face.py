"""Checkpoints that other tools read."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from types import ModuleType
from typing import cast

import pytest
import torch
from jinja2 import TemplateError
from safetensors.torch import load_file

from tests.tiny import Recorder, run_tiny, tiny_spec
from tests.tiny_moe import tiny_moe_spec
from tests.tiny_pile import tiny_pile_spec, write_tiny_pile
from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.generation import Message
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.export.hugging_face import byte_alphabet, export, fast_tokenizer, merges
from trainer_daemon.engine.inference.conversation import conversation_ids, ends_of_answer
from trainer_daemon.engine.inference.session import StoredModel, read_model
from trainer_daemon.engine.models.families import new_model

TEXTS = ["Once upon a time", "naïve 数字 🙂", "a  b\n\n\tc 1234 don't", " ", "<|bos|>"]


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    """A trained model of the other family."""
    home = tmp_path_factory.mktemp("classic")
    write_tiny_pile(home)
    run_tiny(tiny_pile_spec("model.sequence_len=192", "train.global_batch_tokens=1536"), home, Recorder())
    return read_model(home / "checkpoints/step-00000012")


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    """A trained mixture of experts, whose experts have more to say than after so few steps."""
    home = tmp_path_factory.mktemp("moe")
    sizes = ("model.sequence_len=192", "train.global_batch_tokens=1536", "eval.tokens=1536")
    run_tiny(tiny_moe_spec(*sizes), home, Recorder())
    read = read_model(home / "checkpoints/step-00000012")
    louder = {name: 5 * t if ".moe." in name else t for name, t in read.tensors.items()}
    return replace(read, tensors=louder)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    """A trained model with grouped queries, its weights perturbed so that every part of it counts."""
    home = tmp_path_factory.mktemp("trained")
    spec = tiny_spec(
        "model.n_kv_head=1",
        "model.sequence_len=192",
        "train.global_batch_tokens=1536",
        "model.depth=4",
        "eval.tokens=1536",
    )
    run_tiny(spec, home, Recorder())
    model = read_model(home / "checkpoints/step-00000012")
    draw = torch.Generator().manual_seed(2)
    for tensor in model.tensors.values():
        tensor.add_(0.3 * torch.randn(tensor.shape, generator=draw))
    return model


def merged(text: bytes, pairs: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Byte-level BPE from its definition."""
    order = {pair: rank for rank, pair in enumerate(pairs)}
    parts = [text[i : i + 1] for i in range(len(text))]
    while known := [(order[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in order]:
        at = min(known)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def test_the_merges_written_give_every_token_back(stored: StoredModel) -> None:
    tokens = stored.tokenizer.tokens
    pairs = merges(tokens)
    assert [a + b for a, b in pairs] == [token for token in tokens if len(token) > 1]
    assert all(merged(token, pairs) == [token] for token in tokens)
    assert len(set(byte_alphabet())) == 256
    assert (byte_alphabet()[ord(" ")], byte_alphabet()[ord("a")]) == ("Ġ", "a")


def test_the_weights_are_whole_and_in_the_precision_asked_for(stored: StoredModel, tmp_path: Path) -> None:
    files = export(stored, tmp_path / "a" / "out", "safetensors", torch.float32)
    assert [file.name for file in files] == ["config.json", "model.safetensors", "tokenizer.json"]
    written = load_file(tmp_path / "a/out/model.safetensors")
    assert all(torch.equal(written[name], tensor.float()) for name, tensor in stored.tensors.items())
    export(stored, tmp_path / "b", "hf", torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "b/model.safetensors").values()} == {
        torch.bfloat16
    }
    assert json.loads((tmp_path / "b/config.json").read_text())["dtype"] == "bfloat16"


def test_nothing_that_is_there_is_written_over_and_nothing_half_is_left(
    stored: StoredModel, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("precious")
    with pytest.raises(RefusedError, match="not an empty folder"):
        export(stored, tmp_path / "full", "hf", torch.float32)
    broken = StoredModel(
        stored.shape, Tokenizer([], {"<|bos|>": 0}, ""), {"a": torch.ones(1)}, 0, is_chat=False
    )
    object.__setattr__(broken.tokenizer, "bos_id", 77)  # as no tokenizer is: the export fails half way
    with pytest.raises(StopIteration):
        export(broken, tmp_path / "never", "hf", torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def wide_texts() -> Iterator[str]:
    """Every kind of character, alone and in company, and what is written with them."""
    for point in (
        *range(0x3000),
        *range(0x3000, 0xD800, 97),
        *range(0xE000, 0x110000, 997),
        *range(0x1F300, 0x1F700),
    ):
        c = chr(point)
        yield f"a{c}b 1{c}2'{c} {c}{c} x"
    draw = Random(0)
    kinds = [
        "abc  \n\t\r'sdmtlVEre123,.;(){}<>|_",
        " \n\r\t\u00a0\u0085\u2028\u3000\x1c\x0b\x0c",
        "0123456789٣४൧²½Ⅷ,. ",
        "🙂👩‍👩‍👧é́ñ한글数字ไทยעבר",
    ]
    for _ in range(3000):
        yield "".join(draw.choice(draw.choice(kinds)) for _ in range(draw.randint(0, 30)))
    for source in Path(__file__).parent.glob("*.py"):
        yield from (source.read_text(), *source.read_text().splitlines(keepends=True))


def test_the_tokenizer_needs_no_code_and_gives_the_same_ids_for_any_text() -> None:
    """Two engines of regular expressions split the text, and two libraries merge: where might they differ?"""
    tokenizers = pytest.importorskip("tokenizers")
    texts = list(wide_texts())
    assert len(texts) > 15_000
    # learned from these very texts: merges of digits, blanks and marks too
    ours = Tokenizer.train(texts, 3000)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(fast_tokenizer(ours)))
    theirs.encode_special_tokens = True  # as ours: text never becomes special tokens
    encodings = theirs.encode_batch(texts, add_special_tokens=False)
    assert [text for text, e in zip(texts, encodings, strict=True) if e.ids != ours.encode(text)] == []


@pytest.fixture
def transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Without a network; it copies the code of a folder into its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return cast("ModuleType", pytest.importorskip("transformers"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["stored", "classic", "moe"])
def test_transformers_loads_the_folder_and_computes_the_same(
    family: str, request: pytest.FixtureRequest, tmp_path: Path, transformers: ModuleType
) -> None:
    stored: StoredModel = request.getfixturevalue(family)
    folder = str(tmp_path / "out")
    export(stored, tmp_path / "out", "hf", torch.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert tokenizer.chat_template is None, "a base model answers nothing"
    for text in TEXTS:
        ids = tokenizer(text, split_special_tokens=True)["input_ids"]
        assert ids == [stored.tokenizer.bos_id, *stored.tokenizer.encode(text)]
        assert tokenizer.decode(ids[1:]) == text
    ours = new_model(stored.shape)
    ours.load_state_dict(stored.tensors)
    ids = torch.randint(0, stored.shape.vocab_size, (2, 180), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, theirs = ours.eval()(ids), model(ids).logits
    assert (expected - theirs).abs().max() < 1e-3
    assert expected.std() > 0.1
    written = model.generate(ids[:1, :5], max_new_tokens=8, do_sample=False, eos_token_id=-1)
    with torch.no_grad():
        assert all(int(ours(written[:, :n])[0, -1].argmax()) == written[0, n] for n in range(5, 13))


@pytest.mark.slow
def test_a_conversation_is_to_transformers_what_it_is_to_us(
    stored: StoredModel, tmp_path: Path, transformers: ModuleType
) -> None:
    export(replace(stored, is_chat=True), tmp_path / "out", "hf", torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    first = [Message("system", "Be kind."), Message("user", "Who is it?\n")]
    for talk in (first, first[1:], [*first, Message("assistant", " Tom."), Message("user", "naïve 🙂")]):
        told = [{"role": message.role, "content": message.text} for message in talk]
        theirs = tokenizer.apply_chat_template(told, add_generation_prompt=True)["input_ids"]
        assert theirs == conversation_ids(talk, stored.tokenizer)
    with pytest.raises(TemplateError, match="in turns"):
        tokenizer.apply_chat_template([{"role": "assistant", "content": "a"}])
    ends = transformers.GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    assert set(ends) == ends_of_answer(stored.tokenizer)
    assert tokenizer.eos_token == "<|assistant_end|>"
