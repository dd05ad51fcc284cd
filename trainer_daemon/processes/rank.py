"""One training process. Started by our agent, or by any launcher that sets torchrun's environment.

It outlives the supervisor: what it reports goes to the journal on disk, what it is asked for comes from there. It does
not outlive the agent, or a crash would leave ranks that train unseen.
"""

import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import Alert, Command, CommandDone, Event, Finished
from trainer_daemon.contract.flight import FlightRecorder
from trainer_daemon.contract.journal import JournalReader, JournalWriter
from trainer_daemon.contract.output import OwnOutput, say
from trainer_daemon.contract.rank_error import RankError, rank_error_file
from trainer_daemon.contract.rundir import (
    STACKS_SIGNAL,
    TRACE_SIGNAL,
    RunDir,
    hold_lock,
    home,
    write_json,
)
from trainer_daemon.contract.settings import present_spec

LOOK_SECONDS = 0.05
"""Commands are looked for this often: a look has the kernel asked three times, 75 us where caches are cold, which short steps
would pay each."""
PR_SET_PDEATHSIG = 1


class ControlCommands:
    """The commands that the supervisor wrote to the `control` stream, oldest first."""

    def __init__(self, journal: Path, after_seq: int, terminated: Callable[[], bool] = lambda: False) -> None:
        self.terminated = terminated
        self._reader = JournalReader(journal, "control", after_seq)
        self._waiting: deque[Command] = deque()
        self._next_look = 0.0

    def pending(self) -> bool:
        """Whether something was asked for, as seen at most LOOK_SECONDS ago."""
        if not self._waiting and (now := time.monotonic()) >= self._next_look:
            self._look()
            self._next_look = now + LOOK_SECONDS
        return bool(self._waiting)

    def next(self) -> Command | None:
        self._look()
        return self._waiting.popleft() if self._waiting else None

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.pending() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(LOOK_SECONDS, left))

    def stop_wanted(self) -> bool:
        """Whether a stop is among what was asked for; it stays there to be answered. Or a signal."""
        self._look()
        return self.terminated() or any(command.name == "stop" for command in self._waiting)

    def _look(self) -> None:
        self._waiting.extend(r.event for r, _ in self._reader.poll() if isinstance(r.event, Command))


class NoCommands(ControlCommands):
    """Every rank but the main one: it hears of commands from the main rank, but of a stop while all prepare for itself."""

    def pending(self) -> bool:
        return False

    def next(self) -> Command | None:
        return None

    def wait(self, seconds: float) -> None:
        """The announcement that follows is where this rank waits."""


def main(arguments: list[str]) -> int:
    run = RunDir(Path(arguments[0]).absolute())
    rank = int(os.environ.get("RANK", "0"))
    launched_by_agent = "LLMCTL_ATTEMPT" in os.environ
    output: OwnOutput | None = None  # another launcher has a place for it
    attempt = int(os.environ.get("LLMCTL_ATTEMPT", "1"))
    if launched_by_agent:
        die_with_parent(int(os.environ["LLMCTL_AGENT_PID"]))
        output = OwnOutput(run.rank_log(rank))
    tell_stacks(run.rank_stacks(attempt, rank))
    tell_collectives(run.rank_trace(attempt, rank))
    terminated = SignalFlag(signal.SIGTERM, signal.SIGUSR1)
    lock = hold_lock(run.ranks_lock, shared=True)
    try:
        finished = train_run(run, rank, attempt, terminated, output)
    except BaseException as e:
        record_error(run.attempt(attempt), rank, e)
        if isinstance(e, LlmctlError):
            say(f"error: {e}")
            return e.exit_code
        raise
    finally:
        os.close(lock)
    say(finished.message)
    return 0 if finished.reason != "failed" else 4


