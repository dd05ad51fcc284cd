"""A rank that trains the tiny run whole, and again in two parts, in each precision; the checkpoints are what is compared."""

import json
import shutil
import sys
from pathlib import Path

from tests.tiny import Recorder, run_tiny, tiny_spec
from trainer_daemon.__main__ import run_and_leave
from trainer_daemon.contract.events import Command
from trainer_daemon.engine.ranks import join_ranks

STOP_STEP = 3


def main() -> int:
    home = Path(sys.argv[1])
    ranks = join_ranks(tiny_spec().runtime)
    stop = {STOP_STEP: [Command("r1", "stop", {})]} if ranks.is_main else {}
    for precision in ("fp32", "bf16"):
        spec = tiny_spec("train.num_iterations=6", f"runtime.precision={precision}")
        folder = home / precision
        folder.mkdir(exist_ok=True)
        recorders = whole, first, second = Recorder(), Recorder(stop), Recorder()
        run_tiny(spec, home, whole, folder / "whole", ranks)
        stopped, _ = run_tiny(spec, home, first, folder / "parts", ranks)
        assert (stopped.reason, stopped.step) == ("stopped", STOP_STEP)
        if ranks.is_main:
            shutil.copytree(folder / "parts", folder / "stopped")
        run_tiny(spec, home, second, folder / "parts", ranks)
        if ranks.is_main:
            (folder / "losses.json").write_text(json.dumps([list(r.losses.items()) for r in recorders]))
    ranks.close()
    return 0


if __name__ == "__main__":
    run_and_leave(main)
