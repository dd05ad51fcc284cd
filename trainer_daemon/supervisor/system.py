"""What the machine does while ranks train: their processes by psutil, accelerators by NVIDIA's management library.

Looked at from outside, in a thread of its own: no rank is asked anything, and a driver that hangs, as one does whose GPU
has fallen off the bus, keeps this thread and nothing else. A look with eight ranks takes a few milliseconds every ten
seconds (BENCHMARKS.md); what cannot be had is None.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psutil

from trainer_daemon.contract.events import DeviceUse, RankUse, SystemSampled

SAMPLE_SECONDS = 10.0
FIRST_SECONDS = 2.0
"""To the second look of a launch: the first one has no span of time to tell rates of."""

T = TypeVar("T")


class SystemProbe:
    """Looks at one machine, again and again. For one thread."""

    def __init__(self) -> None:
        self._ranks: dict[int, _RankProcess] = {}
        self._busy_before: tuple[float, float] | None = None
        """(monotonic seconds, core seconds busy since boot) of the look before."""
        self._devices = _Devices()

    def look(self, agent_pid: int | None) -> SystemSampled:
        """What there is now; rates since the look before. `agent_pid`: whose children the ranks are."""
        memory = psutil.virtual_memory()
        return SystemSampled(
            cores_busy=self._cores_busy(),
            cores=os.cpu_count() or 1,
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            memory_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            ranks=self._rank_uses(agent_pid),
            devices=self._devices.uses(),
        )

    def close(self) -> None:
        self._devices.close()

    def _cores_busy(self) -> float | None:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user already
        now, busy = time.monotonic(), sum(times) - idle - guests
        before, self._busy_before = self._busy_before, (now, busy)
        return None if before is None else _rate(busy - before[1], now - before[0])

    def _rank_uses(self, agent_pid: int | None) -> list[RankUse]:
        """Of the agent's children that are ranks, in their order."""
        known, self._ranks = self._ranks, {}
        for process in _children(agent_pid):
            rank = known.get(process.pid)
            if rank is None or rank.process != process:
                rank = _RankProcess.of(process)
            if rank is not None:
                self._ranks[process.pid] = rank
        uses = [rank.use(self._devices.indices) for rank in self._ranks.values()]
        return sorted((use for use in uses if use is not None), key=lambda use: use["rank"])


class _RankProcess:
    """The process of one rank, and the processor time that it had at the last look."""

    def __init__(self, process: psutil.Process, environment: dict[str, str]) -> None:
        self.process = process
        self._rank = int(environment["RANK"])
        self._local_rank = int(environment.get("LOCAL_RANK", self._rank))
        self._visible = environment.get("CUDA_VISIBLE_DEVICES")
        self._before: tuple[float, float] | None = None

    @classmethod
    def of(cls, process: psutil.Process) -> "_RankProcess | None":
        """None for a process that is no rank."""
        try:
            return cls(process, process.environ())
        except (psutil.Error, OSError, KeyError, ValueError):
            return None

    def use(self, devices: dict[str, int]) -> RankUse | None:
        """None once it is gone."""
        try:
            with self.process.oneshot():
                times, memory = self.process.cpu_times(), self.process.memory_info().rss
        except (psutil.Error, OSError):
            return None
        now, spent = time.monotonic(), times.user + times.system
        before, self._before = self._before, (now, spent)
        return RankUse(
            rank=self._rank,
            pid=self.process.pid,
            cores=None if before is None else _rate(spent - before[1], now - before[0]),
            memory_bytes=memory,
            device=device_of(self._local_rank, self._visible, devices),
        )


def device_of(local_rank: int, visible: str | None, devices: dict[str, int]) -> int | None:
    """The driver's index of a rank's accelerator. `devices`: index by "0", "1", … and by UUID; `visible` is
    CUDA_VISIBLE_DEVICES, which counts in the driver's order on machines of equal GPUs."""
    names = [str(local_rank)] if visible is None else [name.strip() for name in visible.split(",")]
    place = 0 if visible is None else local_rank
    if not 0 <= place < len(names) or not names[place]:
        return None
    # a UUID may be cut short
    found = {
        index for name, index in devices.items() if name == names[place] or _is_cut_uuid(names[place], name)
    }
    return found.pop() if len(found) == 1 else None


