import os
import random
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import zmq

from tests.supervisor.conftest import (
    Daemons,
    events,
    follow,
    kill_and_wait,
    kind_is,
    state_is,
    wait_until,
    wait_until_over,
    watch,
)
from trainer_daemon.contract.errors import NotFoundError, RefusedError, SpecError, WaitTimeoutError
from trainer_daemon.contract.events import Command
from trainer_daemon.contract.rundir import RunDir, create_run, recorded_sockets, socket_folder
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.contract.status import observe
from trainer_daemon.contract.wire import VERSION, Request, decode_reply, encode
from trainer_daemon.link.client import Feed, Link, request_log, send_command, supervisor_listens
from trainer_daemon.link.server import Server
from trainer_daemon.link.ways import UnixWay


@pytest.fixture
def run(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run whose ranks are up and make no steps."""
    monkeypatch.setenv("FAULT", "sleepy")
    run = daemons.start()
    watch(run, kind_is("phase_changed"))
    return run


@pytest.fixture
def dealer(run: RunDir) -> Iterator["zmq.Socket[bytes]"]:
    """A raw connection, to say what no client of ours would."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as made:
        made.setsockopt(zmq.LINGER, 0)
        made.connect(f"ipc://{socket_folder(run.path) / 'ctl'}")
        yield made


def test_a_run_folder_too_deep_for_a_socket_is_watched_and_steered_all_the_same(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """51: the path of a unix socket may have 107 bytes."""
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / ("deep" * 20) / ("down" * 20)))
    run = daemons.start()
    assert len(bytes(run.path)) > 200
    with Feed(run) as feed:
        follow(feed, kind_is("train_step"))
        follow(feed, lambda _: feed.link_state == "live")
        send_command(run, "stop")
        follow(feed, state_is("stopped"))


def test_hello_says_who_is_there(run: RunDir, daemons: Daemons) -> None:
    with Link.to(run) as link:
        hello = link.request("hello")
        assert link.request("ping") == {}
    assert (hello["name"], hello["pid"]) == ("a", daemons.pid)
    assert RunSpec.model_validate(hello["spec"]) == run.read_spec()
    assert hello["cursors"]["train"] == 1


def test_a_run_without_a_supervisor_is_refused_at_once(run: RunDir, daemons: Daemons) -> None:
    kill_and_wait(daemons.pid)
    with Link.to(run) as link, pytest.raises(RefusedError, match="has no supervisor"):
        link.request("ping", timeout_seconds=30)


