"""What is seen of the machine while ranks train: by processes of its own, and by a daemon with stand-in ranks."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.supervisor.conftest import Daemons, watch
from trainer_daemon.contract.events import SystemSampled
from trainer_daemon.contract.status import observe
from trainer_daemon.supervisor.system import SystemProbe, SystemWatch, device_of

BUSY = "x = 0\nwhile True: x += 1"
IDLE = "import time; time.sleep(600)"


@pytest.fixture
def two_ranks() -> Iterator[list[int]]:
    """The pids of a rank that computes, of one that waits, and of a child of ours that is no rank."""
    programs = [
        subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **extra})
        for program, extra in ((IDLE, {"RANK": "1"}), (BUSY, {"RANK": "0"}), (IDLE, {}))
    ]
    yield [programs[1].pid, programs[0].pid]
    for program in programs:
        program.kill()
        program.wait()


def test_each_rank_is_seen_with_its_share_of_the_machine_and_nothing_unknown_is_zero(
    two_ranks: list[int],
) -> None:
    probe = SystemProbe()
    first = probe.look(os.getpid())
    assert first.cores_busy is None, "there is no span of time yet"
    assert first.memory_bytes
    deadline = time.monotonic() + 60
    while True:
        seen = probe.look(os.getpid())
        busy = [rank["cores"] or 0 for rank in seen.ranks]
        if len(busy) == 2 and busy[0] > 0.05 > busy[1]:
            break
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
    assert [rank["pid"] for rank in seen.ranks] == two_ranks
    assert [rank["rank"] for rank in seen.ranks] == [0, 1]
    assert all((rank["memory_bytes"] or 0) > 1_000_000 for rank in seen.ranks)
    assert [rank["device"] for rank in seen.ranks] == [None, None] or seen.devices
    assert seen.cores_busy
    probe.close()


def test_without_an_agent_the_machine_is_seen_all_the_same() -> None:
    seen = SystemProbe().look(None)
    assert seen.ranks == []
    assert seen.cores >= 1


@pytest.mark.parametrize(
    ("local_rank", "visible", "device"),
    [
        (1, None, 1),
        (1, "3,2", 2),
        (0, "GPU-bb", 3),
        (0, "", None),
        (4, "0,1", None),
        (9, None, None),
        (0, "GPU-", None),
    ],
)
def test_a_rank_computes_on_the_device_that_its_environment_names(
    local_rank: int, visible: str | None, device: int | None
) -> None:
    devices = {"0": 0, "1": 1, "2": 2, "3": 3, "GPU-aa11": 2, "GPU-bb22": 3}
    assert device_of(local_rank, visible, devices) == device


def test_a_look_is_asked_for_and_never_waited_for() -> None:
    looking = SystemWatch()
    assert looking.take(os.getpid(), 100.0) is None
    deadline = time.monotonic() + 60
    while (seen := looking.take(os.getpid(), 100.0)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert seen.cores >= 1
    looking.close()


@pytest.mark.gpu
def test_a_gpu_tells_its_power_heat_and_memory() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    (device, *_) = SystemProbe().look(None).devices
    assert device["name"]
    assert device["memory_total_bytes"]
    assert device["temperature_celsius"]
    assert device["power_watts"]


@pytest.mark.slow
def test_a_supervised_run_tells_of_its_ranks_and_looks_no_more_alive_for_it(daemons: Daemons) -> None:
    run = daemons.start(nproc=2)

    def has_rates(event: object) -> bool:
        return isinstance(event, SystemSampled) and [r["cores"] is not None for r in event.ranks] == [
            True,
            True,
        ]

    seen = watch(run, lambda record: has_rates(record.event), seconds=60)
    assert {record.stream for record in seen if isinstance(record.event, SystemSampled)} == {"system"}
    status = observe(run)
    assert status.cursors["system"] >= 2
    last = max(r.wall for r in seen if r.stream != "system")
    assert (status.updated_at or 0) >= last
