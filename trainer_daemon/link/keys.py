"""The CURVE keys of this machine's user, and of those who may watch and steer their runs over TCP.

    $LLMCTL_HOME/keys/  secret          ours, 64 hexadecimal digits, mode 0600
                        allowed/NAME    the public key of someone who is let in

A public key is written in hexadecimal, not in ZeroMQ's Z85, whose signs a shell and a URL take for their own.
"""

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trainer_daemon.contract.errors import NotFoundError, RefusedError, SpecError
from trainer_daemon.contract.rundir import NAME_PATTERN, home, write_durably

KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """32 bytes each, as ZeroMQ takes them."""

    public: bytes
    secret: bytes = field(repr=False)


def make_keys() -> KeyPair:
    """Our keys, made when there are none. Raises RefusedError as `own_keys` does."""
    import zmq
    from zmq.utils import z85

    path = _secret_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".secret-{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _, secret = zmq.curve_keypair()
        os.write(fd, z85.decode(secret).hex().encode() + b"\n")
        os.fsync(fd)
        with suppress(FileExistsError):  # whoever was first has made them
            os.link(draft, path)
    finally:
        os.close(fd)
        draft.unlink()
    return own_keys()


def own_keys() -> KeyPair:
    """Raises RefusedError when there are none, or when others may read the secret one."""
    import zmq
    from zmq.utils import z85

    path = _secret_file()
    try:
        info = path.lstat()
    except FileNotFoundError as e:
        raise RefusedError("there are no keys yet; make them with: llmctl keys make") from e
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise RefusedError(f"{path} must be a file that only you can read; remove it and make new keys")
    secret = key_from_hex(path.read_text().strip())
    return KeyPair(z85.decode(zmq.curve_public(z85.encode(secret))), secret)


def key_from_hex(text: str) -> bytes:
    """Raises SpecError for what is no key."""
    if not KEY.fullmatch(text):
        raise SpecError(
            f"a key has 64 digits from 0 to f, as llmctl keys make tells it; got {len(text)} signs"
        )
    return bytes.fromhex(text)


def allow(name: str, key: bytes) -> None:
    """Let the owner of a public key in from now on. Raises SpecError for a name that is none."""
    path = _allowed_file(name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(path, key.hex().encode() + b"\n")


def revoke(name: str) -> None:
    """Let no new connection of that key in. Raises NotFoundError when nobody has that name."""
    try:
        _allowed_file(name).unlink()
    except FileNotFoundError as e:
        names = ", ".join(allowed_keys()) or "nobody"
        raise NotFoundError(f'"{name}" is not let in; these are: {names}') from e


def allowed_keys() -> dict[str, bytes]:
    """Who may watch and steer runs, by name. A file that holds no key lets nobody in."""
    found: dict[str, bytes] = {}
    for path in sorted((home() / "keys" / "allowed").glob("*")):
        if NAME_PATTERN.fullmatch(path.name):
            with suppress(SpecError, OSError, UnicodeDecodeError):
                found[path.name] = key_from_hex(path.read_text().strip())
    return found


def _secret_file() -> Path:
    return home() / "keys" / "secret"


def _allowed_file(name: str) -> Path:
    if not NAME_PATTERN.fullmatch(name):
        raise SpecError(f'"{name}" is no name; use a-z, 0-9, dot, dash and underscore')
    return home() / "keys" / "allowed" / name
