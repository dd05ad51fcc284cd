"""A rank that trains the tiny run of the moe family; the checkpoint is what is compared, and each rank's own parameters."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from tests.tiny import Recorder, run_tiny
from tests.tiny_moe import tiny_moe_spec
from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.contract.events import ExpertsUsed
from trainer_daemon.engine.ranks import join_ranks


def main() -> int:
    home, folder, overrides = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    spec = tiny_moe_spec(*overrides)
    ranks = join_ranks(spec.runtime)
    seen = Recorder()
    _, job = run_tiny(spec, home, seen, folder, ranks)
    save_file(job.model.state_dict(), folder / f"replica-{ranks.rank}.safetensors")
    (folder / f"use-{ranks.rank}.json").write_text(json.dumps([asdict(e) for e in seen.of(ExpertsUsed)]))
    ranks.close()
    return 0


if __name__ == "__main__":
    run_and_leave(main)
