"""The run folder: where everything that a run is lies, and how to tell whether it lives.

    runs/NAME/  spec.json  state.json  run.lock  ranks.lock  sockets  journal/  logs/  checkpoints/  attempts/
                settings.json  origin.json      (once something was changed while it ran; when it was forked)

Life is decided by flock, never by a pid: the supervisor holds `run.lock` exclusively, every rank holds `ranks.lock`
shared, and the kernel lets go of both the moment they die. The sockets themselves are not here: a unix socket's path
may have 107 bytes at most, so they live in a 0700 runtime folder, and `sockets` says in which: that of whoever asks,
from cron, su or another container shell, may be another, and a logout removes it.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import stat
import tempfile
import time
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_daemon.contract.errors import NotFoundError, RefusedError, SpecError

if TYPE_CHECKING:
    from trainer_daemon.contract.spec import RunSpec

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
LOG_PATTERN = re.compile(r"supervisor|agent|rank-[0-9]{1,4}")
EVIDENCE_PATTERN = re.compile(r"evidence/[\w-]+\.json", re.ASCII)
STACKS_SIGNAL = signal.SIGUSR2
"""Makes a rank append the stacks of all its threads to its `rank_stacks` file."""
TRACE_SIGNAL: int | None = getattr(signal, "SIGRTMIN", None)
"""Makes a rank write torch's own record of its collectives to its `rank_trace` file; None where there is no such signal."""
DOOMED = ".deleted-"
"""What the folder of a run that is being deleted begins with; `NAME_PATTERN` passes over it."""
LOG_PART_BYTES = 256 * 1024
"""At most this much of a log in one piece."""


def home() -> Path:
    """Where everything lives: $LLMCTL_HOME, else $XDG_DATA_HOME/llmctl, else ~/.local/share/llmctl."""
    if explicit := os.environ.get("LLMCTL_HOME"):
        return Path(explicit).expanduser().absolute()
    data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data_home).expanduser().absolute() / "llmctl"


