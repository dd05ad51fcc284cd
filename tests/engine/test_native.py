"""Compiled sources of ours: made once, whole for everybody who asks at the same time, and done without where they cannot be."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.supervisor.conftest import wait_until
from trainer_daemon.engine.native import (
    NativeError,
    find_compiler,
    give_torch_a_compiler_that_publishes,
    load_library,
)

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


SLOW_COMPILER = """\
#!/bin/sh
while [ "$1" != -o ]; do shift; done
printf half > "$2"
while [ -e "$HOLD" ]; do sleep 0.05; done
printf ' and half' >> "$2"
[ ! -e "$BREAK" ] || { echo broken >&2; exit 3; }
"""


class Compiling:
    """A compiler named g++ that writes half of what it makes and waits, as torch is given it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hold, self.broken, self.made = folder / "hold", folder / "broken", folder / "out" / "kernel.so"
        self.made.parent.mkdir()
        compiler = folder / "g++"
        compiler.write_text(SLOW_COMPILER)
        compiler.chmod(0o700)
        for key, value in {"CXX": compiler, "HOLD": self.hold, "BREAK": self.broken}.items():
            monkeypatch.setenv(key, str(value))
        give_torch_a_compiler_that_publishes(folder / "kernels")
        self.command = [os.environ["CXX"], "a source.cpp", "-shared", "-o", str(self.made)]
        self._started: list[subprocess.Popen[str]] = []

    def begin(self) -> "subprocess.Popen[str]":
        """A compilation that has written half."""
        self.hold.touch()
        started = subprocess.Popen(self.command, start_new_session=True, stderr=subprocess.PIPE, text=True)
        self._started.append(started)
        wait_until(lambda: any(p.read_text() for p in self.made.parent.iterdir()), "nothing is written")
        return started

    def end_all(self) -> None:
        self.hold.unlink(missing_ok=True)
        for process in self._started:
            if process.returncode is None:
                process.communicate()


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiling]:
    made = Compiling(tmp_path, monkeypatch)
    yield made
    made.end_all()


def test_what_a_killed_compiler_wrote_is_not_what_torch_looks_for(compiling: Compiling) -> None:
    """Half a library in torch's cache ended every later run of its model: `ImportError: file too short`."""
    killed = compiling.begin()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not compiling.made.exists()
    compiling.hold.unlink()
    subprocess.run(compiling.command, check=True)
    assert compiling.made.read_text() == "half and half"


def test_a_signal_to_all_processes_of_a_job_does_not_end_the_compiler_under_its_rank(
    compiling: Compiling,
) -> None:
    signalled = compiling.begin()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.killpg(signalled.pid, number)
    compiling.hold.unlink()
    assert (signalled.communicate()[1], signalled.returncode) == ("", 0)
    assert [p.read_text() for p in compiling.made.parent.iterdir()] == ["half and half"]


def test_a_compiler_that_fails_fails_under_torch_with_its_words_and_leaves_nothing(
    compiling: Compiling,
) -> None:
    compiling.broken.touch()
    failed = compiling.begin()
    compiling.hold.unlink()
    assert (failed.communicate()[1], failed.returncode) == ("broken\n", 3)
    assert list(compiling.made.parent.iterdir()) == []


def test_what_is_written_nowhere_stays_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-o /dev/null` is how one asks a compiler whether it would; a rename would put a file there."""
    (tmp_path / "g++").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "g++").chmod(0o700)
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    give_torch_a_compiler_that_publishes(tmp_path / "kernels")
    for asked in (["-x", "c++", "-o", "/dev/null"], ["-E", "-o", "-"], ["--version"], ["-DX=a 'b' $c"]):
        said = subprocess.run([os.environ["CXX"], *asked], check=True, capture_output=True, text=True)
        assert said.stdout == " ".join(asked) + "\n"
