import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.engine.data.conftest import TEST_DATA, needs_test_data
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.spec import DataSpec, TokenizerSpec
from trainer_daemon.engine.data.sources import check_source, open_corpus, resolve_path
from trainer_daemon.engine.data.sources.text import PIECE_CHARACTERS, SPLIT_ABOVE_BYTES

TRAINED = TokenizerSpec()


def files(path: Path, **fields: Any) -> DataSpec:
    return DataSpec(source=str(path), **fields)


def texts(data: DataSpec, *, held_out: bool | None = None) -> list[str]:
    documents = open_corpus(data, TRAINED, Path("/nowhere")).documents()
    return [str(d.content) for d in documents if held_out in (None, d.is_held_out)]


def jsonl(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def parquet(path: Path, values: list[str | None], column: str = "text") -> Path:
    pq.write_table(pa.table({"id": range(len(values)), column: values}), path, row_group_size=2)
    return path


def test_a_folder_is_read_file_by_file_in_sorted_order_with_all_formats(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("\nfirst line\n\nsecond line\n\n")
    (tmp_path / "sub").mkdir()
    jsonl(tmp_path / "sub" / "c.jsonl", {"text": "one"}, {"text": ""}, {"text": None}, {"text": "two"})
    parquet(tmp_path / "a.parquet", ["row 0", "row 1", None, "row 3", ""])
    (tmp_path / "notes.md").write_text("not read")
    (tmp_path / ".hidden.txt").write_text("not read")
    assert texts(files(tmp_path)) == [
        "row 0",
        "row 1",
        "row 3",
        "first line\n\nsecond line",
        "one",
        "two",
    ]


def test_every_hundredth_document_is_held_out_counted_over_all_files(tmp_path: Path) -> None:
    for name, numbers in ("a", range(150)), ("b", range(150, 250)):
        jsonl(tmp_path / f"{name}.jsonl", *({"text": f"document {i}"} for i in numbers))
    assert texts(files(tmp_path), held_out=True) == ["document 0", "document 100", "document 200"]
    assert len(texts(files(tmp_path), held_out=False)) == 247


def test_the_last_file_can_be_the_held_out_set(tmp_path: Path) -> None:
    for i in range(3):
        parquet(tmp_path / f"shard_{i}.parquet", [f"{i} a", f"{i} b"])
    data = files(tmp_path, held_out="last_file")
    assert texts(data, held_out=True) == ["2 a", "2 b"]
    assert texts(data, held_out=False) == ["0 a", "0 b", "1 a", "1 b"]
    check_source(data, TRAINED, tmp_path)


def test_one_long_text_becomes_documents_that_together_are_the_text(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}: " + "word " * (i % 90) for i in range(400)]
    whole = "\n\n".join(paragraphs)
    (tmp_path / "book.txt").write_text(whole)
    pieces = texts(files(tmp_path / "book.txt"))
    assert "".join(pieces).replace("\n", "") == whole.replace("\n", "")
    assert len(pieces) > 10
    assert all(PIECE_CHARACTERS <= len(piece) < 2 * PIECE_CHARACTERS for piece in pieces[:-1])
    assert all(piece.startswith("Paragraph") for piece in pieces)


@pytest.mark.parametrize("separator", ["\n", ""])
def test_a_long_text_without_blank_lines_is_cut_too_and_loses_nothing(tmp_path: Path, separator: str) -> None:
    whole = separator.join(["x" * 99] * 3000)
    (tmp_path / "log.txt").write_text(whole)
    pieces = texts(files(tmp_path))
    assert "".join(pieces).replace("\n", "") == whole.replace("\n", "")
    assert max(map(len, pieces)) <= 2 * SPLIT_ABOVE_BYTES


def test_a_text_that_marks_its_documents_is_divided_there_and_nowhere_else(tmp_path: Path) -> None:
    stories = ["Once.\n\n" + "And then. " * 900, "Twice.", "Thrice."]
    (tmp_path / "stories.txt").write_text("\n<|endoftext|>\n".join(stories))
    assert texts(files(tmp_path)) == stories


def test_a_byte_order_mark_and_other_line_ends_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert texts(files(tmp_path)) == ["one\ntwo"]


def test_half_a_surrogate_pair_in_json_becomes_the_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud83db"}\n')
    assert texts(files(tmp_path)) == ["a\ufffdb"]


def test_progress_runs_up_to_the_total(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", *({"text": "hello"} for _ in range(9)))
    parquet(tmp_path / "b.parquet", ["x", "y", "z"])
    corpus = open_corpus(files(tmp_path), TRAINED, tmp_path)
    done = [document.done for document in corpus.documents()]
    assert done == sorted(done)
    assert done[-1] == corpus.total


def test_the_identity_changes_with_the_files(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"})
    before = open_corpus(files(tmp_path), TRAINED, tmp_path).identity()
    assert open_corpus(files(tmp_path), TRAINED, tmp_path).identity() == before
    os.utime(path, ns=(1, 1))
    assert open_corpus(files(tmp_path), TRAINED, tmp_path).identity() != before


def test_a_relative_path_is_looked_up_here_and_then_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    (here / "mine").mkdir(parents=True)
    (home / "data" / "mine").mkdir(parents=True)
    (home / "data" / "shared").mkdir()
    (home / "data" / "shared" / "a.txt").write_text("a")
    monkeypatch.chdir(here)
    assert resolve_path("mine", home) == str(here / "mine")
    assert resolve_path("shared", home) == str(home / "data" / "shared")
    assert resolve_path("shared/*.txt", home) == str(home / "data" / "shared" / "*.txt")
    with pytest.raises(SpecError, match=f"nothing at {here}/none nor at {home}/data/none"):
        resolve_path("none", home)


def test_a_glob_may_cross_folders(tmp_path: Path) -> None:
    for name in ("x/a.txt", "x/y/b.txt", "c.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(files(tmp_path / "**" / "*.txt")) == ["x/a.txt", "x/y/b.txt"]


def test_what_cannot_be_read_is_refused_by_name_before_anything_starts(tmp_path: Path) -> None:
    def refusal(data: DataSpec) -> str:
        with pytest.raises(SpecError) as e:
            check_source(data, TRAINED, tmp_path / "home")
        return str(e.value)

    (tmp_path / "empty").mkdir()
    assert "has no file; what is read is .txt, .jsonl, " in refusal(files(tmp_path / "empty"))
    (tmp_path / "empty" / "a.md").write_text("x")
    assert "has only .md; what is read is .txt" in refusal(files(tmp_path / "empty"))
    assert "nothing at" in refusal(files(tmp_path / "*.txt"))

    path = jsonl(tmp_path / "a.jsonl", {"content": "x", "id": 3}, {"content": "y", "id": 4})
    message = refusal(files(path, text_field="contents"))
    assert f'{path}:1 has no field "contents"; did you mean "content"?; it has "content", "id"' in message
    assert f'"id" of {path}:1 is a int, not text' in refusal(files(path, text_field="id"))
    path.write_text('{"text": "x"}\n\n{"text": \n')
    assert f"{path}:3 is not JSON" in refusal(files(path))
    path.write_text('["x"]\n')
    assert f"{path}:1 is not a JSON object" in refusal(files(path))

    table = parquet(tmp_path / "a.parquet", ["x", "y"], column="body")
    assert 'has no column "text"; it has "id", "body"' in refusal(files(table))
    assert 'column "id"' in refusal(files(table, text_field="id"))
    table.write_bytes(b"not parquet")
    assert "not a readable .parquet" in refusal(files(table))

    text = tmp_path / "a.txt"
    text.write_bytes("caf\xe9".encode("latin1"))
    assert "not UTF-8 text" in refusal(files(text))
    text.write_text("\n\n")
    assert "holds no text" in refusal(files(text))
    text.write_text("one document")
    assert "is one document" in refusal(files(text))
    assert "needs two files" in refusal(files(text, held_out="last_file"))
    assert "stories have no files" in refusal(DataSpec(held_out="last_file"))

    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "a.txt").write_text("")
    (folder / "b.txt").write_text("text")
    assert "but the held-out one is empty" in refusal(files(folder, held_out="last_file"))
    (folder / "c.txt").write_text("")
    assert f"the held-out file {folder}/c.txt is empty" in refusal(files(folder, held_out="last_file"))


def test_checking_a_source_imports_neither_torch_nor_a_tokenizer(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"})
    code = (
        "import sys; from pathlib import Path\n"
        "from trainer_daemon.contract.spec import DataSpec, TokenizerSpec\n"
        "from trainer_daemon.engine.data.sources import check_source\n"
        f"check_source(DataSpec(source={str(tmp_path / 'a.jsonl')!r}), TokenizerSpec(), Path('/nowhere'))\n"
        "check_source(DataSpec(), TokenizerSpec(), Path('/nowhere'))\n"
        "print(*sorted({'torch', 'tiktoken', 'rustbpe', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


@needs_test_data
def test_parquet_written_by_others_reads_as_the_jsonl_of_the_same_texts() -> None:
    # the parquet shards hold whole row groups only, so fewer documents
    shards = files(TEST_DATA / "fixtures" / "parquet", held_out="last_file")
    for name, is_held_out, count in ("docs.jsonl", False, 1792), ("docs_val.jsonl", True, 512):
        from_parquet = texts(shards, held_out=is_held_out)
        assert len(from_parquet) == count
        assert set(from_parquet) <= set(texts(files(TEST_DATA / "fixtures" / name)))


@needs_test_data
def test_a_real_input_txt_becomes_hundreds_of_documents() -> None:
    path = TEST_DATA / "raw" / "tinyshakespeare" / "input.txt"
    pieces = texts(files(path))
    assert len(pieces) == pytest.approx(1_115_394 / PIECE_CHARACTERS, rel=0.1)
    assert "".join(pieces).replace("\n", "") == path.read_text().replace("\n", "")
