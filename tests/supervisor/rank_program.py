"""A rank without torch, as a real process: it holds the lock, writes the journal and obeys commands as a rank does.

FAULT, in the environment, makes it misbehave: `exit2` (a spec error), `crash` (an exception after each third step),
`busy` (does not see a stop), `deaf` (nor SIGTERM), `full` (cannot save at a stop), `orphan` (leaves a child of its own behind), `sleepy` (does not start to step),
`flood` (prints 200 MB before its first step, and as much again once its log was cut).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from math import log
from pathlib import Path
from typing import Any

from trainer_daemon.contract.events import Command, CommandDone, Event, Finished, PhaseChanged, from_fields
from trainer_daemon.contract.journal import JournalReader, JournalWriter
from trainer_daemon.contract.rank_error import RankError, rank_error_file
from trainer_daemon.contract.rundir import RunDir, hold_lock
from trainer_daemon.processes.rank import tell_stacks
from trainer_daemon.supervisor.attempts import write_struct

STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "0.01"))


def event(kind: str, **values: Any) -> Event:
    made = from_fields(kind, values)
    assert made is not None, kind
    return made


def train_step(step: int, loss_nats: float = 2.0) -> Event:
    return event(
        "train_step",
        step=step,
        loss_nats=loss_nats,
        grad_norm=1.0,
        learning_rate_scale=1.0,
        step_seconds=STEP_SECONDS,
        tokens=step * 100,
        tokens_per_second=1e4,
        mfu=None,
        epoch=0.0,
    )


def planned(vocab_size: int, total_steps: int) -> Event:
    counts = dict.fromkeys(
        (
            "total_tokens", "global_batch_tokens", "grad_accum_steps", "parameters", "scaling_parameters",
            "flops_per_token", "train_rows", "held_out_rows",
        ),
        1,
    )  # fmt: skip
    return event(
        "run_planned",
        **counts,
        total_steps=total_steps,
        vocab_size=vocab_size,
        peak_flops=None,
        peak_flops_source="",
        bits_per_byte_floor=None,
    )


def saved(step: int) -> Event:
    return event(
        "checkpoint_saved", step=step, path=f"step-{step}", bytes=1, val_bpb=None, loss_nats=2.0, seconds=0.0
    )


def print_200_mb() -> None:
    line = b"x" * 999_999 + b"\n"
    for _ in range(200):
        os.write(1, line)


def main() -> int:
    run = RunDir(Path(sys.argv[1]))
    rank, attempt = int(os.environ["RANK"]), int(os.environ["LLMCTL_ATTEMPT"])
    fault = os.environ.get("FAULT", "")
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ["LLMCTL_AGENT_PID"]):
        return 1  # it died before the kernel knew that we follow it
    terminated = False

    def note(_number: int, _frame: object) -> None:
        nonlocal terminated
        terminated = True

    signal.signal(signal.SIGTERM, note)
    tell_stacks(run.rank_stacks(attempt, rank))
    lock = hold_lock(run.ranks_lock, shared=True)
    print(f"rank {rank} of attempt {attempt} is up", flush=True)
    if rank:  # the others are there to hold the lock and to be killed
        reader = JournalReader(run.journal, "train")
        while not terminated:
            if any(isinstance(r.event, Finished) and r.attempt == attempt for r, _ in reader.poll()):
                break
            time.sleep(STEP_SECONDS)
        return 0
    if fault == "exit2":
        error = RankError(rank, time.time_ns(), "SpecError", "data.source: there is nothing at /nowhere", 2)
        write_struct(rank_error_file(run.attempt(attempt), rank), error)
        return 2
    if fault == "orphan":
        subprocess.Popen(["sleep", "600"], start_new_session=True)

    last_step = run.read_spec().train.num_iterations or 10
    journal = JournalWriter(run.journal, "train", attempt)
    commands = JournalReader(run.journal, "control", int(os.environ["LLMCTL_CONTROL_AFTER"]))
    if vocab_size := int(os.environ.get("VOCAB_SIZE", "0")):
        journal.append(planned(vocab_size, last_step))
    journal.append(PhaseChanged("running", 0))
    checkpoints = sorted(run.checkpoints.glob("step-*"), key=lambda p: int(p.name[5:]))
    step = int(checkpoints[-1].name[5:]) if checkpoints else 0
    if step:
        journal.append(event("resumed", step=step, checkpoint=f"step-{step}", min_val_bpb=None))

    if fault == "flood":  # within one step, where no rank turns its file over
        print_200_mb()
        while os.fstat(1).st_size >= 200_000_000:  # a test that nobody cuts it for ends by its own timeout
            time.sleep(0.02)
        print_200_mb()

    def save() -> None:
        (run.checkpoints / f"step-{step}").touch()
        journal.append(saved(step))

    paused = False
    while step < last_step or fault == "sleepy":
        for record, _ in commands.poll():
            command = record.event
            assert isinstance(command, Command)
            if command.name == "stop" and fault not in ("busy", "deaf"):
                if fault == "full":
                    text = f"step {step} could not be saved"
                    journal.append(CommandDone(command.request_id, "stop", ok=False, message=text))
                    if not command.arguments["even_unsaved"]:
                        continue
                    journal.append(Finished("stopped", step, text))
                    return 0
                save()
                journal.append(CommandDone(command.request_id, "stop", ok=True, message=f"stopped at {step}"))
                journal.append(Finished("stopped", step, f"stopped on request at step {step}"))
                return 0
            if command.name in ("pause", "resume"):
                paused = command.name == "pause"
                journal.append(PhaseChanged("paused" if paused else "running", step))
            if command.name == "save":
                save()
            if command.name != "stop":
                journal.append(CommandDone(command.request_id, command.name, ok=True, message="done"))
        if terminated and fault != "deaf":
            save()
            journal.append(Finished("stopped", step, f"stopped by a signal at step {step}"))
            return 0
        if not paused and fault != "sleepy":
            step += 1
            journal.append(train_step(step, log(vocab_size) if vocab_size else 2.0))
            if fault == "crash" and step % 3 == 0:
                error = RankError(rank, time.time_ns(), "ValueError", "the third step is cursed", 1)
                write_struct(rank_error_file(run.attempt(attempt), rank), error)
                return 1
        time.sleep(STEP_SECONDS)
    save()
    journal.append(Finished("completed", step, f"all {step} steps done"))
    os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
