"""What a machine has: cores that we may use, and the peak dense matmul FLOP/s of devices.

Peaks are by device name, from the makers' data sheets; what is not listed is unknown, not a guess.

MFU divides by the bf16 figure whatever the compute dtype is, so that runs compare. The list is searched from the top
and the first name contained in the device's name wins: variants stand before the family they belong to.
"""

import os

BF16_PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("GB200", 2.5e15),
    ("B200", 2.25e15),
    ("B100", 1.8e15),
    ("H200 NVL", 836e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("H800", 756e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("MI355", 2.5e15),
    ("MI325", 1307.4e12),
    ("MI300X", 1307.4e12),
    ("MI300A", 980.6e12),
    ("MI250X", 383e12),
    ("MI250", 362.1e12),
    ("RTX 5090", 209.5e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
)


def bf16_peak_flops(device_name: str) -> float | None:
    """Peak of one device, FLOP/s; None where it is not in the table."""
    return next((peak for name, peak in BF16_PEAK_FLOPS if name.lower() in device_name.lower()), None)


def usable_cores() -> int:
    """Cores that this process may run on."""
    # macOS has no affinity to ask for
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
