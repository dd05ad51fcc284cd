"""A run that listens on TCP: who has a key that was let in may do all, everybody else nothing. (48)"""

import random
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from tests.link.conftest import assert_each_once_and_in_order
from tests.supervisor.conftest import (
    END_SECONDS,
    Daemons,
    follow,
    kill_and_wait,
    kind_is,
    state_is,
    wait_until,
    wait_until_over,
    watch,
)
from trainer_daemon.contract.errors import NotFoundError, RefusedError, SpecError
from trainer_daemon.contract.rundir import recorded_sockets, runs_folder
from trainer_daemon.contract.wire import VERSION, Request, encode
from trainer_daemon.link.client import Link, request_log, send_command
from trainer_daemon.link.far import FarFeed
from trainer_daemon.link.keys import KeyPair, allow, allowed_keys, key_from_hex, make_keys, own_keys, revoke
from trainer_daemon.link.tcp import Visit
from trainer_daemon.link.ways import CurveWay, Place, SocketName
from tui.errands import Errand


@pytest.fixture
def listen() -> str:
    """An address of this machine with two free ports. Between this look and the supervisor's someone could take one, but
    where all of 127.0.0.0/8 is this machine nobody else comes to think of this address."""
    chance = random.SystemRandom()
    host = "127.0.0.1"
    if sys.platform == "linux":
        host = f"127.{chance.randrange(1, 255)}.{chance.randrange(1, 255)}.{chance.randrange(1, 255)}"
    while True:
        port = chance.randrange(20_000, 30_000)
        try:
            for one in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind((host, one))
        except OSError:
            continue
        return f"{host}:{port}"


@pytest.fixture
def keys(daemons: Daemons) -> KeyPair:
    """This machine's, made in the test's own home, and let in."""
    made = make_keys()
    allow("me", made.public)
    return made


def strangers_keys() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(z85.decode(public), z85.decode(secret))


def way(listen: str, server: KeyPair, own: KeyPair) -> CurveWay:
    return CurveWay.parse(f"tcp://{server.public.hex()}@{listen}", own)


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    with zmq.Context() as made:
        yield made


def gets_nothing(
    context: "zmq.Context[zmq.Socket[bytes]]",
    connect: Callable[["zmq.Socket[bytes]", SocketName], None],
    name: SocketName,
) -> bool:
    """Whether a socket is turned away without having heard anything."""
    is_turned_away = False
    kind = zmq.DEALER if name == "ctl" else zmq.SUB
    with context.socket(kind) as made, made.get_monitor_socket() as monitor:
        made.linger = 0
        if kind == zmq.SUB:
            made.setsockopt(zmq.SUBSCRIBE, b"")
        connect(made, name)
        if kind == zmq.DEALER:
            made.send(encode(Request(VERSION, "x", "ping")))
        deadline = time.monotonic() + END_SECONDS
        while not is_turned_away and time.monotonic() < deadline:
            if monitor.poll(100):
                event: Any = recv_monitor_message(monitor)["event"]
                assert event != zmq.Event.HANDSHAKE_SUCCEEDED
                is_turned_away = event == zmq.Event.DISCONNECTED or "FAILED" in event.name
        made.disable_monitor()
        return is_turned_away and not made.poll(0)


def test_a_run_is_watched_and_steered_over_tcp(daemons: Daemons, keys: KeyPair, listen: str) -> None:
    run = daemons.start(listen=listen)
    with Visit(way(listen, keys, keys)) as visit:
        far = visit.open()
        assert far.name == "a"
        assert far.read_spec() == run.read_spec()
        errand = Errand(far, ["prune", far.name])
        errand.join(END_SECONDS)
        assert errand.has_failed, "here it would have pruned a run of this machine that has the same name"
        assert "prune does not go over TCP" in errand.said
        with FarFeed(far, {}) as feed:
            seen = follow(feed, kind_is("train_step"))
            assert feed.link_state == "live"
            assert "rank 0 of attempt 1 is up" in request_log(far, "rank-0", 0)[0]
            send_command(far, "pause")
            seen += follow(feed, lambda r: r.kind == "command_done")
            send_command(far, "stop")
            seen += follow(feed, state_is("stopped"))
            assert_each_once_and_in_order(run, seen)
            wait_until_over(run, daemons.pid)
            deadline = time.monotonic() + END_SECONDS
            while far.supervisor_is_alive() and time.monotonic() < deadline:
                feed.poll(0.1)
            assert visit.has_ended
    assert not far.path.exists()


