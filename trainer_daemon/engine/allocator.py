"""Keeps the memory that a training step frees, so that the next step does not fault it in again.

glibc hands large blocks back to the kernel at every free; a step on a CPU then touches tens of thousands of fresh pages
(40,000 at 8192 tokens x width 128, a tenth of the step on an idle machine, half of it in a virtual machine under
memory pressure). GPU memory has PyTorch's own caching allocator.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER, _NO_BLOCKS = -1, 0
_TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Make this process keep freed memory for itself; False where the C library has no such switch.

    Call it once before tensors are made. The process stays at its peak resident size.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return all(
        mallopt(option, value) == 1
        for option, value in (
            (_M_MMAP_MAX, _NO_BLOCKS),  # large blocks from the heap too, not each from a mapping of its own
            (_M_TRIM_THRESHOLD, _NEVER),
            (_M_TOP_PAD, _TOP_PAD_BYTES),
        )
    )