def test_a_supervisor_that_hangs_is_given_up_in_time(run: RunDir, daemons: Daemons) -> None:
    psutil.Process(daemons.pid).suspend()
    try:
        with Link.to(run) as link, pytest.raises(WaitTimeoutError, match="did not answer"):
            link.request("ping", timeout_seconds=0.1, tries=2)
    finally:
        psutil.Process(daemons.pid).resume()
    with Link.to(run) as link:
        assert link.request("ping") == {}


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("stopp", {}, 'did you mean "stop"'),
        ("pause", {"for": 3}, "takes no arguments"),
        ("sample", {}, "prompt"),
        ("sample", {"prompt": 3}, "prompt"),
        ("sample", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("sample", {"prompt": "a", "max_token": 5}, "max_token"),
        ("sample", {"prompt": "a", "temperature": float("nan")}, "temperature"),
        ("set", {}, "key"),
        ("set", {"key": "eval.every", "value": "often"}, "eval.every"),
        ("set", {"key": "eval.every", "value": [3]}, "value"),
        ("set", {"key": "eval.every", "value": 0}, "eval.every"),
        ("set", {"key": "model.depth", "value": 3}, "does not change while a run trains"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_and_not_recorded(
    run: RunDir, name: str, arguments: dict[str, object], told: str
) -> None:
    with pytest.raises(SpecError, match=told):
        send_command(run, name, arguments)
    assert events(run, Command) == []


def test_sample_reaches_the_ranks_with_all_its_arguments(run: RunDir) -> None:
    request_id = send_command(run, "sample", {"prompt": "Once", "seed": 5})
    (command,) = events(run, Command)
    assert command == Command(
        request_id,
        "sample",
        {
            "prompt": "Once",
            "max_tokens": 64,
            "temperature": 0.0,
            "top_k": None,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop": [],
            "overflow": "slide",
            "seed": 5,
        },
    )


def test_a_request_that_is_repeated_is_executed_once_and_answered_the_same(
    run: RunDir, daemons: Daemons
) -> None:
    request_id = uuid.uuid4().hex
    for _ in range(50):
        assert send_command(run, "save", request_id=request_id) == request_id
    refused_id = uuid.uuid4().hex
    for _ in range(3):
        with pytest.raises(RefusedError, match="is not paused"):
            send_command(run, "resume", request_id=refused_id)
    send_command(run, "pause")
    with pytest.raises(RefusedError, match="is not paused"):  # as the first time, though now it is
        send_command(run, "resume", request_id=refused_id)
    assert [c.name for c in events(run, Command)] == ["save", "pause"]

    kill_and_wait(daemons.pid)
    daemons.resume(run)
    assert send_command(run, "save", request_id=request_id) == request_id
    assert [c.name for c in events(run, Command)] == ["save", "pause"]


def test_a_request_that_lapsed_is_refused_in_words_and_not_recorded(run: RunDir) -> None:
    with pytest.raises(RefusedError, match="not paused as whoever asked believed"):
        send_command(run, "save", expected_state="paused")
    with pytest.raises(RefusedError, match="after its deadline"):
        send_command(run, "save", deadline=1.0)
    assert events(run, Command) == []
    send_command(run, "save", expected_state=observe(run).state, deadline=4e9)
    assert [(c.name, c.deadline) for c in events(run, Command)] == [("save", 4e9)]


def test_while_it_stops_a_run_takes_no_other_command_but_stop_again(
    run: RunDir, daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "deaf")
    deaf = daemons.start("deaf")
    watch(deaf, kind_is("train_step"))
    send_command(deaf, "stop")
    send_command(deaf, "stop")
    for name in ("pause", "resume", "save", "evaluate"):
        with pytest.raises(RefusedError, match="is stopping"):
            send_command(deaf, name)
    assert [c.name for c in events(deaf, Command)] == ["stop"]


def test_another_major_version_is_refused_naming_both(run: RunDir, dealer: "zmq.Socket[bytes]") -> None:
    for theirs in ((VERSION[0] + 1, 0), (0, 9)):
        # what a request of the future looks like is not known, but for these two fields
        dealer.send(msgspec.msgpack.encode({"version": theirs, "id": "x", "verb": ["anything"]}))
        assert dealer.poll(5000)
        reply = decode_reply(dealer.recv())
        assert not reply.ok
        assert reply.exit_code == 6
        assert reply.error is not None
        assert f"{theirs[0]}.{theirs[1]}" in reply.error
        assert "1.0" in reply.error


def test_a_newer_minor_version_with_fields_of_its_own_is_served(
    run: RunDir, dealer: "zmq.Socket[bytes]"
) -> None:
    dealer.send(
        msgspec.msgpack.encode(
            {"version": (VERSION[0], 99), "id": "x", "op": "ping", "args": {"new": 1}, "also": "new"}
        )
    )
    assert dealer.poll(5000)
    assert decode_reply(dealer.recv()).ok


def test_a_client_refuses_a_daemon_of_another_major_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        router.bind(f"ipc://{tmp_path / 'ctl'}")
        link = Link(UnixWay(tmp_path), "a")
        from threading import Thread

        def answer() -> None:
            peer, _ = router.recv_multipart()
            router.send_multipart([peer, msgspec.msgpack.encode({"version": (2, 5), "id": "whatever"})])

        thread = Thread(target=answer)
        thread.start()
        with link, pytest.raises(RefusedError, match=r"2\.5.*1\.0"):
            link.request("ping")
        thread.join()


def test_garbage_is_dropped_and_ends_nothing(
    run: RunDir, dealer: "zmq.Socket[bytes]", daemons: Daemons
) -> None:
    dice = random.Random(0)
    valid = encode(Request(VERSION, "x", "range", {"stream": "train", "after": 0}))
    before = run.supervisor_log.read_text()
    for n in range(3000):
        match n % 4:
            case 0:
                frames = [dice.randbytes(dice.randrange(200))]
            case 1:
                frames = [dice.randbytes(dice.randrange(20)) for _ in range(dice.randrange(1, 8))]
            case 2:  # a request with one byte changed
                position = dice.randrange(len(valid))
                frames = [valid[:position] + dice.randbytes(1) + valid[position + 1 :]]
            case _:
                frames = [msgspec.msgpack.encode([None, -1, {"op": "kill"}, 2**63][n % 3])]
        dealer.send_multipart(frames)
    for socket_name in ("ctl", "ev"):
        for _ in range(200):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(str(socket_folder(run.path) / socket_name))
                raw.sendall(dice.randbytes(dice.randrange(1, 300)))
    with Link.to(run) as link:
        assert link.request("ping") == {}
        assert link.request("hello")["pid"] == daemons.pid
    assert run.supervisor_log.read_text() == before, "no traceback"
    assert events(run, Command) == []


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("range", {}),
        ("range", {"stream": "nothing", "after": 0}),
        ("range", {"stream": "train", "after": "0"}),
        ("log", {}),
        ("command", {"name": "stop"}),
        ("command", {"request_id": "", "name": "stop"}),
        ("command", {"request_id": "x" * 65, "name": "stop"}),
    ],
)
def test_arguments_of_the_wrong_shape_are_refused_as_such(
    run: RunDir, op: str, args: dict[str, object]
) -> None:
    with Link.to(run) as link, pytest.raises(SpecError, match="not understood"):
        link.request(op, args)  # type: ignore[arg-type]  # any of the operations
    assert events(run, Command) == []


