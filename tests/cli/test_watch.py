"""Looking at runs: tables for people, JSON for programs, nothing that steers a terminal."""

import json
import os
import threading
from pathlib import Path

import pytest

from cli.watch import Since
from tests.cli.conftest import Llmctl, completed_run, failed_run, make_run, train_step, write
from tests.supervisor.conftest import Daemons
from trainer_daemon.contract import events
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import create_run
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.link.client import send_command

STATUS_FIELDS = [
    "name",
    "state",
    "step",
    "total_steps",
    "tokens",
    "total_tokens",
    "loss_nats",
    "val_bpb",
    "min_val_bpb",
    "mfu",
    "tokens_per_second",
    "step_seconds",
    "eta_seconds",
    "learning_rate_scale",
    "grad_norm",
    "learning_rates",
    "step_parts",
    "memory_bytes",
    "peak_memory_bytes",
    "last_checkpoint",
    "restarts",
    "error",
    "pid",
    "started_at",
    "updated_at",
    "spec_hash",
    "protocol",
]


def test_status_json_has_every_promised_field_and_null_for_the_unknown(llmctl: Llmctl) -> None:
    completed_run()
    status = llmctl("status", "done", "--json").json()
    assert set(STATUS_FIELDS) <= set(status)
    assert (status["name"], status["state"], status["step"]) == ("done", "completed", 3)
    assert (status["loss_nats"], status["val_bpb"], status["pid"]) == (1.0, 1.25, 4711)
    assert (status["mfu"], status["eta_seconds"], status["error"]) == (None, None, None)


def test_status_says_where_a_step_s_time_goes_and_how_much_memory_it_takes(llmctl: Llmctl) -> None:
    completed_run()
    status = llmctl("status", "done", "--json").json()
    assert status["step_parts"] == pytest.approx(
        {"data": 0.01, "compute": 0.35, "wait": 0.04, "optimizer": 0.1}
    )
    assert (status["memory_bytes"], status["peak_memory_bytes"]) == (2_000_000, 3_000_000)
    assert status["learning_rates"] == {"matrix": 0.02}
    shown = llmctl("status", "done").out
    assert "0.5 s: data 2%, compute 70%, wait 8%, optimizer 20%" in shown
    assert "2MB, at most 3MB" in shown


def test_status_says_what_is_wrong(llmctl: Llmctl) -> None:
    make_run("gone")
    assert "crashed" in llmctl("status", "gone").out
    assert "llmctl resume gone" in llmctl("status", "gone").out
    failed_run()
    assert llmctl("status", "broken", "--json").json()["error"]["message"].endswith("check the cable")


def test_a_name_may_be_cut_short_as_long_as_it_is_the_only_one(llmctl: Llmctl) -> None:
    completed_run("alpha-1")
    assert llmctl("status", "al", "--json").json()["name"] == "alpha-1"
    completed_run("alpha-2")
    ambiguous = llmctl("status", "al")
    assert ambiguous.code == 3
    assert "alpha-1, alpha-2" in ambiguous.err
    assert llmctl("status", "@last", "--json").json()["name"] == "alpha-2"


def test_ls_shows_every_run_and_one_damaged_run_hides_no_other(llmctl: Llmctl) -> None:
    completed_run("a")
    (make_run("b").spec_file).write_text("{")
    failed_run("c")
    listing = llmctl("ls")
    assert listing.code == 0
    assert [line.split()[:2] for line in listing.out.splitlines()] == [
        ["RUN", "STATE"],
        ["a", "completed"],
        ["c", "failed"],
    ]
    assert "b: " in listing.err
    assert [s["name"] for s in llmctl("ls", "--json").json()] == ["a", "c"]


def test_ls_picks_by_the_query_of_the_cockpit_and_sorts_by_any_field(llmctl: Llmctl) -> None:
    completed_run("ant")
    completed_run("cat")
    failed_run("cow")

    def names(*arguments: str) -> list[str]:
        return [status["name"] for status in llmctl("ls", "--json", *arguments).json()]

    assert names("--where", "state:completed a") == ["ant", "cat"]
    assert names("--where", "-ant", "--sort", "-name") == ["cow", "cat"]
    assert names("--where", "val<0.9") == []
    assert "no run is like that" in llmctl("ls", "--where", "dog").err
    for arguments in (("--where", "vla<1"), ("--sort", "vla")):
        refused = llmctl("ls", *arguments)
        assert refused.code == 2
        assert 'no field is called "vla"; did you mean "val"?' in refused.err


def test_events_are_told_in_order_with_their_place(llmctl: Llmctl) -> None:
    completed_run()
    places = [line.split()[1] for line in llmctl("events", "done").out.splitlines()]
    assert places == ["daemon:1", "train:1", "train:2", "train:3", "train:4", "daemon:2"]


def test_events_as_json_are_one_flat_object_a_line(llmctl: Llmctl) -> None:
    completed_run()
    lines = llmctl("events", "done", "--json").out.splitlines()
    assert len(lines) == 6
    first_step = json.loads(lines[1])
    assert (first_step["stream"], first_step["seq"], first_step["kind"]) == ("train", 1, "train_step")
    assert (first_step["step"], first_step["mfu"]) == (1, None)


