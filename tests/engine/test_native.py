"""Compiled sources of ours: made once, whole for everybody who asks at the same time, and done without where they cannot be."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer_daemon.engine.native import NativeError, find_compiler, load_library

needs_a_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")
TWICE = 'extern "C" int twice(int x) { return 2 * x; }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "twice.cpp"
    file.write_text(TWICE)
    return file


def libraries(folder: Path) -> list[Path]:
    assert [p for p in folder.iterdir() if p.suffix != ".so"] == []  # no scratch is left
    return sorted(folder.iterdir())


@needs_a_compiler
def test_many_who_ask_at_once_all_get_the_one_library(source: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load_library(source, tmp_path / "kernels"), range(4)))
    assert [library.twice(ctypes.c_int(21)) for library in loaded] == [42] * 4
    assert len(libraries(tmp_path / "kernels")) == 1


@needs_a_compiler
def test_a_library_is_compiled_once_and_again_when_its_source_changes(source: Path, tmp_path: Path) -> None:
    load_library(source, tmp_path / "kernels")
    (first,) = libraries(tmp_path / "kernels")
    made = first.stat().st_mtime_ns
    load_library(source, tmp_path / "kernels")
    assert first.stat().st_mtime_ns == made
    source.write_text(TWICE.replace("2 * x", "x + x + 1"))
    assert load_library(source, tmp_path / "kernels").twice(1) == 3
    assert len(libraries(tmp_path / "kernels")) == 2


@needs_a_compiler
def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    source.write_text("this is not C++;")
    with pytest.raises(NativeError, match=r"twice\.cpp:1:.*error: "):
        load_library(source, tmp_path / "kernels")
    assert libraries(tmp_path / "kernels") == []


def test_a_machine_without_a_compiler_says_so(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(NativeError, match=r"no C\+\+ compiler"):
        load_library(source, tmp_path / "kernels")
