"""Whether a model fits beside what else the machine does, and how many texts at once: asked before anything is loaded.

A model too large by a little would not fail here: Linux gives memory that it has not, and then ends the largest process,
which may be somebody's training. So what would be needed is reckoned from the size of the file and the shape, and
compared with what is free for this process: the machine's memory, its cgroups' limits, its own (`ulimit -v`).
"""

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainer_daemon.contract.errors import LlmctlError, RefusedError


@dataclass(frozen=True)
class Demand:
    """What a kind of memory has to bear."""

    of_what: str
    loading_factor: float
    """Its peak while a model is loaded, in sizes of the model's file."""
    texts: int
    """Written at once where there is room for so many."""
    bytes_each: int
    """Of a number in the cache."""


MAIN_MEMORY = Demand("memory", loading_factor=2.2, texts=16, bytes_each=4)
"""Loading: the tensors, and their packed copies."""
GPU_MEMORY = Demand("GPU memory", loading_factor=1.6, texts=64, bytes_each=2)
"""Loading: the tensors as they lie on the disk, their copies in bf16, and what CUDA takes for itself."""


def texts_that_fit(checkpoint: Path, free: int, demand: Demand) -> int:
    """How many texts may be written at once. Raises RefusedError when there is not room for one."""
    needed, each = _needed(checkpoint, demand)
    if needed + each > free:
        raise RefusedError(
            f"{checkpoint.name} needs {_gigabytes(needed + each)} of {demand.of_what} to be loaded and to write one text, "
            f"and {_gigabytes(free)} are free; end what you can spare, or take a smaller model"
        )
    return min(demand.texts, int((free - needed) // each)) if each else demand.texts


def _needed(checkpoint: Path, demand: Demand) -> tuple[int, int]:
    """Bytes that loading takes, and a text; a checkpoint that cannot be read takes none: loading says what is wrong."""
    from pydantic import ValidationError

    from trainer_daemon.contract.scaling import model_shape
    from trainer_daemon.contract.spec import RunSpec
    from trainer_daemon.engine.data.tokenizer import Tokenizer
    from trainer_daemon.engine.inference.kv_cache import cache_bytes

    try:
        model = int((checkpoint / "model.safetensors").stat().st_size * demand.loading_factor)
        spec = RunSpec.model_validate_json((checkpoint / "spec.json").read_bytes())
        vocab_size = Tokenizer.load(checkpoint / "tokenizer.json").vocab_size
    except (LlmctlError, ValidationError, OSError):
        return 0, 0
    return model, cache_bytes(
        model_shape(spec.model, vocab_size, spec.moe), rows=1, bytes_each=demand.bytes_each
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def free_memory(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may still fill before it, or another, is refused some or ended."""
    left: list[int] = [
        psutil.virtual_memory().available,
        *_left_of_own_limit(),
        *_left_of_cgroups(cgroups, own),
    ]
    return max(0, min(left))


def _left_of_own_limit() -> Iterator[int]:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit - psutil.Process().memory_info().vms


def _left_of_cgroups(root: Path, own: Path) -> Iterator[int]:
    """Of each limit (cgroup v2) from our own group up; files that it has read count as free, since they can make way."""
    try:
        line = next(line for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    group = root / line.removeprefix("0::").lstrip("/")
    for folder in (group, *group.parents):
        try:
            limit, used = (int((folder / f"memory.{which}").read_text()) for which in ("max", "current"))
            kept = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield limit - used + int(kept["active_file"]) + int(kept["inactive_file"])
        except (OSError, ValueError, KeyError):  # not there, or "max": no limit
            pass
        if folder == root:
            return