def train_run(
    run: RunDir, rank: int, attempt: int, terminated: "SignalFlag", output: OwnOutput | None
) -> Finished:
    """Build and train; the main rank's last act is the journal's `Finished`."""
    from trainer_daemon.engine.allocator import keep_freed_memory
    from trainer_daemon.engine.assembly import StoppedBeforeTrainingError, build_job
    from trainer_daemon.engine.duties import finish_save
    from trainer_daemon.engine.job import Launch
    from trainer_daemon.engine.loop import train
    from trainer_daemon.engine.micro_batch import out_of_memory_told
    from trainer_daemon.engine.native import give_torch_a_compiler_that_publishes
    from trainer_daemon.engine.ranks import join_ranks

    spec = present_spec(run)
    journal = JournalWriter(run.journal, "train", attempt) if rank == 0 else None
    kind = ControlCommands if rank == 0 else NoCommands
    commands = kind(run.journal, control_after(run.journal), terminated.is_set)

    def emit(event: Event) -> None:
        if journal is not None:
            journal.append(event)
        if output is not None:  # every rank passes here at every step
            output.turn_over_if_large()

    give_torch_a_compiler_that_publishes(home() / "kernels")
    ranks = join_ranks(spec.runtime, FlightRecorder(run.rank_flight(attempt, rank)))
    if ranks.device.type == "cpu":
        keep_freed_memory()
    try:
        try:
            job = build_job(
                spec,
                ranks,
                Launch(
                    run=run,
                    home=home(),
                    attempt=attempt,
                    emit=emit,
                    commands=commands,
                    rollbacks=rollbacks_before(run) if rank == 0 else 0,
                ),
            )
        except StoppedBeforeTrainingError:
            finished = Finished("stopped", 0, "stopped before training began; there was nothing to save")
        else:
            try:
                with out_of_memory_told(ranks, job.plan):
                    finished = train(job)
            finally:
                finish_save(job)
                job.close()
        while late := commands.next():
            if late.name == "stop":
                continue  # it is stopped, and whether saved only the supervisor sees together with what came before
            emit(CommandDone(late.request_id, late.name, ok=False, message=f"too late: {finished.message}"))
        emit(finished)
    finally:
        if journal is not None:
            with suppress(
                OSError
            ):  # a disk that fails here has cost what it kept; the training is done all the same
                journal.sync()
            journal.close()
    ranks.close()  # not after an error: a peer that is gone would keep this rank waiting
    return finished


def control_after(journal: Path) -> int:
    """The command that these ranks begin behind: what was asked of earlier ones is not obeyed again."""
    if (said := os.environ.get("LLMCTL_CONTROL_AFTER")) is not None:
        return int(said)
    with JournalReader(journal, "control") as reader:
        while reader.poll():
            pass
        return reader.last_seq


def rollbacks_before(run: RunDir) -> int:
    """Rollbacks of earlier launches: as the supervisor counted them, and what the journal has behind that."""
    try:
        known = json.loads(run.state_file.read_bytes())
        count, after = int(known["rollbacks"]), int(known["cursors"]["train"])
    except (OSError, ValueError, KeyError, TypeError):
        count = after = 0
    with JournalReader(run.journal, "train", after) as reader:
        while batch := reader.poll():
            count += sum(isinstance(r.event, Alert) and r.event.name == "rolled_back" for r, _ in batch)
    return count


class SignalFlag:
    """Remembers that one of some signals came, so that the loop can act on it at a step boundary.

    SIGTERM is what ends processes; SIGUSR1 is what SLURM's --signal sends some time before the end.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._came = False
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        self._came = True

    def is_set(self) -> bool:
        return self._came


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the agent that started it dies (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        os.kill(os.getpid(), signal.SIGKILL)


def tell_stacks(file: Path) -> None:
    """Have a signal write the stacks of all threads to a file, and a crash in native code to stderr.

    It works in a blocked collective: the handler is C and needs neither the main thread nor the interpreter's lock.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # open as long as the process lives: faulthandler keeps the bare descriptor
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    faulthandler.register(STACKS_SIGNAL, file=fd, all_threads=True)
    faulthandler.enable()


def tell_collectives(file: Path) -> None:
    """Have a signal write torch's own record of the collectives, from a thread that sleeps in the kernel until then.

    The main thread may wait in a collective, where no handler of Python's would run.
    """
    if TRACE_SIGNAL is None:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {TRACE_SIGNAL})  # all threads to come inherit it, this one first

    def answer() -> None:
        while True:
            signal.sigwait({TRACE_SIGNAL})
            # not imported here: the main thread may be at it
            engine = sys.modules.get("trainer_daemon.engine.ranks")
            with suppress(Exception):  # evidence that cannot be had must not end a rank
                write_json(file, engine.collective_trace() if engine else {})

    threading.Thread(target=answer, name="collectives", daemon=True).start()


def record_error(attempt_folder: Path, rank: int, error: BaseException) -> None:
    """Leave this rank's error for the agent."""
    attempt_folder.mkdir(parents=True, exist_ok=True)
    told = RankError(
        rank=rank,
        time_ns=time.time_ns(),
        type=type(error).__name__,
        message=str(error) or type(error).__name__,
        exit_code=error.exit_code if isinstance(error, LlmctlError) else 1,
        traceback=traceback.format_exc(),
    )
    write_json(rank_error_file(attempt_folder, rank), asdict(told))
