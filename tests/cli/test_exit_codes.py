"""One paragraph on stderr, one exit code, nothing else."""

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from cli.main import explain
from tests.cli.conftest import PROGRAM, Llmctl, completed_run, failed_run, train_step, write
from trainer_daemon.contract.errors import RefusedError, SpecError
from trainer_daemon.contract.rundir import create_run
from trainer_daemon.contract.spec import RunSpec


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--version"], 0, ""),
        (["nonsense"], 2, "No such command"),
        (["status"], 2, "Missing argument"),
        (["run", "--preset", "d122", "--dry-run"], 2, 'unknown preset "d122"; did you mean "d12"?'),
        (
            ["run", "--set", "model.dept=3", "--dry-run"],
            2,
            'unknown key "model.dept"; did you mean "model.depth"?',
        ),
        (["run", "--set", "depth=3", "--dry-run"], 2, 'unknown key "depth"; did you mean "model.depth"?'),
        (["run", "--set", "train.global_batch_tokens=1000"], 2, "nearest: 768 or 1024"),
        (["run", "--set", "data.source=/nowhere"], 2, "nothing at /nowhere"),
        (["run", "--preset", "d4", "--spec", "x.toml"], 2, "two ways to say the same"),
        (["run", "--spec", "missing.toml"], 2, "cannot read the spec"),
        (["run", "--name", "Ünïcode"], 2, "is not allowed"),
        (["run", "--name", "My Fox", "--dry-run"], 2, "for example my-fox"),
        (["run", "--set", "alerts.command=echo", "--dry-run"], 2, 'should be a list, as in ["one", "two"]'),
        (["run", "--nproc", "many", "--dry-run"], 2, "runtime.nproc"),
        (["plan", "--on", "0xH100"], 2, "COUNTxDEVICE"),
        (["plan", "--on", "8xH1000"], 2, 'no device is known as "H1000"; did you mean "H100"?'),
        (["metrics", "done", "--format", "xyz"], 2, "'--format': \"xyz\" is none of csv, jsonl, parquet"),
        (["status", "nobody"], 3, '"nobody" names no run'),
        (["logs", "done", "--from", "../../etc/passwd"], 3, "is no log"),
        (["checkpoints", "nobody"], 3, "names no run"),
        (["sample", "done@7"], 3, "has no checkpoint yet"),
        (["sample", "done@seven"], 2, "after the @ comes a step"),
        (["wait", "done"], 0, ""),
        (["wait", "broken"], 4, "check the cable"),
        (["wait", "done", "--for", "paused"], 4, "will not be paused"),
        (["wait", "done", "--for", "sleeping"], 2, "--for takes step=N or a state"),
        (["events", "done", "--since", "yesterday"], 2, "--since takes a sequence number"),
        (["pause", "done"], 6, "not running"),
        (["stop", "broken"], 6, "llmctl resume broken"),
        (["kill", "done", "-y"], 6, "not running"),
        (["resume", "done"], 6, "llmctl fork done@last --set train.num_iterations="),
        (["sample", "done", "--live"], 6, "not training now"),
        (["attach", "done"], 2, "needs a terminal"),
        (["attach", "nobody"], 3, '"nobody" names no run'),
        (["attach", "ssh://me@box/done", "--web"], 2, "forward its port with ssh -L"),
        (["attach", "nobody", "--web"], 3, '"nobody" names no run'),
    ],
)
def test_every_refusal_says_what_to_change(
    llmctl: Llmctl, arguments: list[str], code: int, says: str
) -> None:
    completed_run()
    failed_run()
    result = llmctl(*arguments)
    assert (result.code, says in result.err) == (code, True), result
    assert "Traceback" not in result.err


def test_there_are_no_runs_at_first(llmctl: Llmctl) -> None:
    assert llmctl("status", "@last").code == 3
    listing = llmctl("ls")
    assert (listing.code, listing.out) == (0, "")
    assert "llmctl run" in listing.err
    assert llmctl("ls", "--json").json() == []


@pytest.mark.parametrize(
    "name", ["../../etc", "a\x1b]0;owned\x07b", "x" * 300, "", "@", "@last@last", "-", "a/b", "%s{0}"]
)
def test_a_hostile_name_is_a_name_that_is_not_there(llmctl: Llmctl, name: str) -> None:
    completed_run()
    result = llmctl("status", "--", name)
    assert result.code == 3, result
    assert "\x1b" not in result.err
    assert llmctl("run", "--name", name).code == 2
    assert not list((Path(os.environ["LLMCTL_HOME"])).rglob("*owned*"))


def test_our_own_bug_names_a_file_with_the_traceback(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError) as raised:
        raise KeyError("a\x1b[31mb")
    assert explain(raised.value) == 1
    said = capsys.readouterr().err
    file = Path(said.rsplit(maxsplit=1)[-1])
    assert file.parent == home / "tracebacks"
    assert "KeyError" in file.read_text()
    assert "\x1b" not in said


def test_a_full_or_forbidden_disk_is_a_refusal_and_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(OSError(errno.ENOSPC, "No space left on device", "/data/x")) == 6
    assert "/data/x" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(SpecError("wrong"), 2), (RefusedError("not now"), 6)])
def test_an_errors_class_is_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(error) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_ctrl_c_ends_a_wait_with_130(home: Path) -> None:
    run, lock = create_run("live", RunSpec())  # its lock is ours, so the run reads as alive
    process = subprocess.Popen(
        [PROGRAM, "events", "live", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    write(run, "train", train_step(1))  # the line that comes back says that it follows
    assert process.stdout is not None
    assert "train:1 train_step step=1" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    os.close(lock)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_reader_that_goes_away_ends_the_program_quietly(home: Path) -> None:
    completed_run()
    process = subprocess.Popen(
        [PROGRAM, "presets", "d12"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(timeout=20) == -signal.SIGPIPE
    assert "Traceback" not in said
    process.stderr.close()
