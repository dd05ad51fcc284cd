"""`python -m trainer_daemon course JOURNAL`: reads a run's course for a cockpit that is being loaded, to stdout.

What is read waits in memory until it is taken, so that all of it is there by then; see `contract.ahead`.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer_daemon.contract.ahead import message_of
from trainer_daemon.contract.course import read_course


def main(arguments: Sequence[str]) -> int:
    """`arguments`: the journal's folder."""
    with ThreadPoolExecutor(1) as writer:
        for item in read_course(Path(arguments[0])):
            writer.submit(sys.stdout.buffer.write, message_of(item))
    return 0
