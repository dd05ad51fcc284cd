"""An agent without torch, as a real process: starts ranks, waits for them, writes down how they ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trainer_daemon.contract.rank_error import RankError, rank_error_file
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.supervisor.agent import describe_exit
from trainer_daemon.supervisor.attempts import (
    RESULT_FILE,
    AttemptResult,
    RankResult,
    read_struct,
    write_own_identity,
    write_struct,
)

RANK_PROGRAM = Path(__file__).with_name("rank_program.py")


def main() -> int:
    run, attempt = RunDir(Path(sys.argv[1])), int(sys.argv[2])
    time.sleep(float(os.environ.get("AGENT_DELAY", "0")))
    write_own_identity(run.attempt(attempt))
    nproc = run.read_spec().runtime.nproc
    ranks = []
    for rank in range(nproc if isinstance(nproc, int) else 1):
        with run.rank_log(rank).open("ab") as log:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, str(RANK_PROGRAM), str(run.path)],
                    env={**os.environ, "RANK": str(rank), "LLMCTL_AGENT_PID": str(os.getpid())},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def forward(_number: int, _frame: object) -> None:
        for process in ranks:
            process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, forward)
    pid, status = os.waitpid(-1, 0)
    code = os.waitstatus_to_exitcode(status)
    first = next(i for i, p in enumerate(ranks) if p.pid == pid)
    ranks[first].returncode = code
    for process in ranks:
        process.send_signal(signal.SIGTERM)
    for process in ranks:
        process.wait()
    if code:
        error = read_struct(rank_error_file(run.attempt(attempt), first), RankError)
        result = RankResult(
            first,
            code if code > 0 else None,
            signal.Signals(-code).name if code < 0 else None,
            error.message if error else describe_exit(code),
            is_root_cause=True,
        )
        write_struct(run.attempt(attempt) / RESULT_FILE, AttemptResult([result]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
