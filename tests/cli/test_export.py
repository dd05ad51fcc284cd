"""`llmctl export`: what is refused; what is written is tested where it is made."""

from pathlib import Path

import pytest

from tests.cli.conftest import Llmctl, add_checkpoint, completed_run


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("done", "out", "--to", "gguf"), 2, "--to is hf or safetensors"),
        (("done", "out", "--dtype", "int4"), 2, "--dtype fp32 or bf16"),
        (("nobody", "out"), 3, "names no run"),
        (("done@11", "out"), 3, "the nearest is done@10"),
        (("done", "out"), 4, "was written by another version"),  # it holds no model
    ],
)
def test_what_cannot_be_exported_is_said(
    llmctl: Llmctl,
    home: Path,
    arguments: tuple[str, ...],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(home.parent)
    checkpoint = add_checkpoint(completed_run(), 10)
    assert checkpoint.is_dir()
    refused = llmctl("export", *arguments)
    assert (refused.code, refused.out) == (code, "")
    assert words in refused.err
    assert not Path("out").exists()
