"""How a supervisor's two sockets are reached: in a folder of this machine, or over TCP with CURVE keys.

Nothing here loads zmq: a cockpit knows its way before its first frame, and the sockets come later.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from trainer_daemon.contract.errors import RefusedError, SpecError
from trainer_daemon.link.keys import KeyPair, key_from_hex

if TYPE_CHECKING:
    import zmq

SocketName = Literal["ctl", "ev"]
CALL_SECONDS = 2.0
PLACE = re.compile(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})", re.ASCII)
HIGHEST_PORT = 65534
"""The next one is for events."""


class Way(Protocol):
    """To one supervisor. Two ways are equal when they lead to the same place."""

    def connect(self, made: "zmq.Socket[bytes]", name: SocketName) -> None:
        """Connect a socket that was just made."""

    def answers_calls(self) -> bool:
        """Whether a process listens there. ZeroMQ would connect to nobody without a word."""


@dataclass(frozen=True, slots=True)
class UnixWay:
    """Unix sockets in a folder."""

    folder: Path

    def connect(self, made: "zmq.Socket[bytes]", name: SocketName) -> None:
        made.connect(f"ipc://{self.folder / name}")

    def answers_calls(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CALL_SECONDS)
            try:
                probe.connect(str(self.folder / "ctl"))
            except OSError:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Place:
    """Two TCP ports of one host: PORT for control, the next one for events."""

    host: str
    """A name or an address, an IPv6 address without its brackets."""
    port: int

    @classmethod
    def parse(cls, text: str) -> "Place":
        """`host:7700` or `[::1]:7700`. Raises SpecError for anything else."""
        match = PLACE.fullmatch(text)
        port = int(match["port"]) if match else 0
        if match is None or not 0 < port <= HIGHEST_PORT:
            raise SpecError(f'"{text}" should look like HOST:PORT, with a port from 1 to {HIGHEST_PORT}')
        return cls(match["host"].strip("[]"), port)

    def endpoint(self, name: SocketName) -> str:
        """As ZeroMQ takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port + (name == 'ev')}"

    def to_listen_on(self) -> "Place":
        """This place with its address in numbers.

        Raises SpecError for a wildcard, since a run is to be heard where it was said and nowhere else; RefusedError for
        a host that is not this machine, or ports that are taken.
        """
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as e:
            raise RefusedError(f"{self.host} has no address: {e.strerror}") from e
        family, *_, (address, *_) = found[0]
        if ipaddress.ip_address(str(address).partition("%")[0]).is_unspecified:
            raise SpecError(
                f"{self.host} means every network of this machine; name the address to listen on, or use ssh: "
                "llmctl attach ssh://HOST/RUN"
            )
        for port in (self.port, self.port + 1):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, port))
                except OSError as e:
                    raise RefusedError(f"cannot listen on {address}, port {port}: {e.strerror}") from e
        return Place(str(address), self.port)


@dataclass(frozen=True, slots=True)
class CurveWay:
    """TCP. Both sides prove by their keys who they are, and what passes is encrypted."""

    place: Place
    server_key: bytes
    """The public key of the machine that listens."""
    keys: KeyPair
    """Our own."""

    @classmethod
    def parse(cls, url: str, keys: KeyPair) -> "CurveWay":
        """`tcp://KEY@HOST:PORT`, as `--listen` told it. Raises SpecError for anything else."""
        key, at, place = url.removeprefix("tcp://").partition("@")
        if not at:
            raise SpecError(f'"{url}" should look like tcp://KEY@HOST:PORT, as llmctl run --listen told it')
        return cls(Place.parse(place), key_from_hex(key), keys)

    def connect(self, made: "zmq.Socket[bytes]", name: SocketName) -> None:
        made.ipv6 = ":" in self.place.host
        made.curve_serverkey = self.server_key
        made.curve_publickey, made.curve_secretkey = self.keys.public, self.keys.secret
        made.connect(self.place.endpoint(name))

    def answers_calls(self) -> bool:
        try:
            socket.create_connection((self.place.host, self.place.port), CALL_SECONDS).close()
        except OSError:
            return False
        return True
