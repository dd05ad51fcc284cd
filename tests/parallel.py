"""Ranks of a test: one process each, with the environment that torchrun, or any launcher, sets."""

import os
import random
import socket
import subprocess


def free_port() -> int:
    """A port that nobody listens on, from below those that the kernel gives out, so that none else takes it meanwhile."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def in_parallel(command: list[str], world_size: int) -> None:
    """Run a command once a rank; every rank must end well."""
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
    }
    ranks = [
        subprocess.Popen(
            command, env=common | {"RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True
        )
        for r in range(world_size)
    ]
    try:
        for rank in ranks:
            _, error = rank.communicate(timeout=240)
            assert rank.returncode == 0, error
    finally:
        for rank in ranks:  # after a failure: they would wait for the one that is gone
            rank.kill()
            rank.wait()
