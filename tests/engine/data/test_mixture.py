"""Several corpora as one: shares that hold everywhere, nothing repeated, everybody's own validation."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer_daemon.contract.errors import RefusedError, SpecError
from trainer_daemon.contract.spec import DataSpec, RunSpec, TokenizerSpec
from trainer_daemon.engine.data.prepare import prepare, with_absolute_paths
from trainer_daemon.engine.data.sources import check_source, open_corpus
from trainer_daemon.engine.data.sources.documents import Document
from trainer_daemon.engine.data.sources.hub import parse_address

SMALL = TokenizerSpec(vocab_size=300)


def write(folder: Path, name: str, texts: list[str]) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def documents(folder: Path, source: dict[str, float], **rules: Any) -> list[Document]:
    return list(open_corpus(DataSpec(source=source, **rules), SMALL, folder).documents())


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Nine hundred texts of 30 bytes, three hundred of 300."""
    web = write(tmp_path, "web.jsonl", [f"w{i:04d}".ljust(30, ".") for i in range(900)])
    code = write(tmp_path, "code.jsonl", [f"c{i:04d}".ljust(300, ".") for i in range(300)])
    return web, code


def test_every_part_of_a_mixture_has_the_shares_that_were_asked_for(
    tmp_path: Path, two: tuple[str, str]
) -> None:
    web, code = two
    mixed = [d for d in documents(tmp_path, {web: 3, code: 1}) if not d.is_held_out]
    for part in mixed[:200], mixed[200:400], mixed[400:600]:
        share = {kind: sum(len(str(d.content)) for d in part if str(d.content)[0] == kind) for kind in "wc"}
        assert share["w"] / (share["w"] + share["c"]) == pytest.approx(0.75, abs=0.06)
    order = [str(d.content)[:5] for d in mixed]
    assert [x for x in order if x[0] == "w"] == sorted(x for x in order if x[0] == "w")
    assert len(set(order)) == len(order)
    assert (
        sum(x[0] == "w" for x in order) == 891
    )  # the first that has no more ends it, its hundredths held out


def test_each_corpus_of_a_mixture_holds_out_its_own(tmp_path: Path, two: tuple[str, str]) -> None:
    web, _ = two
    write(tmp_path, "more/train.jsonl", ["m" * 30] * 2000)
    write(tmp_path, "more/val.jsonl", ["v1", "v2"])
    held_out = [
        str(d.content) for d in documents(tmp_path, {web: 1, str(tmp_path / "more"): 1}) if d.is_held_out
    ]
    assert held_out[:2] == ["v1", "v2"]
    assert [text[:5] for text in held_out[2:]] == [f"w{i:04d}" for i in range(0, 900, 100)]


def test_a_prepared_set_is_mixed_as_the_text_that_it_was_made_of(
    tmp_path: Path, two: tuple[str, str]
) -> None:
    web, code = two
    write(
        tmp_path, "odd/train.jsonl", [f"o{i} naïve 中文 👩‍👧 <|bos|> \0" * (i % 7) + "." for i in range(400)]
    )
    odd = write(tmp_path, "odd/val.jsonl", ["v1", "v2"])
    folder = str(Path(odd).parent)
    prepare(DataSpec(source=folder), TokenizerSpec(vocab_size=270), tmp_path, lambda *_: None, name="ready")
    for rules in {}, {"held_out": "hundredth"}:
        from_text = documents(tmp_path, {web: 2, folder: 1, code: 1}, held_out="auto")
        from_set = documents(tmp_path, {web: 2, "ready": 1, code: 1}, **rules)
        assert [d[:2] for d in from_set] == [d[:2] for d in from_text]
    mixed = DataSpec(source={web: 2, "ready": 1, "stories": 1}, stories=200)
    prepared = prepare(mixed, SMALL, tmp_path, lambda *_: None)
    texts = prepared.tokenizer.decode(prepared.held_out.read(0, 40).tolist())
    assert texts.startswith("v1v2w0000")


