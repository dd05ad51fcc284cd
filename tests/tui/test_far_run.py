"""The cockpit on a run of another machine."""

import pytest

from tests.link.conftest import Way, way
from tests.link.test_ssh import lose_the_link
from tests.supervisor.conftest import Daemons, daemons
from tests.tui.test_cockpit import opened, until, words
from trainer_daemon.link.ssh import Address, Tunnel
from tui.app import Cockpit

__all__ = ["daemons", "way"]


@pytest.mark.fault
async def test_a_far_run_looks_like_one_of_this_machine_and_the_link_is_told(
    daemons: Daemons, way: Way
) -> None:
    daemons.start()
    with Tunnel(Address.parse(way.url)) as tunnel:
        async with Cockpit(tunnel.open()).run_test(size=(120, 40)) as pilot:
            screen = await opened(pilot)
            await until(pilot, lambda: "live · me@box" in words(screen) and "running" in words(screen))
            assert "loss nats" in words(screen)
            way.down.touch()
            lose_the_link(tunnel)
            await until(pilot, lambda: "link lost · me@box: No route to host, again in" in words(screen))
            lost_at = screen.state.status.step
            way.down.unlink()
            await until(pilot, lambda: "live · me@box" in words(screen))
            await until(pilot, lambda: screen.state.status.step > lost_at)
            await pilot.press("exclamation_mark", "y")
            await until(pilot, lambda: screen.state.status.state == "stopped")
            curve = screen.state.history.curve("loss_nats")
            assert curve is not None
            assert list(curve.x) == list(range(1, len(curve.x) + 1)), "no step is missing"
