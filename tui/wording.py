"""How the cockpit writes quantities that charts do not: whole counts, shares, sizes, times of day. Unknown is a dash."""

import time

UNKNOWN = "–"


def count(number: float | None) -> str:
    """1234567 -> 1,234,567."""
    return UNKNOWN if number is None else f"{number:,.0f}"


def fixed(value: float | None, decimals: int) -> str:
    return UNKNOWN if value is None or value != value else f"{value:.{decimals}f}"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None or share != share else f"{100 * share:.1f} %"


def size(number: float) -> str:
    """Bytes in decimal units, as disks are sold: 123.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def age(seconds: float) -> str:
    """How long ago, in its leading unit: <1m, 12m, 5h, 3d."""
    minutes = max(seconds, 0.0) / 60
    if minutes < 1:
        return "<1m"
    for unit, of_next in (("m", 60), ("h", 24)):
        if minutes < of_next:
            return f"{int(minutes)}{unit}"
        minutes /= of_next
    return f"{int(minutes)}d"


def clock(wall: float) -> str:
    """Local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(wall))


def bar(share: float, width: int) -> tuple[str, str]:
    """A progress bar of `width` cells as its done and its open part, to half a cell."""
    halves = round(min(max(share, 0.0), 1.0) * width * 2)
    full, half = divmod(halves, 2)
    return "━" * full + "╸" * half, "━" * (width - full - half)
