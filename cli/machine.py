"""What this machine has, found without torch: NVIDIA's own library names the GPUs in milliseconds."""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer_daemon.contract.estimate import Hardware, Precision
    from trainer_daemon.contract.spec import RuntimeSpec


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    capability: tuple[int, int]
    """CUDA compute capability: what its kernels can do."""


def nvidia_gpus() -> list[Gpu]:
    """The NVIDIA GPUs that a process started here may use; empty without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        gpus = [
            Gpu(
                str(pynvml.nvmlDeviceGetName(h)),
                int(pynvml.nvmlDeviceGetMemoryInfo(h).total),
                pynvml.nvmlDeviceGetCudaComputeCapability(h),
            )
            for h in handles
        ]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
    return gpus[: visible_count(os.environ.get("CUDA_VISIBLE_DEVICES"), len(gpus))]


def visible_count(setting: str | None, there: int) -> int:
    """How many devices CUDA shows under this CUDA_VISIBLE_DEVICES: it stops at the first entry that names none."""
    if setting is None:
        return there
    visible = 0
    for entry in setting.split(","):
        named = entry.strip()
        if not (named.startswith(("GPU-", "MIG-")) or (named.isdecimal() and int(named) < there)):
            break
        visible += 1
    return visible


def torch_has_gpus() -> bool:
    """Whether the installed torch was built for CUDA or ROCm, read from its version file: importing it takes a second."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py").read_text()
    return re.search(r"^(cuda|hip)\b[^=]*= *['\"]", version, flags=re.MULTILINE) is not None


def check_device(runtime: "RuntimeSpec") -> None:
    """Raises SpecError when CUDA, fp8 or a kernel that needs it is asked for and this machine's torch, driver or GPUs lack it."""
    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.hardware import lacks_fp8

    if runtime.precision == "fp8":
        gpus = nvidia_gpus() if torch_has_gpus() else []
        if not gpus:
            raise SpecError(
                "runtime.precision: fp8 needs an NVIDIA GPU and a torch built for it, none is here; use --set "
                "runtime.precision=auto, or see: llmctl doctor"
            )
        for gpu in gpus:
            if lacking_fp8 := lacks_fp8(gpu.capability, runtime.fp8_recipe):
                raise SpecError(f"runtime.precision: {lacking_fp8}")
    needs_cuda = runtime.attention in ("fa3", "flex")
    if runtime.device != "cuda" and not needs_cuda:
        return
    lacking = "" if torch_has_gpus() else "the installed torch is built without CUDA"
    if not lacking and not nvidia_gpus() and not Path("/dev/kfd").exists():  # kfd: AMD's driver
        lacking = "no GPU answers here"
    if lacking and needs_cuda:
        raise SpecError(
            f"runtime.attention: {runtime.attention} needs an NVIDIA GPU, and {lacking}; use auto, or see: llmctl doctor"
        )
    if lacking:
        raise SpecError(f"runtime.device: {lacking}; use --set runtime.device=cpu, or see: llmctl doctor")


def hardware_here(runtime: "RuntimeSpec") -> "Hardware":
    """What a run with these settings would use."""
    from trainer_daemon.contract.estimate import Hardware
    from trainer_daemon.contract.hardware import bf16_peak_flops, computer_memory_bytes

    gpus = nvidia_gpus() if runtime.device in ("auto", "cuda") and torch_has_gpus() else []
    if not gpus:
        on_cpu = runtime.device != "mps"
        return Hardware("cpu" if on_cpu else "mps", 1, None, computer_memory_bytes() if on_cpu else None)
    least = min(gpu.memory_bytes for gpu in gpus)
    return Hardware(gpus[0].name, len(gpus), bf16_peak_flops(gpus[0].name), least)


def world_size(runtime: "RuntimeSpec", hardware: "Hardware") -> int:
    """Ranks: as many as asked for, else one a GPU, or one."""
    return runtime.nproc if runtime.nproc != "auto" else hardware.count


def precision_on(hardware: "Hardware", runtime: "RuntimeSpec") -> "Precision":
    """The compute dtype that the ranks will choose there: bf16 where the hardware multiplies in it."""
    if runtime.precision != "auto":
        return runtime.precision
    if hardware.is_cpu:
        return "bf16" if cpu_multiplies_in_bf16() else "fp32"
    return "fp32" if hardware.name == "mps" else "bf16"


def cpu_multiplies_in_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Linux lists AVX512-BF16 or AMX; False elsewhere."""
    try:
        flags = next(x for x in cpuinfo.read_text().splitlines() if x.startswith("flags")).split()
    except (OSError, StopIteration):
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def nearest_existing(path: Path) -> Path:
    """The path itself or its first ancestor that is there: the disk that it will be on."""
    return next(p for p in (path, *path.parents) if p.exists())
