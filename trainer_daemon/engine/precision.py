"""Which arithmetic a run computes in, chosen for its device; what a device cannot do is refused by name.

Matrices, head and scalars are always kept in fp32 and cast where they are used; a precision decides what activations,
products and the embedding tables are made of.
"""

import torch

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.estimate import Precision
from trainer_daemon.contract.hardware import Fp8Recipe, lacks_fp8
from trainer_daemon.contract.spec import RuntimeSpec

COMPUTE_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,
}


def choose_precision(runtime: RuntimeSpec, device: torch.device) -> Precision:
    """As asked. auto: bf16 where the hardware multiplies in it (GPUs of compute capability 8, CPUs with AVX512-BF16 or
    AMX), else fp32. Raises SpecError for fp8 on a device that cannot multiply in it."""
    if runtime.precision == "fp8" and (lacking := _lacks_fp8(device, runtime.fp8_recipe)):
        raise SpecError(f"runtime.precision: {lacking}")
    if runtime.precision != "auto":
        return runtime.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.12 and later
        able = torch.cpu.get_capabilities()
        return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"
    return "fp32"


def _lacks_fp8(device: torch.device, recipe: Fp8Recipe) -> str | None:
    if device.type != "cuda" or torch.version.hip:  # AMD's fp8 is another format
        name = "an AMD GPU" if device.type == "cuda" else device.type
        return f"fp8 needs an NVIDIA GPU, this rank has {name}; use --set runtime.precision=auto"
    return lacks_fp8(torch.cuda.get_device_capability(device), recipe)
