import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.engine.data.tokenizer import LONGEST_BLANK, MIN_VOCAB_SIZE, SPECIAL_TOKENS, Tokenizer

TEXTS = [
    "The cat sat on the mat, and the other cat sat there too. " * 20,
    "In 2024 there were 365 mats.\n\n" * 20,
]

AWKWARD = [
    "",
    "hello",
    "👩‍👩‍👧 naïve 中文 हिन्दी",
    "\x00\x01\x1b[31m\x7f\r\n\t",
    "   leading, trailing   ",
    "<|bos|> and <|user_start|> are text",
    "1234567890",
    "a" * 5000,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


@pytest.mark.parametrize("text", AWKWARD, ids=range(len(AWKWARD)))
def test_decoding_gives_back_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_text_encodes_to_a_special_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("".join(SPECIAL_TOKENS))
    assert not set(ids) & set(tokenizer.special.values())


def test_special_tokens_stand_at_the_end_and_say_nothing(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    assert [tokenizer.special[name] for name in SPECIAL_TOKENS] == list(range(size - 9, size))
    assert tokenizer.bos_id == size - 9
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("hi")]) == "hi"
    assert tokenizer.decode_bytes(tokenizer.bos_id) == b""


def test_numbers_are_split_into_groups_of_two_digits_at_most() -> None:
    tokenizer = Tokenizer.train(["12345 " * 500], 300)
    assert max(len(tokenizer.decode_bytes(i).strip()) for i in range(tokenizer.vocab_size)) == 2


def test_byte_lengths_are_those_of_the_raw_bytes_even_of_half_a_letter(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.token_byte_lengths()
    assert lengths.shape == (tokenizer.vocab_size,)
    assert lengths[-9:].tolist() == [0] * 9
    for text in AWKWARD:
        assert lengths[tokenizer.encode(text)].sum() == len(text.encode())


def test_a_stored_tokenizer_comes_back_the_same_and_its_file_has_its_hash(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "t.json")
    back = Tokenizer.load(tmp_path / "t.json")
    assert (
        back.content_hash == tokenizer.content_hash == sha256((tmp_path / "t.json").read_bytes()).hexdigest()
    )
    assert back.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    np.testing.assert_array_equal(back.token_byte_lengths(), tokenizer.token_byte_lengths())


def test_training_twice_gives_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    assert Tokenizer.train(iter(TEXTS), 400).content_hash == tokenizer.content_hash


def test_a_small_corpus_runs_out_of_merges_and_says_so_by_its_vocab_size() -> None:
    assert MIN_VOCAB_SIZE < Tokenizer.train(["abab"], 10_000).vocab_size < 300


def test_a_vocabulary_that_cannot_hold_the_bytes_is_refused() -> None:
    with pytest.raises(SpecError, match="at least 265"):
        Tokenizer.train(TEXTS, MIN_VOCAB_SIZE - 1)
    assert Tokenizer.train(TEXTS, MIN_VOCAB_SIZE).vocab_size == MIN_VOCAB_SIZE


def test_a_million_spaces_do_not_crash_the_engines() -> None:
    # fancy-regex gives up at a million steps back, and rustbpe and tiktoken turn that into a panic
    text = "a" + " " * 1_000_000 + "\u3000" * (LONGEST_BLANK + 1) + "b"
    tokenizer = Tokenizer.train([text], 270)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_half_a_surrogate_pair_becomes_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert Tokenizer.train(["a\ud83db"], 265).vocab_size == 265


def test_an_id_outside_the_vocabulary_is_an_index_error(tokenizer: Tokenizer) -> None:
    for token_id in (-1, tokenizer.vocab_size):
        with pytest.raises(IndexError, match="outside the vocabulary"):
            tokenizer.decode([token_id])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "version 2"),
        ({"tokens": ["!"]}, "not a tokenizer"),
        ({"tokens": []}, "all 256 bytes"),
        ({"special": {}}, "lack"),
        ({"special": {"<|bos|>": 3}}, "ids of others"),
        ({"special": None}, "not a tokenizer"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(
    tokenizer: Tokenizer, tmp_path: Path, change: dict[str, object], why: str
) -> None:
    path = tmp_path / "t.json"
    tokenizer.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SpecError, match=why):
        Tokenizer.load(path)


def test_a_missing_or_torn_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read the tokenizer"):
        Tokenizer.load(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"format": "llm')
    with pytest.raises(SpecError, match="not a tokenizer"):
        Tokenizer.load(tmp_path / "torn.json")
