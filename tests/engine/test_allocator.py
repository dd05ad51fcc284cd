import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from trainer_daemon.engine.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
def step():
    # many blocks as of activations, and one large one, which is freed at the very end of the heap
    activations = [torch.ones(1 << 20) for _ in range(12)]
    return len(activations) + torch.ones(48 << 20).numel()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


def page_faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_freed_by_one_step_serves_the_next_without_page_faults() -> None:
    assert page_faults("keep") < 200