def _is_cut_uuid(cut: str, name: str) -> bool:
    return cut.startswith("GPU-") and name.startswith(cut)


class _Devices:
    """NVIDIA's accelerators; none where there is no driver."""

    def __init__(self) -> None:
        self._handles: list[Any] | None = None
        self.indices: dict[str, int] = {}
        """Index by "0", "1", … and by UUID."""

    def uses(self) -> list[DeviceUse]:
        if self._handles is None:
            self._handles = self._open()
        return [_device_use(index, handle) for index, handle in enumerate(self._handles)]

    def _open(self) -> list[Any]:
        try:
            import pynvml

            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except Exception:  # noqa: BLE001  no library, no driver, no permission: there is none that we could look at
            return []
        for index, handle in enumerate(handles):
            self.indices[str(index)] = index
            if (uuid := _asked(pynvml.nvmlDeviceGetUUID, handle)) is not None:
                self.indices[_text(uuid)] = index
        return handles

    def close(self) -> None:
        if self._handles:
            import pynvml

            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _device_use(index: int, handle: Any) -> DeviceUse:
    import pynvml

    memory = _asked(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _asked(pynvml.nvmlDeviceGetUtilizationRates, handle)
    temperature = _asked(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    # drivers of before 535 know these as throttle reasons, by the same numbers
    reasons = _asked(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    heat = pynvml.nvmlClocksThrottleReasonSwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    return DeviceUse(
        index=index,
        name=_text(_asked(pynvml.nvmlDeviceGetName, handle) or "GPU"),
        utilisation=None if rates is None else rates.gpu / 100,
        memory_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        power_watts=_watts(_asked(pynvml.nvmlDeviceGetPowerUsage, handle)),
        power_limit_watts=_watts(_asked(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        temperature_celsius=None if temperature is None else float(temperature),
        is_slowed_by_heat=None if reasons is None else bool(reasons & heat),
    )


def _asked(question: Callable[..., T], *arguments: Any) -> T | None:
    """The driver's answer; None for a device that does not know it, as a MIG slice does not know its power."""
    import pynvml

    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _children(pid: int | None) -> Sequence[psutil.Process]:
    try:
        return [] if pid is None else psutil.Process(pid).children()
    except psutil.Error:
        return []


def _rate(amount: float, seconds: float) -> float | None:
    return max(0.0, amount / seconds) if seconds > 0 else None


class SystemWatch:
    """Looks every SAMPLE_SECONDS, in a thread. Whoever owns it asks for what was seen, and never waits for it."""

    def __init__(self) -> None:
        self._agent_pid: int | None = None
        self._is_due = threading.Event()
        self._is_closing = False
        self._seen: SystemSampled | None = None
        self._looks = 0
        self._next_look = 0.0
        self._thread: threading.Thread | None = None

    def take(self, agent_pid: int | None, now: float) -> SystemSampled | None:
        """What was seen since the last call, if anything was; and another look, when it is due. To be called while ranks
        live. `now`: monotonic seconds."""
        if agent_pid != self._agent_pid:
            self._agent_pid, self._looks, self._next_look = agent_pid, 0, now
        if now >= self._next_look:
            self._looks += 1
            self._next_look = now + (FIRST_SECONDS if self._looks == 1 else SAMPLE_SECONDS)
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="system watch", daemon=True)
                self._thread.start()
            self._is_due.set()
        seen, self._seen = self._seen, None
        return seen

    def close(self) -> None:
        """The thread ends when its look does; one that hangs in a driver dies with the process."""
        self._is_closing = True
        self._is_due.set()

    def _follow(self) -> None:
        probe = SystemProbe()
        while True:
            self._is_due.wait()
            self._is_due.clear()
            if self._is_closing:
                probe.close()
                return
            self._seen = probe.look(self._agent_pid)