def test_a_request_that_is_too_large_is_refused_by_its_size_before_it_is_sent(run: RunDir) -> None:
    with pytest.raises(SpecError, match=r"the request is 9\d,\d{3} bytes"):
        send_command(run, "sample", {"prompt": "数" * 30_000})


def test_a_message_that_is_too_large_costs_its_sender_the_connection_and_nobody_else(
    run: RunDir, dealer: "zmq.Socket[bytes]"
) -> None:
    with dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
        dealer.send(encode(Request(VERSION, "x", "ping", {"padding": "x" * 2**20})))
        was_cut_off = monitor.poll(10_000)
        dealer.disable_monitor()
    assert was_cut_off
    with Link.to(run) as link:
        assert link.request("ping") == {}


def test_many_connections_that_say_nothing_keep_nobody_out(run: RunDir, daemons: Daemons) -> None:
    silent = []
    for _ in range(300):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(socket_folder(run.path) / "ctl"))
        silent.append(connection)
    with Link.to(run) as link:
        assert link.request("ping") == {}
    for connection in silent:
        connection.close()


def test_logs_come_from_the_supervisor_or_from_the_file(run: RunDir, daemons: Daemons) -> None:
    text, offset, size = request_log(run, "rank-0", 0)
    assert text == "rank 0 of attempt 1 is up\n"
    assert offset == size == len(text)
    assert request_log(run, "rank-0", offset)[0] == ""
    with pytest.raises(NotFoundError):
        request_log(run, "../spec.json", 0)
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    assert request_log(run, "rank-0", -3)[0] == "up\n"


def test_the_sockets_are_entered_by_the_owner_alone_and_go_with_the_daemon(
    run: RunDir, daemons: Daemons
) -> None:
    folder = socket_folder(run.path)
    assert {p.name: p.stat().st_mode & 0o077 for p in folder.iterdir()} == {"ev": 0, "ctl": 0}
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    assert not folder.exists()


def test_sockets_that_a_killed_daemon_left_are_taken_over(run: RunDir, daemons: Daemons) -> None:
    kill_and_wait(daemons.pid)
    assert (socket_folder(run.path) / "ctl").exists()
    daemons.resume(run)
    with Link.to(run) as link:
        assert link.request("hello")["pid"] == daemons.pid


def test_a_client_with_another_runtime_folder_finds_the_sockets(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cron, su and `docker exec` have none, or another one, than the shell that started the run."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with Link.to(run) as link:
        assert link.request("ping") == {}


def test_sockets_that_a_logout_removed_are_made_anew(run: RunDir, daemons: Daemons, tmp_path: Path) -> None:
    """Once, after the user's last logout, nobody could stop, kill or save a run any more."""
    (before,) = (tmp_path / "runtime" / "llmctl").iterdir()
    shutil.rmtree(tmp_path / "runtime")
    wait_until(lambda: supervisor_listens(run), "it is not reached again")
    with Link.to(run) as link:
        assert link.request("hello")["pid"] == daemons.pid
    assert recorded_sockets(run) == tmp_path / "tmp" / f"llmctl-{os.getuid()}" / before.name
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    assert not recorded_sockets(run).exists()


@pytest.mark.parametrize("name", ["ev", "ctl"])
def test_a_socket_that_a_cleaner_removed_is_made_anew_in_its_place(run: RunDir, name: str) -> None:
    folder = recorded_sockets(run)
    (folder / name).unlink()
    wait_until(lambda: (folder / name).exists() and supervisor_listens(run), "it is not made anew")
    with Link.to(run) as link:
        assert link.request("ping") == {}
    watch(run, kind_is("phase_changed"))
    assert recorded_sockets(run) == folder


def test_an_error_of_our_own_is_an_answer_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    run, lock = create_run("a", RunSpec())
    server = Server(run)

    def answer(request: Request) -> dict[str, object]:
        raise ZeroDivisionError("by us")

    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"ipc://{socket_folder(run.path) / 'ctl'}")
        dealer.send(encode(Request(VERSION, "x", "ping")))
        while not dealer.poll(10):
            server.serve(0.1, answer)
        reply = decode_reply(dealer.recv())
    assert (reply.ok, reply.exit_code) == (False, 1)
    assert "ZeroDivisionError: by us" in str(reply.error)
    assert "Traceback" in capsys.readouterr().err
    server.close()
    os.close(lock)
