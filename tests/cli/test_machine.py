"""What CUDA_VISIBLE_DEVICES and /proc/cpuinfo say, read as CUDA and torch read them."""

from pathlib import Path

import pytest

from cli.machine import (
    check_device,
    cpu_multiplies_in_bf16,
    hardware_here,
    nearest_existing,
    nvidia_gpus,
    torch_has_gpus,
    visible_count,
    world_size,
)
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.estimate import Hardware
from trainer_daemon.contract.hardware import (
    DEVICE_GIB,
    DEVICE_PEAKS,
    computer_memory_bytes,
    device_memory_bytes,
)
from trainer_daemon.contract.spec import RuntimeSpec


@pytest.mark.parametrize(
    ("setting", "visible"),
    [
        (None, 4),
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("0,1", 2),
        ("3, 1", 2),
        ("0,9,1", 1),
        ("GPU-8f,GPU-91", 2),
        ("x", 0),
    ],
)
def test_visible_devices_end_at_the_first_that_is_none(setting: str | None, visible: int) -> None:
    assert visible_count(setting, 4) == visible


@pytest.mark.parametrize(
    ("flags", "able"), [("fpu avx512_bf16", True), ("amx_bf16 x", True), ("avx512f", False)]
)
def test_bf16_on_a_cpu_is_read_from_its_flags(tmp_path: Path, flags: str, able: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    assert cpu_multiplies_in_bf16(tmp_path / "cpuinfo") is able
    assert not cpu_multiplies_in_bf16(tmp_path / "nothing")


def test_a_run_on_the_cpu_is_one_rank_unless_more_are_asked_for() -> None:
    here = hardware_here(RuntimeSpec(device="cpu"))
    assert (here.name, world_size(RuntimeSpec(), here)) == ("cpu", 1)
    assert world_size(RuntimeSpec(nproc=2), here) == 2
    assert world_size(RuntimeSpec(), Hardware("H100", 8, None)) == 8


def test_a_folder_that_is_not_there_yet_is_on_its_parents_disk(tmp_path: Path) -> None:
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path


def test_cuda_is_refused_by_name_where_torch_or_the_driver_has_none() -> None:
    if torch_has_gpus() and nvidia_gpus():
        pytest.skip("this machine has CUDA")
    check_device(RuntimeSpec(device="auto"))
    with pytest.raises(SpecError, match=r"runtime.device: .* --set runtime.device=cpu"):
        check_device(RuntimeSpec(device="cuda"))
    with pytest.raises(SpecError, match=r"runtime.precision: fp8 needs an NVIDIA GPU .*precision=auto"):
        check_device(RuntimeSpec(precision="fp8"))
    with pytest.raises(SpecError, match=r"runtime.attention: fa3 needs an NVIDIA GPU, and .*; use auto"):
        check_device(RuntimeSpec(attention="fa3"))


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA H100 80GB HBM3", 80),
        ("H200", 141),
        ("A100-SXM4-40GB", 40),
        ("A100 80 GiB", 80),
        ("A100", None),
        ("RTX 4090", 24),
        ("UnheardOf", None),
    ],
)
def test_a_devices_memory_is_what_its_name_or_the_table_says(name: str, gib: int | None) -> None:
    assert device_memory_bytes(name) == (gib << 30 if gib else None)


def test_a_containers_limit_counts_where_it_is_less_than_the_memory(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemFree: 10 kB\nMemTotal:       2048 kB\n")
    assert computer_memory_bytes(meminfo, limit) == 2 << 20
    for said, expected in (("max\n", 2 << 20), (f"{1 << 20}\n", 1 << 20), (f"{1 << 40}\n", 2 << 20)):
        limit.write_text(said)
        assert computer_memory_bytes(meminfo, limit) == expected


def test_every_device_with_a_memory_is_in_the_table_of_peaks() -> None:
    assert set(DEVICE_GIB) <= {peak.name for peak in DEVICE_PEAKS}
