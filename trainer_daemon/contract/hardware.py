"""What a machine has: cores that we may use, and the peak dense matmul FLOP/s of devices.

Peaks are the makers' figures for dense products that accumulate in fp32, each with its source; data sheets that print
only the figure "with sparsity" were halved. What is not listed is unknown, not a guess: also laptop chips, Max-Q
boards and MIG slices, which carry the name of a faster device, and V100 and T4, which do not multiply in bf16.

MFU divides by the bf16 figure whatever the compute dtype is, so that runs compare; fp8 is there to say how much more
there would be. The list is searched from the top for a name that stands in the device's name as whole words: variants
come before the family they belong to.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MPS_TAKES_ONE_RANK = (
    "runtime.nproc: an Apple GPU (mps) trains with one rank, torch has no exchange between several there; use --set "
    "runtime.nproc=1, or --set runtime.device=cpu for several"
)


@dataclass(frozen=True, slots=True)
class DevicePeak:
    """Dense matmul FLOP/s of one device."""

    name: str
    """Stands as whole words in the name that the driver gives."""
    bf16: float
    fp8: float | None
    """None where the device does not multiply in fp8."""
    source: str


_BLACKWELL = "NVIDIA Blackwell architecture brief and HGX/GB200 data sheets"
_ULTRA = "NVIDIA HGX B300 and GB300 data sheets"
_HOPPER = "NVIDIA H100, H200 and GH200 data sheets"
_AMPERE = "NVIDIA A100, A40, A30 and A10 data sheets"
_ADA = "NVIDIA L40S, L40 and L4 data sheets"
_RTX50 = "NVIDIA RTX Blackwell architecture whitepaper"
_RTX50_PRO = "NVIDIA RTX PRO Blackwell architecture whitepaper"
_RTX40 = "NVIDIA Ada architecture whitepaper"
_RTX30 = "NVIDIA GA102 architecture whitepaper"
_CDNA = "AMD Instinct data sheets"

DEVICE_PEAKS: tuple[DevicePeak, ...] = (
    DevicePeak("GB300", 2.5e15, 5.0e15, _ULTRA),
    DevicePeak("B300", 2.25e15, 4.5e15, _ULTRA),
    DevicePeak("GB200", 2.5e15, 5.0e15, _BLACKWELL),
    DevicePeak("B200", 2.25e15, 4.5e15, _BLACKWELL),
    DevicePeak("B100", 1.8e15, 3.5e15, _BLACKWELL),
    DevicePeak("GH200", 989e12, 1979e12, _HOPPER),
    DevicePeak("H200 NVL", 836e12, 1671e12, _HOPPER),
    DevicePeak("H200", 989e12, 1979e12, _HOPPER),
    DevicePeak("H100 NVL", 835e12, 1671e12, _HOPPER),
    DevicePeak("H100 PCIe", 756e12, 1513e12, _HOPPER),
    DevicePeak("H100", 989e12, 1979e12, _HOPPER),  # SXM: its driver's name says only H100 80GB HBM3
    DevicePeak("H800 PCIe", 756e12, 1513e12, _HOPPER),
    DevicePeak("H800", 989e12, 1979e12, _HOPPER),
    DevicePeak("A100", 312e12, None, _AMPERE),
    DevicePeak("A800", 312e12, None, _AMPERE),
    DevicePeak("A40", 149.7e12, None, _AMPERE),
    DevicePeak("A30", 165e12, None, _AMPERE),
    DevicePeak("A10G", 70e12, None, "AWS G5: a third card beside A10, with fewer tensor FLOP/s"),
    DevicePeak("A10", 125e12, None, _AMPERE),
    DevicePeak("L40S", 362e12, 733e12, _ADA),
    DevicePeak("L40", 181e12, 362e12, _ADA),
    DevicePeak("L4", 121e12, 242e12, _ADA),
    DevicePeak("RTX PRO 6000", 503.8e12, 1007.6e12, _RTX50_PRO),
    DevicePeak("RTX 6000 Ada", 364.2e12, 728.5e12, _RTX40),
    DevicePeak("RTX A6000", 154.8e12, None, _RTX30),
    DevicePeak("RTX 5090", 209.5e12, 419e12, _RTX50),
    DevicePeak("RTX 5080", 112.6e12, 225.1e12, _RTX50),
    DevicePeak("RTX 4090", 165.2e12, 330.3e12, _RTX40),
    DevicePeak("RTX 3090 Ti", 80e12, None, _RTX30),
    DevicePeak("RTX 3090", 71e12, None, _RTX30),
    DevicePeak("MI355X", 2516.6e12, 5033.2e12, _CDNA),
    DevicePeak("MI350X", 2306.9e12, 4613.7e12, _CDNA),
    DevicePeak("MI325X", 1307.4e12, 2614.9e12, _CDNA),
    DevicePeak("MI300X", 1307.4e12, 2614.9e12, _CDNA),
    DevicePeak("MI300A", 980.6e12, 1961.2e12, _CDNA),
    DevicePeak("MI250X", 383e12, None, _CDNA),
    DevicePeak("MI250", 362.1e12, None, _CDNA),
    DevicePeak("MI210", 181e12, None, _CDNA),
)

_NAMESAKES = re.compile(r"\b(laptop|max-q|mig|super|(4090|5090) d)\b", flags=re.IGNORECASE)
"""Words that make a device another one than the table's of that name."""

