"""`python -m trainer_daemon`: starts one of the programs in `processes/`; a bare run folder means `rank`.

The last form is for launchers of other people: torchrun --nproc-per-node 2 -m trainer_daemon RUN_FOLDER
"""

import sys
from importlib import import_module

PROGRAMS = ("supervise", "agent", "rank", "infer")


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments:
        print(f"usage: python -m trainer_daemon [{'|'.join(PROGRAMS)}] ...  or  RUN_FOLDER", file=sys.stderr)
        return 2
    program, rest = (arguments[0], arguments[1:]) if arguments[0] in PROGRAMS else ("rank", arguments)
    return int(import_module(f"trainer_daemon.processes.{program}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
