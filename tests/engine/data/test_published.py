"""Published vocabularies give tiktoken's own ids, and no missing file makes a run hang."""

import os
import shutil
from hashlib import sha256
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.engine.data.conftest import TEST_DATA, needs_tables
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.spec import TokenizerSpec
from trainer_daemon.contract.vocabulary import PUBLISHED, named_vocabulary
from trainer_daemon.engine.data import published
from trainer_daemon.engine.data.published import load_published, open_tokenizer
from trainer_daemon.engine.data.tokenizer import Tokenizer

CACHE = TEST_DATA / "tiktoken_cache"


def no_network(url: str) -> bytes:
    raise URLError("no network here")


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which tiktoken never loaded anything."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def odd_text() -> str:
    """A megabyte of what texts are seldom made of."""
    emoji = "".join(chr(i) for i in range(0x1F300, 0x1F700)) + "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿"
    control = "".join(map(chr, range(0x20))) + "\x7f\u2028\u200b\ufeff"
    special = "<|endoftext|><|fim_prefix|> <|bos|>"
    scripts = "naïve Straße 中文 हिन्दी עברית ไทย ﬁ Ａ １２３４５ ½ ٣٤٥"
    spaces = "a   b\t\tc \n\n\n  d\r\n    e'll DON'T I'VE 1234567890 x=1;;;===>>> "
    piece = emoji + control + special + scripts + spaces
    return piece * (1_000_000 // len(piece.encode()) + 1)


@needs_tables
@pytest.mark.parametrize("name", ["gpt2", "r50k_base", "cl100k_base"])
def test_ids_are_tiktokens_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(CACHE))
    theirs = tiktoken.get_encoding(name)
    ours = load_published(name, tmp_path, no_network)
    text = odd_text()
    assert len(text.encode()) > 1_000_000
    ids = ours.encode(text)
    assert ids == theirs.encode_ordinary(text)
    assert ours.decode(ids) == text
    assert (ours.vocab_size, ours.bos_id) == (theirs.n_vocab, theirs.eot_token) == PUBLISHED[name]
    unused = [i for i in range(ours.vocab_size) if not ours.decode_bytes(i)]
    assert ours.token_byte_lengths()[unused].sum() == 0


@needs_tables
def test_a_vocabulary_is_kept_after_its_first_use(tmp_path: Path, empty_caches: Path) -> None:
    shutil.copytree(CACHE, empty_caches, dirs_exist_ok=True)
    first = load_published("gpt2", tmp_path, no_network)
    shutil.rmtree(empty_caches)
    assert load_published("gpt2", tmp_path, no_network).content_hash == first.content_hash
    assert sha256((tmp_path / "tokenizers" / "gpt2.json").read_bytes()).hexdigest() == first.content_hash


@needs_tables
@pytest.mark.parametrize("there", ["r50k_base", "gpt2"])
def test_gpt2_loads_from_whichever_of_its_two_publications_is_at_hand(
    there: str, tmp_path: Path, empty_caches: Path
) -> None:
    tables = dict(published.TABLES["gpt2"])[there]
    for url in tables:
        name = published._cache_name(url)
        shutil.copy(CACHE / name, empty_caches / name)
    assert load_published("gpt2", tmp_path, no_network).encode("hello world") == [31373, 995]


@needs_tables
def test_a_damaged_table_is_passed_over_and_left_where_it_is(tmp_path: Path, empty_caches: Path) -> None:
    (url,) = published.TABLES["cl100k_base"][0][1]
    damaged = empty_caches / published._cache_name(url)
    damaged.write_bytes(b"half a table")
    fetched: list[str] = []

    def fetch(asked: str) -> bytes:
        fetched.append(asked)
        return (CACHE / published._cache_name(asked)).read_bytes()

    assert load_published("cl100k_base", tmp_path, fetch).vocab_size == 100_277
    assert fetched == [url]
    assert damaged.read_bytes() == b"half a table"


def test_without_table_and_network_the_refusal_says_where_to_put_it(
    tmp_path: Path, empty_caches: Path
) -> None:
    with pytest.raises(SpecError) as e:
        load_published("gpt2", tmp_path, no_network)
    assert "no network here" in str(e.value)
    assert f"{tmp_path}/tokenizers/gpt2.json" in str(e.value)
    assert str(empty_caches) in str(e.value)
    assert not (tmp_path / "tokenizers").exists()


def test_a_download_that_is_something_else_is_refused(tmp_path: Path, empty_caches: Path) -> None:
    with pytest.raises(SpecError, match="its hash is another"):
        load_published("o200k_base", tmp_path, lambda _: b"<html>log in to this wifi</html>")
    assert not list(tmp_path.glob("tokenizers/**/*"))


def test_the_settings_of_the_process_are_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for before in ("/somewhere", None):
        if before:
            monkeypatch.setenv("TIKTOKEN_CACHE_DIR", before)
        else:
            monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
        with published._cache_at(tmp_path):
            assert os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path)
        assert os.environ.get("TIKTOKEN_CACHE_DIR") == before


def test_a_stored_tokenizer_is_found_by_name_and_bound_by_its_hash(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["some words"], 270)
    (tmp_path / "tokenizers").mkdir()
    tokenizer.save(tmp_path / "tokenizers" / "mine.json")
    bound = TokenizerSpec(name="mine", sha256=tokenizer.content_hash)
    opened = open_tokenizer(bound, tmp_path)
    assert opened is not None
    assert opened.content_hash == tokenizer.content_hash
    assert named_vocabulary(bound, tmp_path) == (tokenizer.vocab_size, tokenizer.bos_id)
    with pytest.raises(SpecError, match="the same text would get other ids"):
        open_tokenizer(TokenizerSpec(name="mine", sha256="0" * 64), tmp_path)
    with pytest.raises(SpecError, match='"minne" is no published tokenizer'):
        open_tokenizer(TokenizerSpec(name="minne"), tmp_path)