def test_others_are_turned_away_and_those_of_this_machine_served_as_before(
    daemons: Daemons, keys: KeyPair, listen: str, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    run = daemons.start(listen=listen)
    stranger = strangers_keys()
    ways = {
        "without a key": lambda made, name: made.connect(Place.parse(listen).endpoint(name)),
        "with a key that nobody knows": way(listen, keys, stranger).connect,
        "to a machine that this one is not": way(listen, stranger, keys).connect,
    }
    names: tuple[SocketName, ...] = ("ctl", "ev")
    for what, connect in ways.items():
        for name in names:
            assert gets_nothing(context, connect, name), what
    with Link.to(run) as here, Link(way(listen, keys, keys), "a") as there:
        assert here.request("ping") == there.request("ping") == {}


def test_who_is_not_let_in_is_told_how_to_be_and_then_is(
    daemons: Daemons, keys: KeyPair, listen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemons.start(listen=listen)
    stranger = strangers_keys()
    monkeypatch.setattr("trainer_daemon.link.client.ANSWER_SECONDS", 0.2)
    with Visit(way(listen, keys, stranger)) as visit:
        with pytest.raises(RefusedError, match=f"llmctl keys allow NAME {stranger.public.hex()}"):
            visit.open()
        allow("them", stranger.public)
        with Link(visit.way, "a") as link:
            assert link.request("ping", timeout_seconds=END_SECONDS) == {}
    revoke("them")
    with Link(way(listen, keys, stranger), "a") as link, pytest.raises(Exception, match="did not answer"):
        link.request("ping", timeout_seconds=0.3, tries=1)


def test_sockets_of_this_machine_are_made_anew_beside_those_on_tcp(
    daemons: Daemons, keys: KeyPair, listen: str
) -> None:
    run = daemons.start(listen=listen)
    before = recorded_sockets(run)
    shutil.rmtree(before)
    wait_until((before / "ctl").exists, "the sockets are not made anew")
    with Link.to(run) as here, Link(way(listen, keys, keys), "a") as there:
        assert here.request("ping") == there.request("ping") == {}


def test_a_new_supervisor_listens_when_it_is_told_to(daemons: Daemons, keys: KeyPair, listen: str) -> None:
    run = daemons.start(listen=listen)
    watch(run, kind_is("train_step"))
    kill_and_wait(daemons.pid)
    daemons.resume(run)
    assert psutil.Process(daemons.pid).net_connections(kind="inet") == [], "not unless it is told to"
    kill_and_wait(daemons.pid)
    daemons.ask({"resume": str(run.path), "listen": listen})
    with Link(way(listen, keys, keys), "a") as link:
        assert link.request("ping") == {}


def test_without_keys_or_a_plain_address_nothing_is_started(daemons: Daemons, listen: str) -> None:
    with pytest.raises(RefusedError, match="llmctl keys make"):
        daemons.start(listen=listen)
    make_keys()
    for everywhere in ("0.0.0.0:7700", "[::]:7700"):
        with pytest.raises(SpecError, match="every network"):
            daemons.start(listen=everywhere)
    for wrong in ("*:7700", "here", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65535", "tcp://127.0.0.1:7700"):
        with pytest.raises(SpecError, match="should look like HOST:PORT"):
            daemons.start(listen=wrong)
    with socket.socket() as taken:
        place = Place.parse(listen)
        taken.bind((place.host, place.port + 1))
        taken.listen()
        told = rf"cannot listen on {re.escape(place.host)}, port \d+: Address already in use"
        with pytest.raises(RefusedError, match=told):
            daemons.start(listen=listen)
    assert not list(runs_folder().glob("*")), "no run was begun"


def test_keys_are_made_once_and_for_their_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    made = make_keys()
    assert make_keys() == own_keys() == made
    assert made.secret.hex() not in repr(made)
    secret = tmp_path / "keys" / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert [p.name for p in secret.parent.iterdir()] == ["secret"]
    secret.chmod(0o640)
    with pytest.raises(RefusedError, match="only you can read"):
        own_keys()


def test_only_what_is_a_key_under_a_name_lets_someone_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    key = strangers_keys().public
    allow("laptop", key)
    (tmp_path / "keys" / "allowed" / "broken").write_text("no key")
    assert allowed_keys() == {"laptop": key}
    for wrong in ("", "ab", "A" * 64, f"{'a' * 64}\n"):
        with pytest.raises(SpecError, match="64 digits"):
            key_from_hex(wrong)
    with pytest.raises(SpecError, match="is no name"):
        allow("../../x", key)
    with pytest.raises(NotFoundError, match="these are: laptop"):
        revoke("desk")
    revoke("laptop")
    assert allowed_keys() == {}