def test_a_set_that_is_not_text_or_not_whole_is_refused_in_a_mixture(
    tmp_path: Path, two: tuple[str, str]
) -> None:
    web, code = two
    made = prepare(DataSpec(source=web), SMALL, tmp_path, lambda *_: None, name="ready")

    def refusal() -> str:
        with pytest.raises(SpecError) as e:
            documents(tmp_path, {"ready": 1, code: 1})
        return str(e.value)

    def with_ids(ids: list[int]) -> None:
        np.array([made.tokenizer.bos_id, *ids] * 200, "<u2").tofile(tmp_path / "ids.bin")
        source = DataSpec(source=str(tmp_path / "ids.bin"), separator="before")
        tokenizer = TokenizerSpec(name=str(made.folder / "tokenizer.json"))
        prepare(source, tokenizer, tmp_path, lambda *_: None, name="ready")

    shard = made.folder / "train" / "000000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert f"{shard} is damaged" in refusal()
    shutil.move(made.folder, tmp_path / "before")
    made = dataclasses.replace(made, folder=tmp_path / "before")
    with_ids([65, made.tokenizer.special["<|user_start|>"], 66])
    assert "document 0 of " in (said := refusal())
    assert "holds special tokens" in said
    shutil.rmtree(tmp_path / "data" / "ready")
    with_ids([65, made.tokenizer.encode("é")[0]])
    assert "are no UTF-8 (unexpected end of data at byte" in refusal()


def test_a_mixture_is_prepared_again_when_its_weights_change(tmp_path: Path, two: tuple[str, str]) -> None:
    web, code = two
    sets = [
        prepare(
            DataSpec(source={web: weight, code: 1, "stories": 1}, stories=200),
            SMALL,
            tmp_path / "home",
            lambda *_: None,
        )
        for weight in (1, 1, 2)
    ]
    assert sets[0].fingerprint == sets[1].fingerprint != sets[2].fingerprint


def test_paths_of_a_mixture_mean_the_same_from_every_folder(
    tmp_path: Path, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = RunSpec(data=DataSpec(source={"web.jsonl": 0.5, "stories": 1, "hf://a/b": 2}))
    absolute = with_absolute_paths(spec, tmp_path / "home").data.source
    assert absolute == {two[0]: 0.5, "stories": 1, "hf://a/b": 2}


def test_what_cannot_be_mixed_is_refused(tmp_path: Path, two: tuple[str, str]) -> None:
    web, _ = two
    (tmp_path / "ids.bin").write_bytes(bytes(100))

    def refusal(source: dict[str, float], **rules: Any) -> str:
        named = TokenizerSpec(name="gpt2")
        with pytest.raises(SpecError) as e:
            check_source(DataSpec(source=source, **rules), named, tmp_path)
        return str(e.value)

    assert "some hold ids and others text" in refusal(
        {web: 1, str(tmp_path / "ids.bin"): 1}, separator="after"
    )
    assert "each corpus of a mixture holds out its own" in refusal({web: 1}, held_out=web)
    assert "nothing at" in refusal({web: 1, "none": 1})


def test_a_dataset_of_the_hub_is_read_in_its_order(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    for split, count in ("train", 250), ("validation", 3):
        for shard in range(2):
            texts = [f"{split} {i}" for i in range(shard, count, 2)]
            pq.write_table(pa.table({"text": texts}), tmp_path / f"{split}-0000{shard}-of-00002.parquet")

    def read(held_out: str, *, is_held_out: bool) -> list[str]:
        data = DataSpec(source=f"hf://{tmp_path}", held_out=held_out)
        found = open_corpus(data, SMALL, tmp_path).documents()
        return [str(d.content) for d in found if d.is_held_out == is_held_out]

    assert read("validation", is_held_out=True) == ["validation 0", "validation 2", "validation 1"]
    assert len(read("validation", is_held_out=False)) == 250
    assert read("auto", is_held_out=True) == ["train 0", "train 200", "train 151"]
    with pytest.raises(RefusedError, match="such a dataset, configuration and split"):
        read("nothing", is_held_out=True)
    wrong = DataSpec(source=f"hf://{tmp_path}", text_field="body")
    with pytest.raises(SpecError, match='no field "body"; it has "text"'):
        next(iter(open_corpus(wrong, SMALL, tmp_path).documents()))


def test_an_address_on_the_hub_may_name_a_configuration_and_a_revision() -> None:
    assert parse_address("hf://a/b") == ("a/b", None, None)
    assert parse_address("hf://a/b/c@v1") == ("a/b", "v1", "c")
    with pytest.raises(SpecError, match="write hf://OWNER/NAME"):
        parse_address("hf://a")
