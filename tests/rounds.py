"""How often the fault tests repeat what they do: a few times in CI, under `make fault` as often as is promised."""

import os

IS_FULL = os.environ.get("LLMCTL_FAULTS") == "full"


def rounds(quick: int, full: int) -> int:
    """How often a fault is repeated: `full` under `make fault`."""
    return full if IS_FULL else quick
