"""`python -m trainer_daemon agent RUN_FOLDER --attempt N`: launches the ranks once and writes down how each one ended.

torch's elastic launcher, called as a library: its command line would turn every end into exit code 1 and would die of a
hang-up. Restarting is the supervisor's business, so one attempt is all there is here.
"""

import argparse
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import psutil

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.hardware import DETERMINISTIC_ENVIRONMENT, usable_cores
from trainer_daemon.contract.output import say
from trainer_daemon.contract.rank_error import RankError, rank_error_file
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.settings import present_spec
from trainer_daemon.contract.spec import RuntimeSpec
from trainer_daemon.supervisor.agent import describe_exit
from trainer_daemon.supervisor.attempts import (
    RESULT_FILE,
    AttemptResult,
    RankResult,
    read_struct,
    write_own_identity,
    write_struct,
)

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters

RENDEZVOUS = "llmctl-loopback"
STORE_TIMEOUT = timedelta(minutes=10)
SIBLING_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""torch's own name for what ranks get to end when another one has fallen; torch itself heeds it at other ends alone."""
SIBLING_SECONDS = 30
"""What it is unless someone says otherwise. They can save nothing together any more, but a checkpoint that was being written
beside the training is written to its end."""
CONSEQUENCE = re.compile(
    r"closed by peer|reset by peer|broken pipe|remote process exited|connection refused|socket timeout|timed out"
    r"|connection was likely closed|destroyed",
    re.IGNORECASE,
)
"""What a rank says when it fell because another one did."""


NCCL_WATCH = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "TORCH_FR_BUFFER_SIZE": "2000",
}
"""A collective that times out ends its process, and leaves what the last 2000 collectives were doing. Torch's defaults have
moved between releases, so they are said."""

RANK_COMMAND = ("-m", "trainer_daemon")


def main(arguments: list[str], *, rank_command: Sequence[str] = RANK_COMMAND) -> int:
    """`rank_command`: what the interpreter of each rank gets before the run folder."""
    parser = argparse.ArgumentParser(prog="trainer_daemon agent")
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    options = parser.parse_args(arguments)
    run, attempt = RunDir(options.run.absolute()), options.attempt
    folder = run.attempt(attempt)
    write_own_identity(folder)  # before torch, which takes a second: the run must never look abandoned
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, forward_to_ranks)
    first_to_end = FirstToEnd()
    try:
        result = launch(run, attempt, present_spec(run).runtime, rank_command, first_to_end)
    except LlmctlError as e:
        result = AttemptResult(error=str(e))
    except Exception as e:  # noqa: BLE001  # whatever it is, the supervisor must learn of it
        say(traceback.format_exc())
        result = AttemptResult(error=f"the launcher failed: {type(e).__name__}: {e}")
    write_struct(folder / RESULT_FILE, result)
    return 1 if result.ranks or result.error else 0


def forward_to_ranks(_number: int, _frame: FrameType | None) -> None:
    """Pass the wish to end on to the ranks alone: they save and leave, and their data workers last until then."""
    ranks = psutil.Process().children()
    if not ranks:
        sys.exit(0)
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)


class FirstToEnd:
    """Remembers the child of this process that failed before all others, and gives those their time to end.

    torch looks ten times a second, ends the other ranks and tells of all together; one that does not heed its SIGTERM, in a
    compilation or a collective, ends with the SIGKILL that the first one may have died of, too. That comes from here, since
    torch waits for half a minute whatever it was told.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self.sibling_seconds: float = SIBLING_SECONDS
        signal.signal(signal.SIGALRM, kill_ranks)
        if hasattr(os, "waitid"):  # macOS got it with Python 3.13
            signal.signal(signal.SIGCHLD, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        with suppress(ChildProcessError):  # torch has fetched it already
            if self.pid is None and (child := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
                failed = child.si_code != os.CLD_EXITED or child.si_status != 0
                if failed:
                    self.pid = child.si_pid
                    signal.setitimer(signal.ITIMER_REAL, self.sibling_seconds)


def kill_ranks(_number: int, _frame: FrameType | None) -> None:
    for rank in psutil.Process().children():
        rank.kill()


def launch(
    run: RunDir,
    attempt: int,
    runtime: RuntimeSpec,
    rank_command: Sequence[str],
    first_to_end: FirstToEnd,
) -> AttemptResult:
    """Start the ranks and wait until the last one has ended."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    ranks = count_ranks(runtime)
    os.environ.update(rank_environment(runtime, ranks))
    first_to_end.sibling_seconds = max(0.1, float(os.environ[SIBLING_VARIABLE]))  # a timer of 0 would be none
    os.environ["TORCH_FR_DUMP_TEMP_FILE"] = str(run.attempt(attempt) / "nccl-rank-")
    rendezvous_handler_registry.register(RENDEZVOUS, loopback_rendezvous)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"{run.name}-{attempt}",
        rdzv_backend=RENDEZVOUS,
        max_restarts=0,
        monitor_interval=0.1,
        # SIGTERM and SIGINT are ours, SIGHUP is nobody's
        signals_to_handle="SIGQUIT",
        # ranks write their output and their errors to files of their own
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        local_addr="127.0.0.1",
    )
    try:
        elastic_launch(config, sys.executable)(*rank_command, str(run.path))
    except ChildFailedError as e:
        return AttemptResult(explain_failures(run, attempt, e.failures, first_to_end.pid))
    return AttemptResult()


