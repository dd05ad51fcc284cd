"""What watchers hold equals the journal, whoever dies, stalls or talks nonsense meanwhile."""

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

import msgspec
import psutil
import pytest
import zmq

from tests.faults.conftest import rounds
from tests.supervisor.conftest import (
    Daemons,
    daemons,
    events,
    follow,
    kill_and_wait,
    kind_is,
    state_is,
    wait_until,
    wait_until_over,
    watch,
)
from trainer_daemon.contract.events import Command, Notice, TrainStep
from trainer_daemon.contract.journal import STREAMS, JournalReader, Record, read_all, segments
from trainer_daemon.contract.rundir import RunDir, recorded_sockets, socket_folder
from trainer_daemon.contract.wire import VERSION, Request, encode
from trainer_daemon.link.client import Feed, Link, send_command

__all__ = ["daemons"]

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]

WAIT_SECONDS = 300.0


def journal_of(run: RunDir) -> list[tuple[str, int, object]]:
    """Every record by stream and sequence."""
    found: list[tuple[str, int, object]] = []
    for stream in STREAMS:
        with JournalReader(run.journal, stream) as reader:
            while batch := reader.poll():
                found += [(r.stream, r.seq, r.event) for r, _ in batch]
    return found


def told_of_the_run(run: RunDir) -> list[tuple[str, int, object]]:
    """All but what the machine does, which is told from time to time whatever happens."""
    return [told for told in journal_of(run) if told[0] != "system"]


def is_notice(words: str) -> Callable[[Record], bool]:
    return lambda r: isinstance(r.event, Notice) and words in r.event.text


