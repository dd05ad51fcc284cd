"""A rank that trains the tiny run and leaves its own copy of the parameters, for comparison with the other ranks'."""

import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.engine.ranks import join_ranks


def main() -> int:
    folder = Path(sys.argv[1])
    spec = tiny_spec()
    ranks = join_ranks(spec.runtime)
    _, job = run_tiny(spec, folder, Recorder(), ranks=ranks)
    save_file(job.model.state_dict(), folder / f"replica-{ranks.rank}.safetensors")
    ranks.close()
    return 0


if __name__ == "__main__":
    run_and_leave(main)
