"""Small C++ sources of ours, compiled on the machine that runs them and kept; and the compiler that torch is given.

A library is named by a hash of its source, the compiler and the CPU, and appears by a rename: ranks that compile the same
one at the same time both get a whole file, and a home shared by unlike machines holds one for each. There is no build
step, and nothing needs the headers of torch, which would take a compiler half a minute instead of half a second.
"""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")
"""Vector instructions of this very CPU, NaN kept; not -ffast-math, under which NaN would go unseen."""
COMPILE_SECONDS = 120.0
CPU_FACTS = ("model name", "flags", "CPU implementer", "CPU part", "Features")
"""The lines of /proc/cpuinfo that decide what -march=native means."""

WHOLE_OR_NOTHING = """\
#!/bin/sh
# Compiles under another name and renames: what torch finds in its cache is whole, whoever was killed meanwhile.
# A signal to all processes of a job is for the ranks: they save and leave, but not while their compiler falls.
trap '' TERM USR1 HUP
target= previous= left=$#
while [ "$left" -gt 0 ]; do
  argument=$1 left=$((left - 1))
  shift
  case "$previous $argument" in
    "-o -" | "-o /dev/"*) ;; # no file of anybody's
    "-o "*) target=$argument argument=$argument.$$.unfinished ;;
  esac
  previous=$argument
  set -- "$@" "$argument"
done
[ -n "$target" ] || exec {compiler} "$@"
{compiler} "$@" || {{
  code=$?
  rm -f "$target.$$.unfinished"
  exit "$code"
}}
exec mv -f "$target.$$.unfinished" "$target"
"""


class NativeError(Exception):
    """A library could not be had; the message is one line that says why. Every caller goes on without."""


def load_library(source: Path, folder: Path) -> ctypes.CDLL:
    """The compiled source, from `folder` where it is there already. Raises NativeError without a working compiler."""
    compiler = find_compiler()
    if compiler is None:
        raise NativeError("there is no C++ compiler on PATH")
    try:
        version = _output([compiler, "--version"])
        identity = "\n".join((source.read_text(), version, *FLAGS, platform.machine(), *cpu_facts()))
        library = folder / f"{source.stem}-{sha256(identity.encode()).hexdigest()[:16]}.so"
        if not library.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / library.name
                _output([compiler, *FLAGS, str(source), "-o", str(made)])
                made.replace(library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as e:
        raise NativeError(f"{compiler}: {_reason(e)}") from e


def give_torch_a_compiler_that_publishes(folder: Path) -> None:
    """From now on what torch.compile has compiled appears by a rename, too. Before torch's inductor is imported.

    torch lets the compiler write into its cache under the final name and takes what is there for finished: a kill in the
    middle left half a library, with which every later run of that model fell. See LOG.md, 2026-11-21, "A kill while
    torch compiles". Without a compiler, or with a folder that cannot be written, all stays as it is.
    """
    default = "clang++" if sys.platform == "darwin" else "g++"  # as torch chooses
    compiler = shutil.which(os.environ.get("CXX") or default)
    if compiler is None:
        return
    # torch tells compilers apart by their names; the path is part of what it names its files by, and so a lasting one
    wrapper = folder / f"whole-{sha256(compiler.encode()).hexdigest()[:8]}" / Path(compiler).name
    with suppress(OSError):
        if not wrapper.exists():
            wrapper.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile("w", dir=wrapper.parent, delete=False) as made:
                made.write(WHOLE_OR_NOTHING.format(compiler=shlex.quote(compiler)))
            Path(made.name).chmod(0o700)
            Path(made.name).replace(wrapper)
        os.environ["CXX"] = str(wrapper)


def find_compiler() -> str | None:
    """Path of the C++ compiler: $CXX, else the first of the usual names."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def cpu_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """What tells this CPU's instructions from another's; its bare name where Linux does not tell."""
    try:
        first_core = cpuinfo.read_text().split("\n\n", 1)[0]
    except OSError:
        return [platform.processor()]
    return [line for line in first_core.splitlines() if line.startswith(CPU_FACTS)]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=True)
    return done.stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if "error" in line] or ["it failed"]
        return str(lines[0].strip())
    return str(error)
