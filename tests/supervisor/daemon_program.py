"""The real daemon, with the stand-in agent and little patience."""

import os
import sys
from pathlib import Path

from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.processes.supervise import main
from trainer_daemon.supervisor.supervisor import Patience

AGENT_PROGRAM = Path(__file__).with_name("agent_program.py")


def agent_command(run: RunDir, attempt: int) -> list[str]:
    return [sys.executable, str(AGENT_PROGRAM), str(run.path), str(attempt)]


if __name__ == "__main__":
    patience = Patience(
        stop_seconds=float(os.environ.get("STOP_SECONDS", "60")),
        terminate_seconds=float(os.environ.get("TERMINATE_SECONDS", "0.3")),
        finish_seconds=5,
    )
    sys.exit(main(sys.argv[1:], agent_command=agent_command, patience=patience))
