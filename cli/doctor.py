"""`doctor`: what this machine has and lacks for a run, each finding with what to do about it.

Nothing is guessed: a check does in small what a run does (a socket is bound, a file is written, torch is imported, in a
process of its own, so that a broken one cannot take this one along).
"""

import json as json_format
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cli.printing import out, out_json, size, terminal_width
from cli.references import JsonOption

TORCH_SECONDS = 120.0
ANSWER_SECONDS = 5.0
LITTLE_DISK_BYTES = 5e9
NO_DISK_BYTES = 200e6
LITTLE_SHARED_MEMORY_BYTES = 1e9
TORCH_REPORT = """
import json, torch
from trainer_daemon.engine.models.attention import choose_attention
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
here = torch.device("cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu")
attention = choose_attention("auto", here, torch.bfloat16, head_dim=128)
print(json.dumps({
    "attention": {"kernel": attention.kernel, "why": attention.why},
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "hip": torch.version.hip,
    "gpus": [{"name": g.name, "memory_bytes": g.total_memory, "capability": [g.major, g.minor]} for g in gpus],
    "mps": torch.backends.mps.is_available(),
    "threads": torch.get_num_threads(),
}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    status: Literal["ok", "warn", "fail"]
    """warn: a run works, with a drawback. fail: no run works before it is mended."""
    found: str
    advice: str = ""


def doctor(json: JsonOption = False) -> None:
    """Look this machine over, and say what it lacks.

    Exit 6 when no run could start.
    """
    from trainer_daemon.contract.errors import RefusedError

    findings: list[Finding] = []
    torch = read_torch()
    for check in checks(torch):
        for finding in check():
            findings.append(finding)
            if not json:
                out(finding_lines(finding, terminal_width()))
    failed = [f.name for f in findings if f.status == "fail"]
    if json:
        devices = _devices(torch)
        out_json(
            {"ok": not failed, "findings": [asdict(f) for f in findings], "torch": torch, "devices": devices}
        )
    if failed:
        raise RefusedError(f"no run can start here before this is mended: {', '.join(failed)}")


def finding_lines(finding: Finding, width: int | None) -> str:
    """A finding and its advice, every further line below the first one's words; `width`: of the terminal, None breaks nothing."""
    head = f"{finding.status:5} {finding.name:14} "
    lines = [finding.found, *([finding.advice] if finding.advice else [])]
    room = None if width is None else max(20, width - len(head))
    broken = [
        part
        for line in lines
        for part in (
            textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) if room else [line]
        )
    ]
    return head + f"\n{'':{len(head)}}".join(broken)


def checks(torch: dict[str, Any]) -> list[Callable[[], Iterator[Finding]]]:
    """All checks, in the order in which a run would stumble over them."""
    return [
        check_python,
        lambda: check_torch(torch),
        lambda: check_devices(torch),
        lambda: check_attention(torch),
        check_compiler,
        check_home,
        check_disk,
        check_sockets,
        check_shared_memory,
        check_sessions,
        check_terminal,
    ]


def read_torch() -> dict[str, Any]:
    """What torch says of itself, or `{"error": …}`."""
    command = [sys.executable, "-P", "-c", TORCH_REPORT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"importing it took more than {TORCH_SECONDS:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"it ended with {done.returncode}"}
    report: dict[str, Any] = json_format.loads(done.stdout)
    return report


def check_python() -> Iterator[Finding]:
    version = platform.python_version()
    fits = (3, 11) <= sys.version_info < (3, 14)
    yield Finding(
        "python",
        "ok" if fits else "fail",
        f"{version} ({sys.executable})",
        "" if fits else "use Python 3.11 to 3.13",
    )


def check_torch(torch: dict[str, Any]) -> Iterator[Finding]:
    if "error" in torch:
        yield Finding("torch", "fail", f"cannot be imported: {torch['error']}", "pip install torch")
        return
    built = (
        f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "CPU only"
    )
    yield Finding("torch", "ok", f"{torch['version']}, built for {built}")


def check_devices(torch: dict[str, Any]) -> Iterator[Finding]:
    from cli.machine import nvidia_gpus
    from trainer_daemon.contract.hardware import usable_cores

    driver_sees = nvidia_gpus()
    devices = _devices(torch)
    if not devices:
        if driver_sees and "error" not in torch:
            advice = "install a torch built for CUDA: https://pytorch.org/get-started/locally"
            found = f"the driver shows {len(driver_sees)} x {driver_sees[0].name}, torch sees none"
            yield Finding("devices", "fail", found, advice)
            return
        kind = "Apple GPU (mps)" if torch.get("mps") else f"no GPU, {usable_cores()} CPU cores"
        yield Finding(
            "devices", "ok", kind, "" if torch.get("mps") else "enough for: llmctl run --preset stories"
        )
        return
    for i, gpu in enumerate(devices):
        peak = gpu["peak_flops"]
        told = f"{peak / 1e12:,.0f} TFLOP/s in bf16" if peak else "peak unknown"
        is_new = gpu["capability"] >= [8, 0]
        advice = "" if peak else "MFU stays unknown: this GPU's peak is not in the table"
        if not is_new:
            advice = (
                "older than compute capability 8.0: no bf16, no flash attention; it trains in fp32, slowly"
            )
        found = f"{gpu['name']}, {size(gpu['memory_bytes'])}, {told}"
        yield Finding(f"gpu {i}", "ok" if peak and is_new else "warn", found, advice)


def check_attention(torch: dict[str, Any]) -> Iterator[Finding]:
    """The kernel that `runtime.attention=auto` comes to, by the engine's own choice."""
    if "attention" not in torch:
        return
    kernel, why = torch["attention"]["kernel"], torch["attention"]["why"]
    # SDPA on a GPU leaves its flash kernel for one with a mask as soon as a layer has a window
    is_slow = kernel == "sdpa" and bool(torch["gpus"])
    advice = "layers with a window train slowly: pip install triton" if is_slow else ""
    yield Finding("attention", "warn" if is_slow else "ok", f"{kernel}: {why}", advice)


def _devices(torch: dict[str, Any]) -> list[dict[str, Any]]:
    from trainer_daemon.contract.hardware import bf16_peak_flops

    return [{**gpu, "peak_flops": bf16_peak_flops(gpu["name"])} for gpu in torch.get("gpus", [])]


def check_compiler() -> Iterator[Finding]:
    from trainer_daemon.engine.native import find_compiler

    found = find_compiler()
    if found:
        yield Finding("compiler", "ok", found)
    else:
        advice = "the CPU's loss kernel and torch.compile need one; runs go on without, more slowly: apt install g++"
        yield Finding("compiler", "warn", "no C++ compiler on PATH", advice)


def check_home() -> Iterator[Finding]:
    from trainer_daemon.contract.rundir import home

    try:
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=home()):
            pass
    except OSError as e:
        yield Finding(
            "home", "fail", f"{home()}: {e.strerror}", "set LLMCTL_HOME to a folder that you may write to"
        )
        return
    yield Finding(
        "home", "ok", f"{home()}{'' if os.environ.get('LLMCTL_HOME') else ' (LLMCTL_HOME is not set)'}"
    )