def count_ranks(runtime: RuntimeSpec) -> int:
    """As asked; else one a GPU, or one."""
    import torch

    if runtime.nproc != "auto":
        return runtime.nproc
    return max(1, torch.cuda.device_count()) if runtime.device in ("auto", "cuda") else 1


def rank_environment(runtime: RuntimeSpec, ranks: int) -> dict[str, str]:
    """What the ranks get beside the variables that torchrun sets. What the user has set stands, but the spec wins."""
    import torch

    always = {"LLMCTL_AGENT_PID": str(os.getpid())}  # a rank that finds another parent has outlived us
    if runtime.threads_per_rank is not None:
        always["OMP_NUM_THREADS"] = str(runtime.threads_per_rank)
    if runtime.deterministic:
        always |= DETERMINISTIC_ENVIRONMENT
    unless_set = {
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        SIBLING_VARIABLE: str(SIBLING_SECONDS),
        "LOGLEVEL": "WARNING",
        **NCCL_WATCH,
    }
    on_cpu = runtime.device == "cpu" or (runtime.device == "auto" and not torch.cuda.is_available())
    if on_cpu:
        unless_set["OMP_NUM_THREADS"] = str(max(1, usable_cores() // ranks))
    return {key: value for key, value in unless_set.items() if key not in os.environ} | always


def loopback_rendezvous(parameters: "RendezvousParameters") -> "RendezvousHandler":
    """One node needs no meeting: a store that listens on 127.0.0.1 only, at a port that the kernel picks.

    torch's own TCPStore listens on every interface unless it is handed a socket.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # exported without saying so
    from torch.distributed.elastic.rendezvous import (
        RendezvousHandler,
        RendezvousInfo,
        RendezvousStoreInfo,
    )

    class LoopbackRendezvous(RendezvousHandler):
        def __init__(self) -> None:
            listener = socket.create_server(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]
            self._store = TCPStore(
                "127.0.0.1",
                self._port,
                is_master=True,
                timeout=STORE_TIMEOUT,
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )

        def get_backend(self) -> str:
            return RENDEZVOUS

        @property
        def use_agent_store(self) -> bool:
            return True

        def next_rendezvous(self) -> RendezvousInfo:
            store = PrefixStore(parameters.run_id, self._store)
            return RendezvousInfo(
                store, rank=0, world_size=1, bootstrap_store_info=RendezvousStoreInfo("127.0.0.1", self._port)
            )

        def is_closed(self) -> bool:
            return False

        def set_closed(self) -> None:
            """One attempt is all there is."""

        def num_nodes_waiting(self) -> int:
            return 0

        def get_run_id(self) -> str:
            return parameters.run_id

        def shutdown(self) -> bool:
            return True

    return LoopbackRendezvous()


def explain_failures(
    run: RunDir, attempt: int, failures: "dict[int, ProcessFailure]", first_pid: int | None
) -> list[RankResult]:
    """How each fallen rank ended, and which one fell first. `first_pid`: the process that ended first, if it is known."""
    errors = {rank: read_struct(rank_error_file(run.attempt(attempt), rank), RankError) for rank in failures}

    def precedence(rank: int) -> tuple[int, int]:
        """Killed from outside, then its own exception by time, then what reads like a consequence, then our SIGTERM."""
        code, error = failures[rank].exitcode, errors[rank]
        if code == -signal.SIGTERM:
            return 3, rank
        if error is None:
            return 0 if code < 0 else 1, -1 if failures[rank].pid == first_pid else rank
        return (2 if CONSEQUENCE.search(error.message) else 1), error.time_ns

    root = min(failures, key=precedence)
    return [
        RankResult(
            rank=rank,
            exit_code=failure.exitcode if failure.exitcode >= 0 else None,
            signal=failure.signal_name() if failure.exitcode < 0 else None,
            message=message_of(errors[rank], failure.exitcode),
            is_root_cause=rank == root,
        )
        for rank, failure in sorted(failures.items())
    ]


def message_of(error: RankError | None, exit_code: int) -> str:
    if error is None:
        hint = " (often: out of memory; see dmesg)" if exit_code == -signal.SIGKILL else ""
        return describe_exit(exit_code) + hint
    return error.message if error.exit_code != 1 else f"{error.type}: {error.message}"
