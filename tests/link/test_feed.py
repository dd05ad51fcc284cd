import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from tests.faults.conftest import rounds
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
from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import Notice
from trainer_daemon.contract.journal import (
    JournalReader,
    JournalWriter,
    Record,
    Stream,
    read_all,
    segments,
)
from trainer_daemon.contract.rundir import create_run, recorded_sockets, socket_folder
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.contract.wire import Request
from trainer_daemon.link import client as client_module
from trainer_daemon.link.client import Feed, LinkState, send_command
from trainer_daemon.link.server import Server
from trainer_daemon.link.ways import UnixWay


def follow_until(feed: Feed, state: LinkState) -> list[Record]:
    seen: list[Record] = []
    deadline = time.monotonic() + END_SECONDS
    while feed.link_state != state:
        seen += feed.poll(0.1)
        assert time.monotonic() < deadline
    return seen


def test_a_feed_gives_a_live_run_from_its_beginning_to_its_end(daemons: Daemons) -> None:
    run = daemons.start(steps=50)
    seen = watch(run, state_is("completed"))
    assert_each_once_and_in_order(run, seen)
    assert Counter(r.kind for r in seen)["train_step"] == 50


def test_a_feed_that_comes_late_gets_what_was_before_from_the_supervisor(daemons: Daemons) -> None:
    run = daemons.start()
    watch(run, lambda r: r.kind == "train_step" and r.seq > 30)
    with Feed(run) as feed:
        seen = follow(feed, lambda r: r.kind == "train_step" and r.seq > 60)
        assert feed.link_state == "live"
    assert_each_once_and_in_order(run, seen)


def test_a_feed_reads_an_ended_run_from_its_files(daemons: Daemons) -> None:
    run = daemons.start(steps=20)
    wait_until_over(run, daemons.pid)
    with Feed(run) as feed:
        seen = follow(feed, state_is("completed"))
        seen += feed.poll(0)
        assert feed.link_state == "disk"
        assert feed.poll(0) == []
    assert_each_once_and_in_order(run, seen)
    assert len(seen) == len(list(read_all(run.journal)))


def test_what_one_poll_gives_is_in_the_order_of_time_between_streams(daemons: Daemons) -> None:
    run = daemons.start()
    watch(run, kind_is("train_step"))
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    with Feed(run) as feed:
        assert feed.poll(0) == list(read_all(run.journal))


def test_a_feed_may_begin_behind_what_is_known(daemons: Daemons) -> None:
    run = daemons.start(steps=20)
    wait_until_over(run, daemons.pid)
    with Feed(run, after={"train": 15, "daemon": 1}) as feed:
        seen = feed.poll(0)
    assert [r.seq for r in seen if r.stream == "train"][:2] == [16, 17]
    assert next(r.seq for r in seen if r.stream == "daemon") == 2


def test_a_damaged_line_is_missing_from_what_a_feed_gives_and_nothing_else_is(daemons: Daemons) -> None:
    run = daemons.start()
    watch(run, lambda r: r.stream == "train" and r.seq > 20)
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    (segment,) = segments(run.journal, "train")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*lines[:9], lines[9].replace(b"wall", b"wa11"), *lines[10:]]))

    daemons.resume(run)
    with Feed(run) as feed:
        seen = follow(feed, lambda r: r.stream == "train" and r.seq > len(lines) + 10)
        seen += follow_until(feed, "live")
        seen += follow(feed, kind_is("train_step", attempt=2))
        send_command(run, "stop")
        seen += follow(feed, state_is("stopped", attempt=2))
    wait_until_over(run, daemons.pid)
    live = [r.seq for r in seen if r.stream == "train"]
    assert live == [n for n in range(1, live[-1] + 1) if n != 10]
    with Feed(run) as feed:
        assert [r.seq for r in feed.poll(0) if r.stream == "train"] == live


@pytest.mark.fault
def test_a_feed_misses_nothing_while_supervisors_die_and_come_back(daemons: Daemons) -> None:
    run = daemons.start()
    with Feed(run) as feed:
        seen = follow(feed, kind_is("train_step"))
        states = set()
        for _ in range(4):
            kill_and_wait(daemons.pid)
            reached = seen[-1].seq
            seen += follow(feed, lambda r, n=reached: r.stream == "train" and r.seq > n + 10)  # type: ignore[misc]  # mypy cannot see the default
            states.add(feed.link_state)
            daemons.resume(run)
            pid = daemons.pid
            seen += follow(feed, lambda r, p=pid: getattr(r.event, "pid", None) == p)  # type: ignore[misc]  # as above
            seen += follow(feed, kind_is("train_step"))
            seen += follow_until(feed, "live")
        assert states == {"disk"}
        send_command(run, "stop")
        seen += follow(feed, state_is("stopped"))
    assert_each_once_and_in_order(run, seen)
    assert len(seen) == len(list(read_all(run.journal)))


