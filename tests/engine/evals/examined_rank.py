"""One of two ranks that are asked CORE's tasks: together, then with a folder that only the first one can read."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from tests.tiny import ALONE, Recorder, build_tiny, tiny_spec
from trainer_daemon.__main__ import leave
from trainer_daemon.contract.events import CoreTaskScored, Notice
from trainer_daemon.engine import benchmark
from trainer_daemon.engine.ranks import join_ranks

if __name__ == "__main__":
    home, folder = Path(sys.argv[1]), Path(sys.argv[2])
    spec = tiny_spec()
    ranks = join_ranks(spec.runtime)
    seen = Recorder()
    job = build_tiny(spec, home, seen, folder, ranks)
    with torch.no_grad():  # weights that have an opinion, the same on both ranks
        torch.manual_seed(0)
        for parameter in job.model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    benchmark.evaluate(job)
    together = {e.task: e.accuracy for e in seen.of(CoreTaskScored)}
    seen.events.clear()
    benchmark.evaluate(replace(job, ranks=ALONE))
    alone = {e.task: e.accuracy for e in seen.of(CoreTaskScored)}
    job.home = home if ranks.is_main else folder
    benchmark.evaluate(job)
    (refused,) = [e.text for e in seen.of(Notice)]
    if ranks.is_main:
        told = {"together": together, "alone": alone, "refused": refused}
        (folder / "told.json").write_text(json.dumps(told))
    job.close()
    ranks.close()
    leave(0)
