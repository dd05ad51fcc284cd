"""Runs of another machine: through a stand-in that forwards as ssh does, and through the system's own ssh to a real server."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.link.conftest import Way, assert_each_once_and_in_order
from tests.supervisor.conftest import Daemons, follow, state_is, wait_until, wait_until_over
from trainer_daemon.contract.errors import NotFoundError, RefusedError, SpecError
from trainer_daemon.contract.events import TrainStep
from trainer_daemon.contract.history import read_history
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import recorded_sockets
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import send_command
from trainer_daemon.link.far import FarFeed
from trainer_daemon.link.ssh import Address, Tunnel


def steps_beyond(step: int) -> Callable[[Record], bool]:
    return lambda r: isinstance(r.event, TrainStep) and r.event.step > step


def last_step(seen: list[Record]) -> int:
    return max(r.event.step for r in seen if isinstance(r.event, TrainStep))


def lose_the_link(tunnel: Tunnel) -> int:
    """Kill ssh in its work; returns its pid."""
    assert tunnel._ssh is not None
    pid = tunnel._ssh.pid
    os.kill(pid, signal.SIGKILL)
    return pid


def steer_and_lose(daemons: Daemons, way: Way) -> None:
    """The story that both ways are held to."""
    run = daemons.start()
    with Tunnel(Address.parse(way.url)) as tunnel:
        far = tunnel.open()
        assert far.name == "a"
        assert far.path != run.path
        assert list(read_history(far.journal)), "what was before is here at once"
        with FarFeed(far, {}) as feed:
            seen = follow(feed, steps_beyond(5))
            assert feed.link_state == "live"
            for _ in range(2):
                killed = lose_the_link(tunnel)
                seen += follow(feed, steps_beyond(last_step(seen) + 30))
                wait_until(
                    lambda killed=killed: tunnel._ssh is not None and tunnel._ssh.pid != killed,  # type: ignore[misc]
                    "ssh was not started anew",
                )
            send_command(far, "stop")
            seen += follow(feed, state_is("stopped"))
    assert_each_once_and_in_order(run, seen)
    assert not far.path.exists(), "nothing of it is left here"


@pytest.mark.fault
def test_a_far_run_is_steered_and_heard_whole_though_its_link_is_killed(daemons: Daemons, way: Way) -> None:
    steer_and_lose(daemons, way)


@pytest.mark.fault
def test_the_same_holds_through_the_systems_own_ssh(daemons: Daemons, real_way: Way) -> None:
    steer_and_lose(daemons, real_way)


@pytest.mark.fault
def test_a_run_that_ends_while_the_link_is_down_is_read_to_its_end(daemons: Daemons, way: Way) -> None:
    run = daemons.start()
    with Tunnel(Address.parse(way.url)) as tunnel:
        far = tunnel.open()
        with FarFeed(far, {}) as feed:
            seen = follow(feed, steps_beyond(5))
            way.down.touch()
            lose_the_link(tunnel)
            wait_until(lambda: "No route to host, again in" in tunnel.words, "the trouble was not told")
            assert far.supervisor_is_alive(), "what is not heard is not taken for dead"
            send_command(run, "stop")
            wait_until_over(run, daemons.pid)
            way.down.unlink()
            seen += follow(feed, state_is("stopped"))

            def is_read_from_disk() -> bool:
                # the last word may be here before it is known that nobody follows it
                seen.extend(feed.poll(0.05))
                return feed.link_state == "disk"

            wait_until(is_read_from_disk, "the end of its supervisor was not noticed")
            wait_until(lambda: tunnel.words == "me@box", "the trouble is over")
            assert observe(far).state == "stopped"
    assert_each_once_and_in_order(run, seen)


def test_what_is_said_to_ssh(daemons: Daemons, way: Way) -> None:
    run = daemons.start()
    with (
        Tunnel(Address.parse("ssh://me@box:2222/a", program="/opt/llmctl/bin/llmctl")) as tunnel,
        pytest.raises(RefusedError, match=r"no /opt/llmctl/bin/llmctl on me@box where ssh looks"),
    ):
        tunnel.open()
    with Tunnel(Address.parse("ssh://me@box:2222/@last")) as tunnel:
        far = tunnel.open()
        here = recorded_sockets(far)
    there = recorded_sockets(run)
    _, status, history, forwarding = way.commands()
    assert status[-5:] == ["-p", "2222", "me@box", "--", "llmctl status @last --json"]
    assert history[-1] == "llmctl events a --raw"
    assert forwarding[-7:] == [
        "-L", f"{here}/ev:{there}/ev", "-L", f"{here}/ctl:{there}/ctl", "-p", "2222", "me@box",
    ]  # fmt: skip
    for option in ("-N", "ExitOnForwardFailure=yes", "StreamLocalBindUnlink=yes", "ServerAliveInterval=5"):
        assert option in forwarding


def test_what_the_other_machine_answers_is_told_with_its_name(daemons: Daemons, way: Way) -> None:
    run = daemons.start(steps=20)
    wait_until_over(run, daemons.pid)
    with (
        Tunnel(Address.parse("ssh://box/nosuch")) as tunnel,
        pytest.raises(NotFoundError, match=r'^box: "nosuch" names no run'),
    ):
        tunnel.open()
    way.down.touch()
    with (
        Tunnel(Address.parse(way.url)) as tunnel,
        pytest.raises(
            RefusedError, match=r"^ssh me@box: ssh: connect to host box port 22: No route to host$"
        ),
    ):
        tunnel.open()


@pytest.mark.parametrize("folder", ["/run/a:b", "/run/a b", "/run/%h", "/run/${HOME}", "/run/a\nb", "run/a"])
def test_a_path_that_ssh_would_misread_is_refused(folder: str) -> None:
    address = Address.parse("ssh://box/a")
    for here, there in ((folder, "/run/x"), ("/run/x", folder)):
        with pytest.raises(RefusedError, match="ssh cannot forward a socket in"):
            address.forward_command(Path(here), Path(there), may_ask=False)


@pytest.mark.parametrize(
    "url",
    [
        "ssh://box",
        "ssh://box/",
        "ssh:///demo",
        "ssh://-oProxyCommand=evil/demo",
        "ssh://-evil/demo",
        "ssh://box/demo;rm -rf",
        "ssh://box/$(evil)",
        "ssh://box/-evil",
        "ssh://me@-evil/demo",
        "ssh://box:x/demo",
        "ssh://a b/demo",
        "ssh://box/demo/../x",
    ],
)
def test_nothing_but_plain_names_reaches_the_other_sides_shell(url: str) -> None:
    with pytest.raises(SpecError, match="should look like"):
        Address.parse(url)


@pytest.mark.parametrize("program", ["llmctl; rm", "-evil", "$(evil)", "my llmctl", ""])
def test_the_other_sides_llmctl_is_a_plain_path(program: str) -> None:
    with pytest.raises(SpecError, match="is no plain path"):
        Address.parse("ssh://box/a", program)
