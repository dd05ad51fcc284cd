"""Serves stored checkpoints: loads what is asked for, writes what is asked for, ends when idle.

It runs beside training and takes nothing from it: a GPU that no process computes on, else the CPU, with a low priority.
"""

import argparse
import os
import signal
import time
import traceback
from contextlib import suppress
from functools import partial
from math import ceil, log
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_daemon.contract.detach import ReadyPipe, leave_parent, settle_in
from trainer_daemon.contract.errors import LlmctlError, RunFailedError
from trainer_daemon.contract.generation import Piece
from trainer_daemon.contract.hardware import usable_cores
from trainer_daemon.contract.rundir import all_runs
from trainer_daemon.link.inference import IDLE_SECONDS, InferenceServer, Loaded, worker_folder
from trainer_daemon.processes.room import GPU_MEMORY, MAIN_MEMORY, free_memory, texts_that_fit

if TYPE_CHECKING:
    import torch

    from trainer_daemon.contract.estimate import Precision
    from trainer_daemon.engine.inference.batch import Batch

LEAST_NICENESS, MOST_NICENESS = 5, 19
SHARE_PER_NICENESS = 1.25
"""A process that is nicer by one has so much less of a core that both want, see sched(7)."""
BESIDE_CORES = 2
"""Nicer by so much, since caches, memory and the wake-ups of threads that wait for each other are shared, too: LOG.md 2026-11-21,
"Niceness does not reach across sessions"."""
AUTOGROUP = Path("/proc/self/autogroup")
"""Niceness of a whole session, see sched(7); missing on other systems and where it is switched off."""
SMALL_MODEL_BYTES = 64 << 20
"""Up to here a second thread costs more than it brings, and so does bf16 on a CPU that multiplies in it."""
BUSY_GPUS = (
    "every GPU is computing for another process, so the CPU writes: slower, and at no cost to that one"
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="trainer_daemon infer")
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS)
    options = parser.parse_args(arguments)
    pipe = ReadyPipe(options.ready_fd)
    leave_parent()
    try:
        folder = worker_folder()
        settle_in(folder, folder / "worker.log")
        gpu, why_none = free_gpu()
        # decided before CUDA is: a context alone would take memory from whoever trains on the others
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu or ""
        import torch

        yield_cores()  # only now: somebody waits for this start, two seconds of work that no run would notice
        if gpu and not torch.cuda.is_available():
            why_none = "this torch has no CUDA, so the CPU writes; llmctl doctor says more"
        device = torch.device("cpu" if why_none or not gpu else "cuda")
        server = InferenceServer(folder, partial(load_writer, device=device, why_no_gpu=why_none))
    except LlmctlError as e:
        pipe.refuse(e)
        return e.exit_code
    except Exception as e:  # noqa: BLE001  # whatever it is, the one who waits must hear of it
        traceback.print_exc()
        pipe.refuse(RunFailedError(f"the inference worker cannot start: {type(e).__name__}: {e}"))
        return 1
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    pipe.ready({"pid": os.getpid()})
    with server:
        server.serve(options.idle)
    return 0


def yield_cores() -> None:
    """Have a training run on the same cores go first, wherever both want one. For a process in a session of its own."""
    niceness = niceness_for(usable_cores())
    os.nice(niceness)
    # where Linux shares cores among sessions first, niceness counts within one session alone, and a run is another
    with suppress(OSError):
        AUTOGROUP.write_text(str(niceness))


def niceness_for(cores: int) -> int:
    """How nice a thread that writes must be for a run with a thread on each core to lose no more than its fair share.

    The run's session spreads its weight over all cores, this one has its own on one. The run's step takes as long as its
    slowest thread, 1 + cores x weight as long, and fair is 1 + 1 / cores: the weight is 1 / cores², and less for what is shared
    besides cores, but not that of a process that never has its turn (SCHED_IDLE).
    """
    return min(MOST_NICENESS, max(LEAST_NICENESS, ceil(2 * log(cores, SHARE_PER_NICENESS)) + BESIDE_CORES))