@pytest.mark.parametrize(
    ("since", "places"),
    [
        ("2", ["train:3", "train:4", "daemon:2"]),
        ("train:4", ["daemon:2"]),
        ("daemon:1", ["train:1", "train:2", "train:3", "train:4", "daemon:2"]),
        ("daemon:2", []),
        ("99", []),
    ],
)
def test_since_gives_what_was_recorded_after_that_event(
    llmctl: Llmctl, since: str, places: list[str]
) -> None:
    completed_run()
    told = llmctl("events", "done", "--since", since).out.splitlines()
    assert [line.split()[1] for line in told] == places


@pytest.mark.parametrize("since", ["daemon:1", "train:20"])
def test_since_loses_nothing_of_other_streams_while_a_run_is_followed(
    daemons: Daemons, llmctl: Llmctl, since: str
) -> None:
    run = daemons.start("live")
    assert llmctl("wait", "live", "--for", "step=30", "--timeout", "30").code == 0
    assert llmctl("save", "live").code == 0
    stop = threading.Timer(0.5, lambda: send_command(run, "stop"))
    stop.start()
    told = llmctl("events", "live", "-f", "--since", since).out.splitlines()
    stop.join()
    assert sorted(told) == sorted(llmctl("events", "live", "--since", since).out.splitlines())


def test_since_a_number_that_was_never_written_goes_on_behind_it() -> None:
    def record(seq: int) -> Record:
        return Record("train", seq, 0.0, 0.0, 1, "train_step", None)

    since = Since.parse("5")
    assert [seq for seq in (3, 4, 6, 7) if since.is_behind(record(seq))] == [6, 7]


@pytest.mark.parametrize("text", ["x", "-3", "steps:3", "train:", "train:x", ":", ""])
def test_since_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--since takes"):
        Since.parse(text)


def test_neither_events_nor_logs_steer_the_terminal(llmctl: Llmctl) -> None:
    run = completed_run()
    write(run, "train", events.Notice("warning", "\x1b]0;owned\x07title\rover"))
    run.rank_log(0).write_bytes(b"\x1b[2Jcleared\n\xff\n")
    told = llmctl("events", "done").out
    assert r"text='\x1b]0;owned\x07title\rover'" in told
    assert told.replace("\n", "").isprintable()
    assert llmctl("logs", "done").out == "cleared\n\N{REPLACEMENT CHARACTER}\n"


def test_logs_are_of_the_rank_or_the_process_that_was_asked_for(llmctl: Llmctl) -> None:
    run = completed_run()
    run.rank_log(0).write_text("zero\n")
    run.rank_log(1).write_text("one\n")
    run.supervisor_log.write_text("overseer\n")
    assert llmctl("logs", "done").out == "zero\n"
    assert llmctl("logs", "done", "--rank", "1").out == "one\n"
    assert llmctl("logs", "done", "--from", "supervisor").out == "overseer\n"
    silent = llmctl("logs", "done", "--from", "agent")
    assert (silent.code, silent.out) == (0, "")
    assert "--from supervisor" in silent.err


def test_a_long_log_comes_whole(llmctl: Llmctl) -> None:
    run = completed_run()
    text = "".join(f"line {i} äöü\n" for i in range(40_000))
    run.rank_log(0).write_text(text)
    assert llmctl("logs", "done").out == text
    assert llmctl("logs", "done", "-f").out == text  # the run is over, so following ends with the file


def test_following_a_log_that_ends_within_a_character_ends_with_the_run(llmctl: Llmctl) -> None:
    completed_run().rank_log(0).write_bytes("the last word: ä".encode()[:-1])
    assert llmctl("logs", "done", "-f").out == "the last word: "


def test_wait_says_how_the_run_ended(llmctl: Llmctl) -> None:
    completed_run()
    assert llmctl("wait", "done").out.startswith("done completed at step 3")
    assert llmctl("wait", "done", "--for", "step=2").code == 0
    assert llmctl("wait", "done", "--for", "completed").code == 0


def test_wait_gives_up_when_its_time_is_over(llmctl: Llmctl) -> None:
    _, lock = create_run("live", RunSpec())  # its lock is ours, so it reads as alive
    late = llmctl("wait", "live", "--timeout", "0.2")
    os.close(lock)
    assert late.code == 5
    assert "the time to wait is over" in late.err


def test_wait_returns_with_the_step_it_waited_for(llmctl: Llmctl) -> None:
    run, lock = create_run("live", RunSpec())
    write(run, "daemon", events.StateChanged("starting", "started", 1, 1))
    steps = threading.Timer(0.1, lambda: write(run, "train", *(train_step(i) for i in range(1, 6))))
    steps.start()
    met = llmctl("wait", "live", "--for", "step=4", "--timeout", "20")
    steps.join()
    os.close(lock)
    assert met.code == 0, met


def test_wait_sees_a_run_die(llmctl: Llmctl) -> None:
    """A run that dies without a last word must end a wait without --timeout too."""
    run, lock = create_run("live", RunSpec())
    write(run, "daemon", events.StateChanged("starting", "started", 1, 1))
    death = threading.Timer(0.1, lambda: os.close(lock))
    death.start()
    died = llmctl("wait", "live")
    death.join()
    assert died.code == 4
    assert "llmctl resume live" in died.err
    assert llmctl("wait", "live", "--for", "crashed").code == 0


def test_completion_offers_runs(home: Path) -> None:
    from cli.references import complete_run

    completed_run("alpha")
    completed_run("beta")
    assert complete_run("a") == ["alpha"]
