"""From a spec to a run: checked first, named, started, followed."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cli.following import ProgressLines, step_line
from cli.launch import check_spec, free_name, minutes_of
from tests.cli.conftest import PROGRAM, Llmctl, completed_run, train_step
from tests.tiny import TINY
from trainer_daemon.contract import events
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.journal import Record
from trainer_daemon.contract.rundir import NAME_PATTERN
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.contract.status import RunStatus

TINY_FLAGS = [
    f"--set={section}.{key}={value!r}" if isinstance(value, str) else f"--set={section}.{key}={value}"
    for section, values in TINY.items()
    for key, value in values.items()
]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("d12", "d12"),
        ("My Run!", "my-run"),
        ("..", "run"),
        ("-x", "x"),
        ("数学", "run"),
        ("a" * 99, "a" * 50),
        ("v1.2", "v1-2"),
    ],
)
def test_any_file_name_becomes_a_run_name(home: Path, wanted: str, name: str) -> None:
    assert free_name(wanted) == name
    assert NAME_PATTERN.fullmatch(name)


def test_a_name_that_is_taken_gets_the_next_number(home: Path) -> None:
    for expected in ("demo", "demo-2", "demo-3"):
        assert free_name("demo") == expected
        completed_run(expected)


def test_checkpoints_that_would_not_fit_are_refused_before_anything_starts(
    llmctl: Llmctl, home: Path
) -> None:
    refused = llmctl("run", "--set", "model.depth=128", "--set", "model.aspect_ratio=1024", "--detach")
    assert refused.code == 6
    assert "checkpoint.keep_last" in refused.err
    assert not home.exists()


def test_a_relative_data_path_becomes_absolute_for_the_daemon(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts" / name).write_text("Some text.")
    spec = build_spec({"data": {"source": "texts", "held_out": "last_file"}})
    assert check_spec(spec).data.source == str(tmp_path / "texts")


def test_progress_is_told_in_lines_and_steps_not_all_of_them() -> None:
    told: list[str] = []
    warned: list[str] = []
    status, lines = RunStatus(name="a"), ProgressLines(told.append, warned.append)
    happened = [
        events.StateChanged("starting", "started", 1, 1),
        *(train_step(step) for step in range(1, 50)),
        events.Evaluated(49, 1.25, 3.0, 640, 0.1),
        events.Sampled(49, "Once", " upon\x1b[2J a time", 4, "length", 0.7, None, 1, 0.1, None),
        events.Sampled(49, "One", " day", 4, "length", 0.7, None, 1, 0.1, None),
        events.Sampled(49, "asked", " for", 4, "length", 0.7, None, 1, 0.1, "someone"),
        events.Notice("warning", "look \x1b[31mhere"),
        events.CheckpointFailed(49, "disk full"),
    ]
    for seq, event in enumerate(happened):
        record = Record("train", seq, float(seq), 0.0, 1, event.kind(), event)
        status.apply(record)
        lines.take(record, status)
    assert told[0] == "starting: started"
    assert [line.split()[1] for line in told if line.startswith("step") and "loss" in line] == ["1"]
    assert told[-2:] == ["step 49: val_bpb 1.2500 (best so far)", "step 49 writes: Once upon a time"]
    assert warned == ["warning: look here", "step 49: no checkpoint: disk full"]


def test_a_step_line_leaves_out_what_is_unknown() -> None:
    status = RunStatus(name="a", step=3, loss_nats=2.5, tokens_per_second=1234.5)
    assert step_line(status) == "step 3  loss 2.5000  1,234 tok/s  ETA -"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_without_a_terminal_is_told_to_its_end_and_talked_to(program: Llmctl, home: Path) -> None:
    done = program("run", *TINY_FLAGS, "--name", "tiny", timeout=200)
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0] == f"run tiny in {home}/runs/tiny"
    assert any(line.startswith("step 12/12  loss") for line in lines)
    assert any(line.startswith("step 6 writes: Once") for line in lines)
    assert lines[-1].startswith("tiny completed at step 12")

    assert [c["step"] for c in program("checkpoints", "tiny", "--json").json()] == [5, 10, 12]
    assert program("verify", "tiny").code == 0
    sampled = program(
        "sample", "tiny@best", "Once", "--max-tokens", "3", "--seed", "1", "--json", timeout=200
    )
    assert sampled.code == 0, sampled
    assert sampled.json()["completions"][0]["tokens"] <= 3
    chatted = program("chat", "tiny", "--max-tokens", "3", text="Once\n", timeout=200)
    assert chatted.code == 0, chatted
    assert chatted.out.startswith("Once")

    taken = program("run", *TINY_FLAGS, "--name", "tiny", "--detach")
    assert taken.code == 6
    assert "choose another --name" in taken.err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_the_run_going_and_says_how_to_come_back(program: Llmctl, home: Path) -> None:
    long = [*TINY_FLAGS, "--set=train.num_iterations=100000", "--name", "long"]
    process = subprocess.Popen(
        [PROGRAM, "run", *long], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout is not None
    while "step 1/" not in process.stdout.readline():
        pass
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to everyone in the foreground
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "long goes on; come back" in err
    before = program("status", "long", "--json").json()
    assert before["state"] in {"running", "evaluating", "saving"}
    assert program("wait", "long", "--for", f"step={before['step'] + 5}", "--timeout", "60").code == 0

    live = program("sample", "long", "Once", "--live", "--max-tokens", "4", "--json", timeout=100)
    assert live.code == 0, live
    assert (live.json()["checkpoint"], live.json()["completions"][0]["tokens"]) == (None, 4)
    assert program("stop", "long", timeout=100).code == 0
    again = program("run", *TINY_FLAGS, "--preset", "stories", "--detach", "--json")
    assert (again.code, again.json()["name"]) == (0, "stories")
    assert program("wait", "stories", timeout=100).code == 0


@pytest.mark.parametrize(("text", "minutes"), [("4h", 240), ("90m", 90), ("2d12h", 3600), ("1h30m", 90)])
def test_a_time_limit_is_days_hours_and_minutes(text: str, minutes: float) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "4", "h", "0.5h", "4 h", "-4h", "4hours"])
def test_a_time_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--time-limit takes"):
        minutes_of(text)
