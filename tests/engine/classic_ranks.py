"""A rank that trains the tiny run of the classic family; the checkpoint is what is compared, and each rank's own parameters."""

import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.tiny import Recorder, run_tiny
from tests.tiny_pile import tiny_pile_spec
from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.engine.ranks import join_ranks


def main() -> int:
    home, folder = Path(sys.argv[1]), Path(sys.argv[2])
    spec = tiny_pile_spec()
    ranks = join_ranks(spec.runtime)
    _, job = run_tiny(spec, home, Recorder(), folder, ranks)
    save_file(job.model.state_dict(), folder / f"replica-{ranks.rank}.safetensors")
    ranks.close()
    return 0


if __name__ == "__main__":
    run_and_leave(main)