def check_name(name: str) -> str:
    """The name itself when it may name a run. Raises SpecError otherwise."""
    if not NAME_PATTERN.fullmatch(name) or ".." in name:
        near = re.sub(r"\.{2,}", ".", re.sub(r"[^a-z0-9._-]+", "-", name.lower())).strip("._-")[:63]
        raise SpecError(
            f"run name {name!r} is not allowed: use 1 to 63 of a-z, 0-9, dot, dash and underscore, "
            f'beginning with a letter or digit, without ".."' + (f"; for example {near}" if near else "")
        )
    return name


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec_file(self) -> Path:
        return self.path / "spec.json"

    @property
    def settings_file(self) -> Path:
        """What was changed while it ran; see `contract.settings`."""
        return self.path / "settings.json"

    @property
    def origin_file(self) -> Path:
        """Of a forked run: the fields of its `Forked` event."""
        return self.path / "origin.json"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def run_lock(self) -> Path:
        return self.path / "run.lock"

    @property
    def ranks_lock(self) -> Path:
        return self.path / "ranks.lock"

    @property
    def sockets_file(self) -> Path:
        """Where the supervisor's sockets are, as it wrote down: the path of their folder, in bytes."""
        return self.path / "sockets"

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def evidence(self) -> Path:
        """What alerts point at: one JSON file each."""
        return self.path / "evidence"

    @property
    def window(self) -> Path:
        """The token shards about the reader, of a run with data.live=window."""
        return self.path / "live"

    def attempt(self, number: int) -> Path:
        """Folder of one launch of the ranks: `result.json` and the ranks' error files."""
        return self.path / "attempts" / f"{number:04d}"

    def rank_log(self, rank: int) -> Path:
        return self.logs / f"rank-{rank}.log"

    def rank_stacks(self, attempt: int, rank: int) -> Path:
        """Where a rank was each time it was asked, see STACKS_SIGNAL."""
        return self.attempt(attempt) / f"rank-{rank}.stacks"

    def rank_flight(self, attempt: int, rank: int) -> Path:
        """What a rank was last doing with the others, see `flight.py`."""
        return self.attempt(attempt) / f"rank-{rank}.flight"

    def rank_trace(self, attempt: int, rank: int) -> Path:
        """torch's own record of a rank's collectives, see TRACE_SIGNAL."""
        return self.attempt(attempt) / f"rank-{rank}.torch-trace.json"

    @property
    def supervisor_log(self) -> Path:
        return self.logs / "supervisor.log"

    @property
    def agent_log(self) -> Path:
        return self.logs / "agent.log"

    def read_log(self, source: str, offset: int) -> tuple[str, int, int]:
        """Part of a log: (text, offset of what follows it, size of the file).

        `source` is rank-K, agent or supervisor, or what an alert names as its evidence. A negative offset counts from the end; one beyond it means that the file
        was begun anew, which is then read from its start. A log that is not there yet is empty. Raises NotFoundError for another source.
        """
        is_evidence = EVIDENCE_PATTERN.fullmatch(source) is not None
        if not is_evidence and not LOG_PATTERN.fullmatch(source):
            raise NotFoundError(f'"{source}" is no log; there are: supervisor, agent, rank-0, rank-1, …')
        try:
            with (self.path / source if is_evidence else self.logs / f"{source}.log").open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                start = max(0, size + offset) if offset < 0 else offset if offset <= size else 0
                file.seek(start)
                data = file.read(LOG_PART_BYTES)
        except FileNotFoundError:
            return "", 0, 0
        decoder = getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data)
        unfinished = len(decoder.getstate()[0])  # a character that the part's end cuts in two
        return text, start + len(data) - unfinished, size

    def read_spec(self) -> "RunSpec":
        """The frozen spec. Raises NotFoundError when the folder is not a run, SpecError when this version cannot read it."""
        # pydantic and its models take a fifth of a second, which a cockpit's first frame does not need
        from pydantic import ValidationError

        from trainer_daemon.contract.spec import RunSpec

        try:
            return RunSpec.model_validate_json(self.spec_file.read_bytes())
        except FileNotFoundError as e:
            raise NotFoundError(f"{self.path} is not a run: it has no spec.json") from e
        except ValidationError as e:
            raise SpecError(f"{self.spec_file} is damaged or was written by another version: {e}") from e

    def supervisor_is_alive(self) -> bool:
        return is_locked(self.run_lock)

    def ranks_are_alive(self) -> bool:
        return is_locked(self.ranks_lock, by_shared_holders=True)


def runs_folder() -> Path:
    return home() / "runs"


def all_runs() -> list[RunDir]:
    """Every run, the newest last."""
    # the pattern also passes over `.new-…`, the drafts of `create_run`
    folders = [
        p for p in runs_folder().glob("*") if NAME_PATTERN.fullmatch(p.name) and (p / "spec.json").is_file()
    ]
    return [RunDir(p) for p in sorted(folders, key=lambda p: ((p / "spec.json").stat().st_mtime_ns, p.name))]


