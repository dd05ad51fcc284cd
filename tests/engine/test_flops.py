import json
from pathlib import Path

import pytest
import torch

from trainer_daemon.engine import flops
from trainer_daemon.engine.flops import device_peak

CPU = torch.device("cpu")


def test_a_cpu_is_measured_and_says_how(tmp_path: Path) -> None:
    peak, source = device_peak(CPU, torch.float32, tmp_path / "peaks.json")
    assert peak is not None
    assert 1e8 < peak < 1e15
    assert source == f"measured: 1024³ product, float32, {torch.get_num_threads()} threads"


def test_the_best_measurement_of_a_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts beside other work would otherwise report an MFU above 1."""
    kept = tmp_path / "peaks.json"
    for measured, counts in ((5e11, 5e11), (2e11, 5e11), (9e11, 9e11)):
        monkeypatch.setattr(flops, "measure_product", lambda _, flops=measured: flops)
        assert device_peak(CPU, torch.float32, kept)[0] == counts
    kept.write_text("{")
    assert device_peak(CPU, torch.float32, kept)[0] == 9e11
    assert list(json.loads(kept.read_text()).values()) == [9e11]


def test_fp16_on_a_cpu_has_no_peak_and_costs_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its product of 1024³ took six seconds, twice at every start."""
    monkeypatch.delattr(flops, "measure_product")
    assert device_peak(CPU, torch.float16, tmp_path / "peaks.json")[0] is None


def test_an_unknown_device_has_no_peak(tmp_path: Path) -> None:
    assert device_peak(torch.device("mps"), torch.float32, tmp_path / "peaks.json") == (
        None,
        "no peak is known for mps",
    )
