"""Several corpora as one: shares that hold everywhere, nothing repeated, everybody's own validation."""

import json
from pathlib import Path
from typing import Any

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
