"""`data` and `tokenizer`: what is prepared is found again by the run, and shown as it is."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Llmctl, Result
from tests.engine.data.conftest import TEST_DATA, needs_tables
from trainer_daemon.contract.rundir import home as llmctl_home


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """250 documents of 3 to 31 words."""
    path = tmp_path / "corpus.jsonl"
    texts = [f"Document number {i} " + "goes on " * (i % 15) for i in range(250)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def small(corpus: Path) -> tuple[str, ...]:
    return (str(corpus), "--set", "tokenizer.vocab_size=300")


def test_a_prepared_corpus_is_listed_inspected_and_planned_with(
    llmctl: Llmctl, corpus: Path, small: tuple[str, ...]
) -> None:
    assert "nothing is prepared" in llmctl("data", "list").err
    made = llmctl("data", "prepare", *small, "--json").json()
    assert (made["documents"], made["held_out_documents"]) == (247, 3)
    assert [entry["set"] for entry in llmctl("data", "list", "--json").json()] == [made["set"]]
    assert made["set"] in llmctl("data", "list").out

    seen = llmctl("data", "inspect", made["set"][:6], "--sequence-len", "64", "--json").json()
    assert sum(b["documents"] for b in seen["lengths"]) == 247
    (cost,) = seen["packing"]
    assert 0 < cost["bestfit_dropped"] < 0.5
    assert 0 < cost["concat_cut"] < 1
    assert all("<|bos|>" in text for text in seen["samples"])
    assert seen["changed_sources"] == []
    shown = llmctl("data", "inspect", made["set"])
    assert "█" in shown.out
    assert "<|bos|>Document number" in shown.out

    rules = (
        "--set",
        f"data.source={corpus}",
        "--set",
        "tokenizer.vocab_size=300",
        "--set",
        "model.sequence_len=32",
    )
    batch = ("--set", "train.micro_batch_size=2", "--set", "train.global_batch_tokens=64")
    planned = llmctl("plan", *rules, *batch, "--set", "train.num_iterations=1000", "--json").json()
    assert planned["data"]["tokens_available"] == made["tokens"]
    assert planned["data"]["epochs"] == pytest.approx(64_000 / made["tokens"])
    assert any("times over its text" in note for note in planned["notes"])
    assert planned["model"]["vocab_size"] == made["vocab_size"]

    for way_to_say_it in (made["set"][:6], str(corpus), corpus.name):
        assert made["path"] in llmctl("data", "inspect", way_to_say_it).out
    assert f"{made['set']} ({corpus.name})" in llmctl("data", "inspect", "none").err

    corpus.write_text(corpus.read_text() * 2)
    assert f"{corpus} is gone or is not as it was" in llmctl("data", "inspect", made["set"]).err


def test_a_set_with_a_name_of_its_own_goes_where_its_text_is_not(
    llmctl: Llmctl, corpus: Path, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert llmctl("data", "prepare", *small, "--name", "mine").code == 0
    shutil.copytree(llmctl_home() / "data" / "mine", tmp_path / "elsewhere" / "data" / "mine")
    corpus.unlink()
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "elsewhere"))
    planned = llmctl("plan", "--set", "data.source=mine", "--json").json()
    assert planned["data"]["tokens_available"] > 0
    again = llmctl("data", "prepare", "mine", "--json").json()
    assert again["path"] == str(tmp_path / "elsewhere" / "data" / "mine")


def test_a_text_that_changed_since_it_was_prepared_is_told_alone_or_in_a_mixture(
    llmctl: Llmctl, corpus: Path, small: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "mixed.toml").write_text(
        f'[data]\nstories = 200\nsource = {{ "{corpus}" = 1, stories = 1 }}\n[tokenizer]\nvocab_size = 300\n'
    )
    assert llmctl("data", "prepare", *small, "--name", "alone").code == 0
    assert llmctl("data", "prepare", "--spec", str(tmp_path / "mixed.toml"), "--name", "mixed").code == 0
    corpus.write_text(corpus.read_text().replace("Document number 7 ", "Document number 8 "))
    for name in ("alone", "mixed"):
        assert llmctl("data", "inspect", name, "--json").json()["changed_sources"] == [str(corpus)]
        assert f"{corpus} is gone or is not as it was" in llmctl("data", "inspect", name).err


INTERRUPTED = """
import os, signal, sys
from cli.main import main
from trainer_daemon.engine.data import encode, writing
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without
writing.SHARD_TOKENS, writing.PROCESSES_ABOVE_BYTES, encode.BATCH_CHARACTERS = 3000, 0, 2000
save, notes = writing.Note.save, []
def save_and_interrupt(note, file):
    save(note, file)
    notes.append(file)
    if len(notes) == int(sys.argv[1]):
        os.killpg(os.getpgrp(), signal.SIGINT)