DETERMINISTIC_ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "Ring"}
"""What makes NVIDIA's libraries give the same bits on every run; read once, when CUDA starts."""

Fp8Recipe = Literal["tensorwise", "rowwise"]


def lacks_fp8(capability: tuple[int, int], recipe: Fp8Recipe) -> str | None:
    """Why an NVIDIA GPU of this compute capability cannot train in fp8; None where it can.

    Rowwise products are torch's own kernels, written for Hopper and the data-centre Blackwells; elsewhere they fail
    (pytorch issues 145728 and 192707).
    """
    major, minor = capability
    if capability < (8, 9):
        return f"fp8 needs compute capability 8.9, this GPU has {major}.{minor}; use --set runtime.precision=bf16"
    if recipe == "rowwise" and major not in (9, 10):
        return (
            f"rowwise fp8 needs compute capability 9 or 10, this GPU has {major}.{minor}; use "
            f"--set runtime.fp8_recipe=tensorwise"
        )
    return None


def find_peak(device_name: str) -> DevicePeak | None:
    """The table's line for one device, by the name that its driver gives; None where it is not known."""
    if _NAMESAKES.search(device_name):
        return None
    for peak in DEVICE_PEAKS:
        name = re.escape(peak.name).replace(r"\ ", "[ -]?")  # a person writes RTX4090, too
        if re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", device_name, flags=re.IGNORECASE):
            return peak
    return None


def bf16_peak_flops(device_name: str) -> float | None:
    """Peak of one device, FLOP/s; None where it is not in the table."""
    peak = find_peak(device_name)
    return peak.bf16 if peak else None


DEVICE_GIB: dict[str, int] = {
    "GB300": 288,
    "B300": 288,
    "GB200": 192,
    "B200": 192,
    "B100": 192,
    "GH200": 96,
    "H200 NVL": 141,
    "H200": 141,
    "H100 NVL": 94,
    "H100 PCIe": 80,
    "H100": 80,
    "H800 PCIe": 80,
    "H800": 80,
    "A40": 48,
    "A30": 24,
    "A10G": 24,
    "A10": 24,
    "L40S": 48,
    "L40": 48,
    "L4": 24,
    "RTX PRO 6000": 96,
    "RTX 6000 Ada": 48,
    "RTX A6000": 48,
    "RTX 5090": 32,
    "RTX 5080": 16,
    "RTX 4090": 24,
    "RTX 3090 Ti": 24,
    "RTX 3090": 24,
    "MI355X": 288,
    "MI350X": 288,
    "MI325X": 256,
    "MI300X": 192,
    "MI300A": 128,
    "MI250X": 128,
    "MI250": 128,
    "MI210": 64,
}
"""Memory of one device in GiB, by its name in DEVICE_PEAKS and from the same sources; what comes in several sizes under
one name, as A100, is not listed."""


def device_memory_bytes(device_name: str) -> int | None:
    """Memory of one device: the size that its name gives (`A100 40GB`), else the table's; None where neither says."""
    if size := re.search(r"(\d+) ?gi?b\b", device_name, flags=re.IGNORECASE):
        return int(size[1]) << 30
    peak = find_peak(device_name)
    gib = DEVICE_GIB.get(peak.name) if peak else None
    return gib << 30 if gib else None


def computer_memory_bytes(
    meminfo: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")
) -> int | None:
    """Main memory that processes started here may fill, a container's limit included; None where nothing says."""
    try:
        total = next(x for x in meminfo.read_text().splitlines() if x.startswith("MemTotal:"))
        there = int(total.split()[1]) << 10
    except (OSError, StopIteration, ValueError):
        if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
            return None
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(there, int(limit.read_text()))
    except (OSError, ValueError):  # no cgroup of its own, or no limit: "max"
        return there


def usable_cores() -> int:
    """Cores that this process may run on."""
    # macOS has no affinity to ask for
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