def test_a_feed_follows_a_supervisor_to_another_runtime_folder(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENCE_SECONDS", 1.5)
    run = daemons.start()
    with Feed(run) as feed:
        seen = follow(feed, kind_is("train_step"))
        shutil.rmtree(tmp_path / "runtime")
        wait_until(lambda: recorded_sockets(run).exists(), "the sockets are not made anew")
        deadline = time.monotonic() + END_SECONDS
        anew = UnixWay(recorded_sockets(run))
        while feed.link_state != "live" or not feed._connection or feed._connection.way != anew:
            seen += feed.poll(0.1)
            assert time.monotonic() < deadline
        send_command(run, "stop")
        seen += follow(feed, state_is("stopped"))
    assert_each_once_and_in_order(run, seen)


def test_a_supervisor_that_hangs_is_lost_but_no_record_is(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENCE_SECONDS", 0.3)
    run = daemons.start()
    with Feed(run) as feed:
        seen = follow(feed, kind_is("train_step"))
        psutil.Process(daemons.pid).suspend()
        try:
            seen += follow_until(feed, "lost")
            seen += follow(feed, kind_is("train_step"))
        finally:
            psutil.Process(daemons.pid).resume()
        seen += follow_until(feed, "live")
        seen += follow(feed, kind_is("train_step"))
    assert_each_once_and_in_order(run, seen)


def test_a_watcher_that_stalls_harms_nobody_and_fetches_what_it_missed(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEP_SECONDS", "0.0001")
    monkeypatch.setattr(client_module, "WATCH_QUEUE_MESSAGES", 10)
    run = daemons.start(steps=10**9)
    with Feed(run) as stalled:
        seen = follow(stalled, kind_is("train_step"))
        assert_each_once_and_in_order(run, watch(run, lambda r: r.stream == "train" and r.seq > 8000))
        # far more than the queues on both sides hold has gone by
        fetched: list[int] = []
        ask = client_module._Connection.ask_range

        def noting_ask(connection: client_module._Connection, stream: Stream, after: int) -> None:
            fetched.append(after)
            ask(connection, stream, after)

        monkeypatch.setattr(client_module._Connection, "ask_range", noting_ask)
        seen += follow(stalled, lambda r: r.stream == "train" and r.seq > 8000)
    assert fetched
    assert_each_once_and_in_order(run, seen)


def test_subscribers_that_never_read_and_speak_garbage_do_not_disturb_the_others(daemons: Daemons) -> None:
    run = daemons.start(steps=300)
    with zmq.Context() as context:
        rude = []
        for n in range(20):
            made = context.socket(zmq.XSUB)
            made.setsockopt(zmq.LINGER, 0)
            made.setsockopt(zmq.RCVHWM, 1)
            made.connect(f"ipc://{socket_folder(run.path) / 'ev'}")
            made.send(b"\x01")
            made.send(bytes([n]) * 100)
            rude.append(made)
        seen = watch(run, state_is("completed"))
        for made in rude:
            made.close()
    assert_each_once_and_in_order(run, seen)


@pytest.mark.fault
def test_attaching_many_times_leaves_nothing_behind_at_the_supervisor(daemons: Daemons) -> None:
    """33: 1,000 watchers that come and go while steps go by: no descriptor, no memory, no hole in the journal."""
    run = daemons.start(steps=10**9)
    cursors: dict[str, int] = {r.stream: r.seq for r in watch(run, kind_is("train_step"))}
    process = psutil.Process(daemons.pid)

    def attach(times: int) -> None:
        for _ in range(times):
            with Feed(run, after=cursors) as feed:
                cursors.update((r.stream, r.seq) for r in follow(feed, kind_is("train_step")))

    attach(20)  # what is made once and kept is no leak
    descriptors, memory = process.num_fds(), process.memory_info().rss
    attach(rounds(50, 1000))
    wait_until(lambda: process.num_fds() < descriptors + 5, "connections that are gone are still held")
    grown = process.memory_info().rss - memory
    print(f"supervisor: {grown / 2**20:+.1f} MB, {process.num_fds() - descriptors:+} descriptors")
    assert grown < 5 * 2**20
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    assert_each_once_and_in_order(run, list(read_all(run.journal)))


def test_a_feed_waits_no_longer_than_it_was_told(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "sleepy")
    run = daemons.start()
    with Feed(run) as feed:
        follow(feed, kind_is("phase_changed"))
        started = time.monotonic()
        while feed.poll(0.2):  # what else there was to say of the beginning
            started = time.monotonic()
        assert 0.2 <= time.monotonic() - started < 5


class Station:
    """A server whose every word the test decides."""

    def __init__(self, records: int) -> None:
        self.run, self._lock = create_run("station", RunSpec())
        self.server = Server(self.run)
        with JournalWriter(self.run.journal, "train", 1) as writer:
            for n in range(records):
                writer.append(Notice("info", str(n)))
        with JournalReader(self.run.journal, "train") as reader:
            self.journal = reader.poll()
        self.cursors = {"train": records}

    def publish(self, *seqs: int) -> None:
        for seq in seqs:
            self.server.publish(*self.journal[seq - 1], self.cursors)

    def serve(self) -> None:
        self.server.serve(0.05, self._answer)

    def _answer(self, request: Request) -> dict[str, Any]:
        return {"lines": [line for record, line in self.journal if record.seq > request.args["after"]]}

    def close(self) -> None:
        self.server.close()
        os.close(self._lock)


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = Station(records=3)
    yield made
    made.close()


def take(feed: Feed, count: int) -> list[int]:
    """The sequence numbers of the next so many records."""
    seen: list[Record] = []
    deadline = time.monotonic() + END_SECONDS
    while len(seen) < count:
        seen += feed.poll(0.1)
        assert time.monotonic() < deadline, seen
    return [r.seq for r in seen]


def poll_until_it_asks(feed: Feed) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not (feed._connection and feed._connection._asked):
        assert feed.poll(0.05) == []
        assert time.monotonic() < deadline


def test_a_newcomer_is_told_at_once_what_there_is(station: Station) -> None:
    station.server.heartbeat(station.cursors)  # before anyone listens
    with Feed(station.run) as feed:
        assert feed.poll(0) == []
        station.serve()  # sees the subscription, greets
        poll_until_it_asks(feed)
        station.serve()
        assert take(feed, 3) == [1, 2, 3]
        assert feed.link_state == "live"


def test_what_a_calm_supervisor_tells_is_heard_at_once(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused run was looked for twenty times a second, 0.7 % of a core; and nothing is heard later for that being over."""
    monkeypatch.setattr(client_module, "CALM_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(client_module, "CALM_LOOK_SECONDS", 10 * END_SECONDS)
    station.cursors = {"train": 2}
    with Feed(station.run, after={"train": 2}) as feed:
        feed.poll(0)
        heard: list[Record] = []
        waiting = threading.Thread(target=lambda: heard.extend(feed.poll(10 * END_SECONDS)), daemon=True)
        waiting.start()
        station.cursors = {"train": 3}
        station.publish(3)
        deadline = time.monotonic() + END_SECONDS
        while waiting.is_alive():
            station.server.heartbeat(station.cursors)
            station.serve()
            assert time.monotonic() < deadline
        assert [r.seq for r in heard] == [3]


def test_a_wait_ends_when_nobody_wants_it_any_more(station: Station) -> None:
    with Feed(station.run) as feed:
        waiting = threading.Thread(target=feed.poll, args=[10 * END_SECONDS], daemon=True)
        waiting.start()
        feed.interrupt()
        waiting.join(END_SECONDS)
        assert not waiting.is_alive()
        feed.interrupt()
    feed.interrupt()  # too late, and no harm


def test_a_record_that_comes_both_live_and_fetched_is_given_once(station: Station) -> None:
    station.server.heartbeat(station.cursors)
    with Feed(station.run) as feed:
        feed.poll(0)
        station.serve()
        poll_until_it_asks(feed)  # for 1, 2 and 3, of which two now come by themselves
        station.publish(1, 2)
        assert take(feed, 2) == [1, 2]
        station.serve()  # the answer has all three
        assert take(feed, 1) == [3]
        station.publish(2, 3)
        assert feed.poll(0.1) == []


def test_a_record_that_overtook_others_waits_for_them(station: Station) -> None:
    with Feed(station.run) as feed:
        feed.poll(0)
        station.serve()
        station.publish(1, 3)
        assert take(feed, 1) == [1]
        poll_until_it_asks(feed)
        station.serve()
        assert take(feed, 2) == [2, 3]


def test_an_answer_that_comes_after_one_has_asked_again_is_as_good(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a slow link, or beside a busy supervisor, each answer came too late and was asked for anew: a cockpit stood still
    for minutes."""
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.05)
    ended = threading.Event()

    def answer(request: Request) -> dict[str, Any]:
        ended.wait(0.2)
        return {"lines": [station.journal[request.args["after"]][1]]}

    def serve() -> None:
        while not ended.is_set():
            station.server.serve(0.05, answer)

    station.server.heartbeat(station.cursors)
    server = threading.Thread(target=serve)
    server.start()
    try:
        with Feed(station.run) as feed:
            assert take(feed, 3) == [1, 2, 3]
    finally:
        ended.set()
        server.join()


def test_a_record_that_nobody_can_give_is_asked_for_once_and_left_behind(station: Station) -> None:
    del station.journal[1]  # what follows the first record is then the third
    with Feed(station.run) as feed:
        feed.poll(0)
        station.serve()
        station.publish(1, 2)
        assert take(feed, 1) == [1]
        poll_until_it_asks(feed)
        station.serve()
        assert take(feed, 1) == [3]
        station.server.heartbeat(station.cursors)
        assert feed.poll(0.1) == []
        assert feed._connection
        assert not feed._connection._asked


def test_a_feed_refuses_a_daemon_of_another_major_version(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_daemon.link.server.VERSION", (2, 3))
    with Feed(station.run) as feed:
        feed.poll(0)
        station.serve()
        with pytest.raises(RefusedError, match=r"2\.3.*1\.0"):
            feed.poll(5)