def test_five_stalling_watchers_of_a_run_whose_supervisor_is_killed_again_and_again_miss_nothing(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """36: 20 kills -9 under load, 20,000 events, five clients that stop reading now and then: all equal the journal."""
    monkeypatch.setenv("STEP_SECONDS", "0.001")
    kills, wanted = rounds(3, 20), rounds(2_000, 20_000)
    chance = random.Random(3)
    run = daemons.start(steps=10**9)
    feeds = [Feed(run) for _ in range(5)]
    seen: list[list[Record]] = [[] for _ in feeds]
    deadline = time.monotonic() + WAIT_SECONDS

    def read(patience: float) -> None:
        for feed, records in zip(feeds, seen, strict=True):
            if chance.random() < 0.5:  # the others stall, this time
                records += feed.poll(patience)

    for kill in range(1, kills + 1):
        while len(seen[0]) < kill * wanted // kills and time.monotonic() < deadline:
            read(0.02)
        kill_and_wait(daemons.pid)
        for _ in range(chance.randrange(5)):
            read(0.02)
        daemons.resume(run)
    while len(seen[0]) < wanted and time.monotonic() < deadline:
        read(0.02)
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    truth = sorted(journal_of(run), key=lambda r: r[:2])
    for feed, records in zip(feeds, seen, strict=True):
        while (batch := feed.poll(0.5)) or feed.link_state != "disk":
            records += batch
            assert time.monotonic() < deadline
        feed.close()
        assert sorted(((r.stream, r.seq, r.event) for r in records), key=lambda r: r[:2]) == truth
    assert len(truth) >= wanted
    print(f"{kills} kills, {len(truth)} events, 5 watchers equal to the journal")


def test_fifty_watchers_at_once_all_hold_what_the_journal_holds(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """34, by events instead of minutes: 10,000 steps."""
    monkeypatch.setenv("STEP_SECONDS", "0.002")
    run = daemons.start(steps=rounds(500, 10_000))
    deadline = time.monotonic() + WAIT_SECONDS
    with ExitStack() as attached:
        feeds = [attached.enter_context(Feed(run)) for _ in range(50)]
        seen: list[list[Record]] = [[] for _ in feeds]
        while run.supervisor_is_alive():
            for feed, records in zip(feeds, seen, strict=True):
                records += feed.poll(0)
            assert time.monotonic() < deadline
        truth = sorted(journal_of(run), key=lambda r: r[:2])
        for feed, records in zip(feeds, seen, strict=True):
            while (batch := feed.poll(0.05)) or feed.link_state != "disk":
                records += batch
                assert time.monotonic() < deadline
            assert sorted(((r.stream, r.seq, r.event) for r in records), key=lambda r: r[:2]) == truth


def test_thousands_of_connections_that_say_nothing_are_dropped_and_take_nothing_from_the_others(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """38: 10,000 half-open connections to a supervisor that was started where 256 files may be open: libzmq would have
    ended it at the 257th."""
    monkeypatch.setenv("FAULT", "sleepy")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = rounds(1_000, 10_000)
    if hard < connections + 1_000:
        pytest.skip(f"this user may open {hard} files")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        run = daemons.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        watch(run, kind_is("phase_changed"))
        supervisor, log = psutil.Process(daemons.pid), run.supervisor_log.read_bytes()
        before = supervisor.num_fds()
        with Link.to(run) as link, ExitStack() as silent:
            for number in range(connections):
                half_open = silent.enter_context(socket.socket(socket.AF_UNIX))
                half_open.connect(str(socket_folder(run.path) / ("ctl", "ev")[number % 2]))
            assert link.request("ping", timeout_seconds=60) == {}
            wait_until(lambda: supervisor.num_fds() < before + 20, "who says nothing is still held", 60)
            assert link.request("ping", timeout_seconds=60) == {}
            with Link.to(run) as newcomer:
                assert newcomer.request("ping", timeout_seconds=60) == {}
        assert run.supervisor_log.read_bytes() == log, "no traceback"
        assert supervisor.memory_info().rss < 100 * 2**20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_million_nonsensical_frames_and_a_hundred_thousand_raw_connections_change_nothing(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """37: no crash, no traceback, no state change, pings answered, memory and descriptors bounded."""
    monkeypatch.setenv("FAULT", "sleepy")
    run = daemons.start()
    watch(run, kind_is("phase_changed"))
    supervisor = psutil.Process(daemons.pid)
    frames, connections = rounds(20_000, 1_000_000), rounds(1_000, 100_000)
    before, log = told_of_the_run(run), run.supervisor_log.read_bytes()
    dice = random.Random(1)
    valid = [
        encode(Request(VERSION, "x", "range", {"stream": "train", "after": 0})),
        encode(Request(VERSION, "y", "command", {"request_id": "z", "name": "stop", "arguments": {}})),
        encode(Request(VERSION, "k", "log", {"source": "agent", "offset": 0})),
    ]
    pings: list[float] = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer, Link.to(run) as link:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"ipc://{socket_folder(run.path) / 'ctl'}")
        for number in range(frames):
            whole = valid[number % len(valid)]
            match number % 3:
                case 0:
                    nonsense = dice.randbytes(dice.randrange(100))
                case 1:  # cut short: a mutation that keeps its meaning would be a request
                    nonsense = whole[: dice.randrange(len(whole))]
                case _:
                    nonsense = msgspec.msgpack.encode([None, -1, {"op": "kill"}, [[]], 2**63][number % 5])
            dealer.send(nonsense)
            if number % max(1, frames // 500) == 0:
                started = time.perf_counter()
                assert link.request("ping", timeout_seconds=60) == {}
                pings.append(time.perf_counter() - started)
        for number in range(connections):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(str(socket_folder(run.path) / ("ctl", "ev")[number % 2]))
                try:
                    raw.sendall(
                        b"\xff\x00\x00\x00\x00\x40\x00\x00\x00\x7f" + dice.randbytes(dice.randrange(60))
                    )
                except BrokenPipeError:  # cut off while we still talk
                    continue
            if number % max(1, connections // 500) == 0:
                started = time.perf_counter()
                assert link.request("ping", timeout_seconds=60) == {}
                pings.append(time.perf_counter() - started)
    assert supervisor.is_running()
    assert run.supervisor_log.read_bytes() == log, "no traceback"
    assert told_of_the_run(run) == before
    assert events(run, Command) == []
    assert supervisor.memory_info().rss < 100 * 2**20
    wait_until(lambda: supervisor.num_fds() < 100, "connections that are gone are still held")
    p99 = quantiles(pings, n=100)[98]
    print(
        f"{frames} frames, {connections} connections, {len(pings)} pings in between: median "
        f"{median(pings) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, slowest {max(pings) * 1e3:.1f} ms"
    )


def test_a_full_disk_under_the_journal_costs_neither_steps_nor_events(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """19: the ranks and the supervisor live on and are watched live all the while; with room again the journal holds every
    event, without a torn line or a gap, and says what happened."""
    disk = tmp_path / "home"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes rights that this user lacks")
    try:
        run = daemons.start()
        watch(run, kind_is("train_step"))
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        newest = segments(run.journal, "train")[-1]
        size = -1
        while size != newest.stat().st_size:  # its last page is filled up, too
            size = newest.stat().st_size
            time.sleep(0.2)
        with Feed(run) as feed, Link.to(run) as link:
            seen = follow(feed, is_notice("events are kept in memory"), WAIT_SECONDS)
            assert link.request("ping") == {}
            seen += follow(feed, lambda r: r.kind == "train_step", WAIT_SECONDS)
            assert feed.link_state == "live", "what the disk refuses is published all the same"
            kill_and_wait(daemons.pid)
            daemons.resume(run)
            seen += follow(feed, lambda r: r.kind == "train_step", WAIT_SECONDS)
            assert newest.stat().st_size == size
            ballast.unlink()
            seen += follow(feed, is_notice("can be written again"), WAIT_SECONDS)
            send_command(run, "stop")
            seen += follow(feed, state_is("stopped"), WAIT_SECONDS)
        wait_until_over(run, daemons.pid)
        steps = [r.event.step for r in seen if isinstance(r.event, TrainStep)]
        assert steps == list(range(1, len(steps) + 1)), "the watcher missed none"
        assert [r for r in seen if is_notice("lost")(r)] == []
        for stream in STREAMS:
            numbers = [r.seq for r in read_all(run.journal) if r.stream == stream]
            assert numbers == list(range(1, len(numbers) + 1)), stream
    finally:
        daemons.end_all()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_journal_cut_at_any_byte_is_read_up_to_there_and_continued(tmp_path: Path) -> None:
    """43: random truncation, blocks of zeros and flipped bytes at the tail."""
    from trainer_daemon.contract.journal import JournalWriter

    dice = random.Random(5)
    expected = 0
    for _ in range(rounds(40, 100)):
        with JournalWriter(tmp_path, "train", 1) as writer:
            assert writer.last_seq == expected
            for _ in range(dice.randrange(1, 4)):
                assert writer.append(Notice("info", "x" * dice.randrange(100)))
        (path,) = segments(tmp_path, "train")
        data = path.read_bytes()
        last = data.rstrip(b"\n").rfind(b"\n") + 1
        match dice.randrange(3):
            case 0:
                path.write_bytes(data[: dice.randrange(last, len(data))])
            case 1:
                path.write_bytes(data + bytes(dice.randrange(1, 5000)))
            case _:
                position = dice.randrange(last, len(data))
                path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        numbers = [r.seq for r in read_all(tmp_path)]
        assert numbers == list(range(1, len(numbers) + 1))
        expected = len(numbers)


def test_another_user_can_neither_connect_nor_read(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    """47."""
    if os.getuid() != 0:
        pytest.skip("becoming another user takes root")
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        open_to_all = Path(name)
        open_to_all.chmod(0o755)
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        monkeypatch.setenv("LLMCTL_HOME", f"{name}/home")
        monkeypatch.setenv("FAULT", "sleepy")
        run = daemons.start()
        watch(run, kind_is("phase_changed"))
        sockets = recorded_sockets(run)
        program = (
            "import os, socket, sys\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "for name in ('ev', 'ctl'):\n"
            "    try: socket.socket(socket.AF_UNIX).connect(f'{sys.argv[1]}/{name}'); print('connected')\n"
            "    except PermissionError: print('refused')\n"
            "for path in sys.argv[2:]:\n"
            "    try: open(path); print('read')\n"
            "    except PermissionError: print('refused')\n"
        )
        files = [str(segments(run.journal, "train")[0]), str(run.spec_file), str(run.rank_log(0))]
        ended = subprocess.run(
            [sys.executable, "-c", program, str(sockets), *files], capture_output=True, text=True, cwd="/"
        )
        assert ended.stdout.split() == ["refused"] * 5, ended
        supervisor = psutil.Process(daemons.pid)
        assert supervisor.net_connections(kind="inet") == [], "nothing of it listens on a network"
        kill_and_wait(daemons.pid, signal.SIGTERM)
