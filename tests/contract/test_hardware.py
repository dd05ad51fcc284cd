"""Peaks of devices, by the names that drivers give."""

import pytest

from trainer_daemon.contract.hardware import DEVICE_PEAKS, bf16_peak_flops, find_peak


@pytest.mark.parametrize(
    ("driver_name", "bf16"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 3090", 71e12),
        ("NVIDIA GeForce RTX 3090 Ti", 80e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 5090", 209.5e12),
        ("NVIDIA RTX 6000 Ada Generation", 364.2e12),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8e12),
        ("AMD Instinct MI300X", 1307.4e12),
    ],
)
def test_a_driver_s_name_finds_its_peak(driver_name: str, bf16: float) -> None:
    assert bf16_peak_flops(driver_name) == bf16


@pytest.mark.parametrize(
    "driver_name",
    [
        "NVIDIA RTX A4000",  # holds the letters of A40
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "Tesla T4",
        "Tesla V100-SXM2-16GB",
        "cpu",
        "",
    ],
)
def test_a_device_that_only_resembles_one_of_the_table_is_unknown(driver_name: str) -> None:
    assert find_peak(driver_name) is None


def test_no_line_of_the_table_hides_a_later_one_and_each_names_its_source() -> None:
    for peak in DEVICE_PEAKS:
        assert find_peak(f"NVIDIA {peak.name}") is peak
        assert peak.source
        # fp8 is twice bf16 wherever there is any; the figures are rounded by their makers
        assert peak.fp8 is None or peak.fp8 == pytest.approx(2 * peak.bf16, rel=0.03)
