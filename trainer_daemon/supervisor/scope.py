"""A systemd scope of its own for a daemon, where the user has a systemd that gives one.

On systems that kill a user's processes at logout a session of one's own does not help: only what lies in another unit than
the login session is left alone, and that only for users who linger. `systemd-run --scope` moves itself there and becomes
the command, so pipes and standard input pass through. Where it does not work, which is normal in containers, the daemon
starts without one and nothing is said; `llmctl doctor` says which.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROBE_SECONDS = 3.0
SCOPE = ("systemd-run", "--user", "--scope", "--quiet", "--collect", "--")


def scope_command() -> tuple[str, ...]:
    """What to put before a command that is to have a scope of its own; nothing where that does not work."""
    if "SLURM_JOB_ID" in os.environ:  # what belongs to a job ends with the job, and must not leave its cgroup
        return ()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime or not (Path(runtime) / "bus").is_socket() or shutil.which(SCOPE[0]) is None:
        return ()
    return SCOPE if _works() else ()


def _works() -> bool:
    """Whether a command in a scope is run and can write to a pipe that it inherits, as the ready pipe of a daemon is."""
    answer, inherited = os.pipe()
    try:
        subprocess.run(
            # not sh: dash knows no descriptor above 9
            [*SCOPE, sys.executable, "-I", "-S", "-c", f"import os; os.write({inherited}, b'here')"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(inherited,),
            timeout=PROBE_SECONDS,
            check=True,
        )
        os.set_blocking(answer, False)
        return os.read(answer, 16) == b"here"
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        os.close(answer)
        os.close(inherited)