def find_run(reference: str) -> RunDir:
    """The run called `reference`, a unique prefix of a name, or `@last`. Raises NotFoundError saying what there is."""
    runs = all_runs()
    if not runs:
        raise NotFoundError("there are no runs yet; start one with: llmctl run --preset stories")
    if reference == "@last":
        return runs[-1]
    exact = [r for r in runs if r.name == reference]
    # an empty reference is a shell variable that was not set: it must not mean the only run there is
    near = exact or [r for r in runs if reference and r.name.startswith(reference)]
    if len(near) == 1:
        return near[0]
    names = ", ".join(r.name for r in (near or runs)[-8:])
    problem = "means several runs" if near else "names no run"
    raise NotFoundError(f'"{reference}" {problem}; there {"are" if len(near or runs) > 1 else "is"}: {names}')


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint of another run that a new one begins with."""

    run: str
    """Name of the other run, or the folder that the checkpoint lies in."""
    step: int
    checkpoint: str
    """Its folder."""


def create_run(name: str, spec: "RunSpec", origin: Origin | None = None) -> tuple[RunDir, int]:
    """A new run folder, and its run.lock already held by this process: it appears whole and alive, or not at all.

    Raises RefusedError when the name is taken or the folder cannot be made.
    """
    check_name(name)
    final = runs_folder() / name
    draft: Path | None = None
    lock = -1
    try:
        final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = Path(tempfile.mkdtemp(prefix=".new-", dir=final.parent))
        run = RunDir(draft)
        for folder in (run.journal, run.logs, run.checkpoints):
            folder.mkdir()
        lock = hold_lock(run.run_lock)  # flock follows the inode through the rename
        write_durably(run.spec_file, spec.model_dump_json(indent=2).encode() + b"\n")
        if origin is not None:
            _begin_with(run, origin)
        draft.rename(final)  # fails on a folder that is there and not empty: the loser of a race sees it
    except OSError as e:
        if lock >= 0:
            os.close(lock)
        if draft:
            shutil.rmtree(draft, ignore_errors=True)
        if final.exists():
            raise RefusedError(
                f'a run named "{name}" exists; choose another --name, or: llmctl resume {name}'
            ) from e
        raise RefusedError(
            f"cannot create the run folder {final}: {e.strerror}; free space or set LLMCTL_HOME"
        ) from e
    fsync_folder(final.parent)
    return RunDir(final), lock


def _begin_with(run: RunDir, origin: Origin) -> None:
    """Put a checkpoint of another run where the ranks will look for one, and note where it comes from."""
    source = Path(origin.checkpoint)
    target = run.checkpoints / source.name
    target.mkdir()
    for file in source.iterdir():
        if file.name == "pinned" or file.is_symlink() or not file.is_file():
            continue
        try:  # a published file is never written to again, so two runs can share it
            os.link(file, target / file.name)
        except OSError:
            with (target / file.name).open("wb") as copy:
                with file.open("rb") as original:
                    shutil.copyfileobj(original, copy, 2**20)
                copy.flush()
                os.fsync(copy.fileno())
    fsync_folder(target)
    manifest = sha256((target / "MANIFEST.json").read_bytes()).hexdigest()
    write_json(run.origin_file, {"run": origin.run, "step": origin.step, "manifest_sha256": manifest})


def begins_with(run: RunDir, checkpoint: Path) -> bool:
    """Whether the run was forked from this checkpoint, which another one saved by its own spec."""
    try:
        origin = json.loads(run.origin_file.read_bytes())["manifest_sha256"]
        return bool(origin == sha256((checkpoint / "MANIFEST.json").read_bytes()).hexdigest())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def delete_run(run: RunDir) -> None:
    """Delete a run that nobody works on: by one rename it is none any more, whatever happens to the rest.

    Raises RefusedError while its supervisor or a rank is alive, or where the folder is only a link to one.
    """
    if run.path.is_symlink():
        raise RefusedError(f"{run.path} is a link to {run.path.resolve()}; delete the two by hand")
    if run.supervisor_is_alive() or run.ranks_are_alive():
        raise RefusedError(f"{run.name} is still going; first: llmctl stop {run.name}")
    lock = hold_lock(run.run_lock)  # nobody resumes it meanwhile
    try:
        doomed = Path(tempfile.mkdtemp(prefix=DOOMED, dir=run.path.parent))
        run.path.rename(doomed)  # takes the place of the empty folder
        fsync_folder(doomed.parent)
        for left in doomed.parent.glob(f"{DOOMED}*"):  # what a deletion that was killed has left, too
            with suppress(FileNotFoundError):  # another deletion is at it
                shutil.rmtree(left)
    finally:
        os.close(lock)


def bytes_of_its_own(run: RunDir) -> int:
    """What deleting the run frees: not the files that a fork of it shares."""
    sizes = (path.lstat() for path in run.path.rglob("*"))
    return sum(s.st_size for s in sizes if stat.S_ISREG(s.st_mode) and s.st_nlink == 1)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file so that a crash leaves the old or the new one whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_durably` for a JSON value."""
    write_durably(path, json.dumps(value, indent=1, allow_nan=False).encode() + b"\n")


def fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


PROBE_PATIENCE_SECONDS = 5.0
"""A probe holds a lock for microseconds, unless its process is preempted just then: on a full machine for a while."""


def hold_lock(path: Path, *, shared: bool = False, keeper_is_ending: bool = False) -> int:
    """Take a flock for the rest of this process's life; returns its descriptor. Raises RefusedError when it is held.

    A lock is kept in one mode, exclusively by one process or shared by many, and probed in the other; so what is in the
    way can be told apart, and a probe is waited for. `keeper_is_ending`: so is whoever keeps it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + PROBE_PATIENCE_SECONDS
    while not _lock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        is_kept = not shared and not keeper_is_ending and not _could_lock(fd, fcntl.LOCK_SH)
        if is_kept or time.monotonic() > deadline:
            os.close(fd)
            raise RefusedError(f"{path} is held by another process: this run is already going")
        time.sleep(0.001)
    return fd


def is_locked(path: Path, *, by_shared_holders: bool = False) -> bool:
    """Whether a process keeps the lock. A probe that finds it free holds it itself for some microseconds."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not by_shared_holders:
            return not _could_lock(fd, fcntl.LOCK_SH)
        # exclusive probes would take each other for a keeper, so they go one by one
        with _turn_at(path.parent):
            return not _could_lock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


@contextmanager
def _turn_at(folder: Path) -> Iterator[None]:
    """Alone among the probes of locks in `folder`, as long as each of them is awake."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + PROBE_PATIENCE_SECONDS
    try:
        while not _lock(fd, fcntl.LOCK_EX) and time.monotonic() < deadline:
            time.sleep(0.001)
        yield
    finally:
        os.close(fd)


def _could_lock(fd: int, how: int) -> bool:
    """Take the lock and let go of it at once; False when someone is in the way."""
    was_free = _lock(fd, how)
    if was_free:
        fcntl.flock(fd, fcntl.LOCK_UN)
    return was_free


def _lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def socket_folder(owner: Path) -> Path:
    """The 0700 folder for the sockets of a run folder or of a checkpoint, made when missing.

    Raises RefusedError when someone else could enter it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    temporary = Path(tempfile.gettempdir()) / f"llmctl-{os.getuid()}"
    root = Path(base) / "llmctl" if base and Path(base).is_dir() else temporary
    folder = root / sha256(str(owner.resolve()).encode()).hexdigest()[:12]
    for part in (root, folder):
        part.mkdir(mode=0o700, exist_ok=True)
        check_private(part)
    return folder


def record_sockets(run: RunDir, folder: Path) -> None:
    """Write down where the supervisor's sockets are, for `recorded_sockets`."""
    said = os.fsencode(folder)
    with suppress(FileNotFoundError):
        if run.sockets_file.read_bytes() == said:  # on a full disk a new supervisor must be able to take over
            return
    write_durably(run.sockets_file, said)


def recorded_sockets(run: RunDir) -> Path:
    """The folder of the sockets of the run's supervisor, as it wrote down. It may be gone, and the supervisor with it.

    Raises RefusedError when someone else could enter it.
    """
    try:
        folder = Path(os.fsdecode(run.sockets_file.read_bytes()))
    except FileNotFoundError:  # a supervisor that is about to write it, or one of before there was this file
        return socket_folder(run.path)
    with suppress(FileNotFoundError):
        check_socket_folder(folder)
    return folder


def check_socket_folder(folder: Path) -> None:
    """Raises RefusedError when someone else could enter it or put another in its place, FileNotFoundError when it is gone."""
    for part in (folder.parent, folder):
        check_private(part)


def check_private(folder: Path) -> None:
    """Raises RefusedError when it is not a folder that only this user can enter, FileNotFoundError when it is not there."""
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise RefusedError(
            f"{folder} must be a folder that only you can enter, but its owner is {info.st_uid} and its mode "
            f"{info.st_mode & 0o777:o}; remove it and try again"
        )
