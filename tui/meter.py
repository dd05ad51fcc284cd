"""What the cockpit costs: bytes to the terminal, frames, processor time, memory. Shown by D, for whoever doubts it."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from textual.driver import Driver

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Meter:
    """Counts since the last reading."""

    bytes_written: int = 0
    frames: int = 0
    _since: float = field(default_factory=time.monotonic)
    _processor: float = field(default_factory=time.process_time)

    def read(self) -> str:
        """The rates since it was read last, in words; begins anew."""
        now, processor = time.monotonic(), time.process_time()
        seconds = max(now - self._since, 1e-3)
        words = (
            f"{self.bytes_written / seconds:,.0f} B/s",
            f"{self.frames / seconds:.1f} frames/s",
            f"CPU {100 * (processor - self._processor) / seconds:.1f} %",
            f"{resident_bytes() / 1e6:.0f} MB",
        )
        self.bytes_written = self.frames = 0
        self._since, self._processor = now, processor
        return "  ".join(words)


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def metered(base: type[Driver], meter: Meter) -> type[Driver]:
    """A driver whose writes are counted."""

    class Metered(base):  # type: ignore[misc, valid-type]  # which driver it is, the platform decides
        def write(self, data: str) -> None:
            meter.bytes_written += len(data.encode("utf-8", "replace"))
            super().write(data)

    return Metered