writing.Note.save = save_and_interrupt
if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.fault
def test_ctrl_c_while_preparing_ends_all_processes_with_a_word_and_the_next_goes_on(
    llmctl: Llmctl, home: Path, tmp_path: Path
) -> None:
    """A terminal sends it to the whole group: here the program does so itself, when its third shard is whole."""
    (tmp_path / "docs.jsonl").write_text("".join(f'{{"text": "{"word " * 30}{i}"}}\n' for i in range(2000)))
    (tmp_path / "program.py").write_text(INTERRUPTED)

    def prepare(interrupt_at: int) -> Result:
        program = [sys.executable, str(tmp_path / "program.py"), str(interrupt_at)]
        arguments = ["data", "prepare", str(tmp_path / "docs.jsonl"), "--name", "mine", "--workers", "2"]
        done = subprocess.run(
            [*program, *arguments, "--set", "tokenizer.vocab_size=270"],
            capture_output=True,
            text=True,
            timeout=120,
            start_new_session=True,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    stopped = prepare(3)
    assert stopped.code == 130
    assert "the same command goes on behind the last" in stopped.err
    assert "Traceback" not in stopped.err
    assert not (home / "data" / "mine").exists()
    (draft,) = (home / "data").glob(".mine.*partial")
    kept = {p.name: p.stat().st_mtime_ns for p in (draft / "train").glob("*.idx")}
    assert len(kept) == 3
    assert llmctl("data", "inspect", "mine").code == 3

    finished = prepare(0)
    assert finished.code == 0, finished.err
    assert "reading up to where it was interrupted" in finished.err
    train = home / "data" / "mine" / "train"
    assert {name: (train / name).stat().st_mtime_ns for name in kept} == kept
    seen = llmctl("data", "inspect", "mine", "--json").json()
    assert seen["documents"] + seen["held_out_documents"] == 2000
    assert not list(home.rglob("*.partial"))


def test_a_name_that_something_else_has_is_refused(llmctl: Llmctl, small: tuple[str, ...]) -> None:
    (llmctl_home() / "data" / "mine").mkdir(parents=True)
    refused = llmctl("data", "prepare", *small, "--name", "mine")
    assert refused.code == 6
    assert "no prepared set" in refused.err
    assert llmctl("data", "prepare", *small, "--name", "../mine").code == 2


def test_what_is_not_there_is_refused(llmctl: Llmctl, tmp_path: Path) -> None:
    assert llmctl("data", "inspect", "none").code == 3
    assert llmctl("data", "prepare", str(tmp_path / "none")).code == 2
    assert llmctl("tokenizer", "inspect", "none").code == 2


@needs_tables
def test_a_tokenizer_is_trained_kept_and_measured_beside_the_published_ones(
    llmctl: Llmctl, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TEST_DATA / "tiktoken_cache"))
    made = llmctl("tokenizer", "train", str(corpus), "--vocab-size", "300", "--name", "mine", "--json").json()
    assert made["vocab_size"] == 300
    assert (llmctl_home() / "tokenizers" / "mine.json").is_file()
    assert llmctl("tokenizer", "train", str(corpus), "--name", "mine").code == 6
    assert llmctl("tokenizer", "train", str(corpus), "--name", "gpt2").code == 6

    seen = llmctl("tokenizer", "inspect", "mine", str(corpus), "--json").json()
    (measured,) = seen["bytes_per_token"].values()
    assert set(measured) == {"mine", "gpt2", "cl100k_base"}
    assert measured["mine"] < measured["gpt2"] < 8
    assert "cl100k_base" in llmctl("tokenizer", "inspect", "gpt2", str(corpus)).out
    prepared = llmctl("data", "prepare", str(corpus), "--tokenizer", "mine", "--json").json()
    assert prepared["tokenizer_hash"] == made["content_hash"]


def test_ids_are_counted_before_they_are_prepared(llmctl: Llmctl, tmp_path: Path) -> None:
    folder = tmp_path / "ids"
    folder.mkdir()
    for name, count in ("train", 5000), ("val", 500):
        (folder / f"{name}.bin").write_bytes(bytes(2 * count))
    rules = (
        "--set",
        f"data.source={folder}",
        "--set",
        "data.separator=after",
        "--set",
        "tokenizer.name=gpt2",
    )
    planned = llmctl("plan", *rules, "--json").json()
    assert planned["data"]["tokens_available"] == 5000
    assert planned["model"]["vocab_size"] == 50257
