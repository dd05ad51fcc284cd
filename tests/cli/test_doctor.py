"""`doctor` finds on this machine what can be found on any, and says what to do about the rest."""

import socket
import sys
from pathlib import Path

import pytest

from cli import doctor
from tests.cli.conftest import Llmctl


def test_this_machine_can_train_since_these_tests_do(llmctl: Llmctl) -> None:
    report = llmctl("doctor", "--json")
    assert report.code == 0, report
    told = report.json()
    assert told["ok"] is True
    found = {f["name"]: f for f in told["findings"]}
    assert {
        "python",
        "torch",
        "attention",
        "compiler",
        "home",
        "disk",
        "sockets",
        "logout",
        "terminal",
    } <= set(found)
    assert set(found["torch"]) == {"name", "status", "found", "advice"}
    assert found["torch"]["found"].startswith(told["torch"]["version"])
    assert all(f["advice"] for f in told["findings"] if f["status"] != "ok")


def test_a_home_that_cannot_be_written_keeps_runs_from_starting(
    llmctl: Llmctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "file" / "home"))
    (finding,) = doctor.check_home()
    assert (finding.status, finding.advice) == ("fail", "set LLMCTL_HOME to a folder that you may write to")


def test_a_runtime_folder_too_long_for_a_socket_is_found(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    (finding,) = doctor.check_sockets()
    assert finding.status == "fail"
    assert "XDG_RUNTIME_DIR" in finding.advice
    assert [p for p in long.rglob("*") if p.is_socket()] == []


def test_the_socket_probe_leaves_nothing_behind(home: Path, tmp_path: Path) -> None:
    (finding,) = doctor.check_sockets()
    assert finding.status == "ok"
    assert list((tmp_path / "runtime" / "llmctl").iterdir()) == []
    assert socket.AF_UNIX


def test_a_torch_that_does_not_import_is_told_by_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TORCH_REPORT", "raise ImportError('libcudart.so.13: cannot open')")
    report = doctor.read_torch()
    assert report == {"error": "ImportError: libcudart.so.13: cannot open"}
    (finding,) = doctor.check_torch(report)
    assert finding.status == "fail"


@pytest.mark.parametrize(
    ("name", "capability", "status", "says"),
    [
        ("NVIDIA H100 80GB HBM3", [9, 0], "ok", "989 TFLOP/s"),
        ("Tesla V100", [7, 0], "warn", "fp32"),
        ("NVIDIA Unheard", [9, 0], "warn", "MFU stays unknown"),
    ],
)
def test_a_gpu_is_told_with_its_peak_or_why_there_is_none(
    name: str, capability: list[int], status: str, says: str
) -> None:
    torch = {"gpus": [{"name": name, "memory_bytes": 80e9, "capability": capability}]}
    first, *_ = doctor.check_devices(torch)
    assert first.status == status
    assert says in first.found + first.advice


def test_python_is_the_one_that_runs() -> None:
    (finding,) = doctor.check_python()
    assert sys.executable in finding.found


def test_a_small_program_that_is_not_there_answers_nothing() -> None:
    assert doctor._ask("no-such-program-here --at-all") is None
    assert doctor._ask("false") is None


def test_a_long_finding_goes_on_below_its_first_word() -> None:
    finding = doctor.Finding(
        "disk", "warn", "little of it is left", "free some, or set LLMCTL_HOME to another disk"
    )
    assert doctor.finding_lines(finding, width=45).splitlines() == [
        "warn  disk           little of it is left",
        "                     free some, or set",
        "                     LLMCTL_HOME to another",
        "                     disk",
    ]
    assert len(doctor.finding_lines(finding, width=None).splitlines()) == 2
