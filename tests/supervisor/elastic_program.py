"""The real elastic agent, with ranks that need no torch."""

import sys
from pathlib import Path

from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.processes.agent import main

RANK_PROGRAM = Path(__file__).with_name("rank_program.py")

if __name__ == "__main__":
    run_and_leave(lambda: main(sys.argv[1:], rank_command=[str(RANK_PROGRAM)]))