def check_disk() -> Iterator[Finding]:
    from cli.machine import nearest_existing
    from trainer_daemon.contract.rundir import home

    free = shutil.disk_usage(nearest_existing(home())).free
    status: Literal["ok", "warn", "fail"] = (
        "fail" if free < NO_DISK_BYTES else "warn" if free < LITTLE_DISK_BYTES else "ok"
    )
    advice = (
        "" if status == "ok" else "checkpoints need room (see: llmctl plan); free some or set LLMCTL_HOME"
    )
    yield Finding("disk", status, f"{size(free)} free", advice)


def check_sockets() -> Iterator[Finding]:
    import socket

    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.rundir import home, socket_folder

    folder = None
    try:
        folder = socket_folder(home() / "doctor")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(folder / "probe"))
        (folder / "probe").unlink()
    except (OSError, RefusedError) as e:
        # a path over 107 bytes is among the reasons
        yield Finding(
            "sockets",
            "fail",
            f"{folder or 'no folder'}: {e}",
            "set XDG_RUNTIME_DIR to a short path of your own",
        )
        return
    finally:
        if folder is not None and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    yield Finding("sockets", "ok", str(folder.parent))


def check_shared_memory() -> Iterator[Finding]:
    place = Path("/dev/shm")  # noqa: S108  # not a temporary file of ours: what NCCL and gloo use between ranks
    if not place.is_dir():
        return
    total = shutil.disk_usage(place).total
    if total < LITTLE_SHARED_MEMORY_BYTES:
        advice = "several ranks may fail; start the container with --shm-size=8g or --ipc=host"
        yield Finding("shared memory", "warn", f"{size(total)} at {place}", advice)
    else:
        yield Finding("shared memory", "ok", f"{size(total)} at {place}")


def check_sessions() -> Iterator[Finding]:
    """Whether a run outlives a logout: logind may be set to end what a user leaves behind."""
    from trainer_daemon.supervisor.scope import scope_command

    kills = _ask(
        "busctl get-property org.freedesktop.login1 /org/freedesktop/login1"
        " org.freedesktop.login1.Manager KillUserProcesses"
    )
    bus = Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")) / "bus"
    has_bus = "a user bus" if bus.exists() else "no user bus"
    if scope_command():
        has_bus += ", runs get a systemd scope of their own"
    if kills is None:
        yield Finding("logout", "ok", f"no systemd-logind answers, {has_bus}: nothing ends a run at logout")
    elif "true" not in kills:
        yield Finding("logout", "ok", f"KillUserProcesses=no, {has_bus}: runs outlive a logout")
    elif "yes" in (_ask(f"loginctl show-user {os.getuid()} --property=Linger") or ""):
        yield Finding(
            "logout", "ok", f"KillUserProcesses=yes, but you linger, {has_bus}: runs outlive a logout"
        )
    else:
        found = f"KillUserProcesses=yes and no lingering, {has_bus}: a logout ends your runs"
        yield Finding("logout", "warn", found, "loginctl enable-linger")


def _ask(command: str) -> str | None:
    """What a small command prints; None when it is not there or fails."""
    try:
        done = subprocess.run(
            command.split(), capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def check_terminal() -> Iterator[Finding]:
    term, encoding = os.environ.get("TERM", ""), (sys.stdout.encoding or "").lower()
    where = "tmux" if os.environ.get("TMUX") else "ssh" if os.environ.get("SSH_CONNECTION") else "here"
    found = f"{term or 'none'}, {encoding or 'no encoding'}, {where}"
    if "utf" not in encoding:
        yield Finding("terminal", "warn", found, "the cockpit draws with Unicode: export LANG=C.UTF-8")
    elif where == "ssh":
        yield Finding(
            "terminal", "ok", found, "a lost connection ends the cockpit, not the run: llmctl attach"
        )
    elif where == "tmux" and not term.startswith(("tmux", "screen")):
        yield Finding("terminal", "warn", found, "in tmux TERM should be tmux-256color")
    else:
        yield Finding("terminal", "ok", found)