class BatchWriter:
    """A checkpoint's batch, and what is to be said about it."""

    def __init__(self, batch: "Batch", loaded: Loaded, threads: int) -> None:
        self.loaded = loaded
        self.begin, self.cancel, self.abandon = batch.begin, batch.cancel, batch.abandon
        self._batch = batch
        self._threads = threads

    @property
    def is_idle(self) -> bool:
        return self._batch.is_idle

    def step(self) -> list[tuple[int, Piece]]:
        import torch

        if torch.get_num_threads() != self._threads:  # each thread of the process has a number of its own
            torch.set_num_threads(self._threads)
        return self._batch.step()


def load_writer(checkpoint: Path, device: "torch.device", why_no_gpu: str | None = None) -> BatchWriter:
    """Load a checkpoint to write from. Raises LlmctlError when it is damaged, or larger than the memory that is free."""
    import torch

    from trainer_daemon.engine.inference.batch import Batch
    from trainer_daemon.engine.inference.session import load_session
    from trainer_daemon.engine.inference.uncached import UncachedDecoder
    from trainer_daemon.engine.precision import COMPUTE_DTYPES

    begun = time.monotonic()
    is_cpu = device.type == "cpu"
    rows = texts_that_fit(checkpoint, free_memory(), MAIN_MEMORY)
    if not is_cpu:
        rows = texts_that_fit(checkpoint, torch.cuda.mem_get_info(device)[0], GPU_MEMORY)
    file = checkpoint / "model.safetensors"
    model_bytes = file.stat().st_size if file.is_file() else 0  # loading says what is wrong with it
    precision = precision_for(model_bytes, device)
    session = load_session(checkpoint, device=device, dtype=COMPUTE_DTYPES[precision])
    threads = threads_for(model_bytes, is_training=any(run.ranks_are_alive() for run in all_runs()))
    decoder = session.decoder
    notices = [why_no_gpu] if why_no_gpu else []
    if isinstance(decoder, UncachedDecoder):
        print(f"{checkpoint}: {decoder.why}", flush=True)
        notices.append(decoder.why)
    cpu = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    where = cpu if is_cpu else torch.cuda.get_device_name(device)
    loaded = Loaded(
        step=session.step,
        context=decoder.shape.sequence_len,
        vocab_size=decoder.shape.vocab_size,
        device=f"{where}, {precision}",
        load_seconds=time.monotonic() - begun,
        is_chat=session.is_chat,
        notices=tuple(notices),
    )
    return BatchWriter(Batch(decoder, session.tokenizer, rows, is_chat=session.is_chat), loaded, threads)


def precision_for(model_bytes: int, device: "torch.device") -> "Precision":
    """Of the products: bf16 on a GPU, and for all but small models on a CPU that multiplies in it, else fp32."""
    from trainer_daemon.contract.spec import RuntimeSpec
    from trainer_daemon.engine.precision import choose_precision

    if device.type != "cpu":
        return "bf16"
    return choose_precision(RuntimeSpec(), device) if model_bytes > SMALL_MODEL_BYTES else "fp32"


def threads_for(model_bytes: int, *, is_training: bool) -> int:
    """torch threads of the worker: one for a small model, half the cores beside a training run, else all."""
    if model_bytes <= SMALL_MODEL_BYTES:
        return 1
    return max(1, usable_cores() // 2) if is_training else usable_cores()


def free_gpu() -> tuple[str | None, str | None]:
    """UUID of a GPU that no process computes on, of those we may see, or why none is taken.

    (None, None) where there is none to take: a machine without one needs no excuse.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, None
    busy = 0
    try:
        allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(pynvml.nvmlDeviceGetUUID(gpu))
            is_ours = allowed is None or {str(index), uuid} & set(allowed.split(","))
            if is_ours and not pynvml.nvmlDeviceGetComputeRunningProcesses(gpu):
                return uuid, None
            busy += bool(is_ours)
    except pynvml.NVMLError as e:  # a GPU that has fallen off the bus, or one that may not be asked
        return None, f"the GPUs cannot be asked ({e}), so the CPU writes"
    finally:
        pynvml.nvmlShutdown()
    return None, (BUSY_GPUS if busy else None)
