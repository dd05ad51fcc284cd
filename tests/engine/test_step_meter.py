"""What a step costs: the parts are all of it, and counters that do not exist read as unknown."""

import time
from math import inf
from pathlib import Path

import pytest
import torch

from trainer_daemon.engine import step_meter
from trainer_daemon.engine.memory import MemoryUse, memory_use, process_memory
from trainer_daemon.engine.step_meter import StepMeter


def test_the_parts_of_a_step_add_up_to_it_and_none_is_counted_twice() -> None:
    meter = StepMeter(torch.device("cpu"))
    meter.start()
    for _ in range(2):
        meter.end_of("data")
        time.sleep(0.02)
        meter.end_of("compute")
    meter.end_of("wait")
    meter.end_of("optimizer")
    cost = meter.finish()
    parts = cost.data_seconds + cost.compute_seconds + cost.wait_seconds + cost.optimizer_seconds
    assert 0.04 <= cost.compute_seconds <= parts <= cost.step_seconds
    first = cost
    meter.start()
    meter.end_of("data")
    assert meter.finish().compute_seconds == 0.0, first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_device_s_own_time_is_told() -> None:
    device = torch.device("cuda")
    a = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    meter = StepMeter(device)
    meter.start()
    time.sleep(0.05)  # the device has nothing to do: that is time it waited for rows
    meter.end_of("data")
    for _ in range(20):
        a = a @ a / 64
    queued = time.perf_counter()
    meter.end_of("compute")
    meter.end_of("optimizer")
    cost = meter.finish()
    assert cost.data_seconds >= 0.04
    assert cost.compute_seconds > time.perf_counter() - queued - 0.01 > 0
    assert cost.peak_memory_bytes is not None
    assert cost.memory_bytes is not None
    assert cost.peak_memory_bytes >= cost.memory_bytes > 4 * 4096**2


def test_a_cpu_s_memory_is_the_process_s_and_grows_with_its_tensors() -> None:
    before = memory_use(torch.device("cpu")).now
    if before is None:
        pytest.skip("this platform does not say")
    kept = torch.ones(50_000_000)
    use = memory_use(torch.device("cpu"))
    assert use.now is not None
    assert use.peak is not None
    assert use.now - before > 0.9 * kept.nbytes
    assert use.peak >= use.now


def test_a_cpu_s_memory_is_read_now_and_then_and_told_with_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = iter([MemoryUse(1, 1), MemoryUse(2, 2)])
    monkeypatch.setattr(step_meter, "memory_use", lambda _: next(read))
    meter = StepMeter(torch.device("cpu"))

    def told() -> int | None:
        meter.start()
        return meter.finish().memory_bytes

    monkeypatch.setattr(step_meter, "MEMORY_SECONDS", inf)
    assert [told(), told()] == [1, 1]
    meter = StepMeter(torch.device("cpu"))
    assert [told(), told()] == [2, 2]


@pytest.mark.parametrize("content", [None, "", "VmRSS: many kB\n"])
def test_memory_that_the_platform_does_not_tell_is_unknown(tmp_path: Path, content: str | None) -> None:
    status = tmp_path / "status"
    if content is not None:
        status.write_text(content)
    use = process_memory(status)
    assert (use.now, use.peak) == (None, None)
