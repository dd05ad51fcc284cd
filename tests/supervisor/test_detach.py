import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import IS_FULL, rounds
from tests.supervisor.conftest import (
    DAEMON,
    END_SECONDS,
    Daemons,
    kill_and_wait,
    kind_is,
    wait_until,
    wait_until_over,
    watch,
)
from trainer_daemon.contract.errors import (
    LlmctlError,
    NotFoundError,
    RefusedError,
    SpecError,
    WaitTimeoutError,
)
from trainer_daemon.contract.rundir import RunDir, all_runs, runs_folder
from trainer_daemon.contract.status import observe
from trainer_daemon.link.client import Link
from trainer_daemon.supervisor.detach import start_supervisor


def test_a_daemon_that_is_up_holds_its_lock_and_belongs_to_nobody(daemons: Daemons) -> None:
    children = set(psutil.Process().children())
    run = daemons.start()
    assert run.supervisor_is_alive()
    process = psutil.Process(daemons.pid)
    assert process.ppid() != os.getpid()
    assert os.getsid(daemons.pid) != os.getsid(0)
    assert process.cwd() == str(run.path)
    assert process.terminal() is None
    assert set(psutil.Process().children()) == children, (
        "no child and no zombie stays with the one who started it"
    )
    assert all(p.stat().st_mode & 0o077 == 0 for p in run.path.rglob("*"))


def test_a_refusal_reaches_the_starter_as_the_error_it_is(daemons: Daemons, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r'did you mean "model.depth"'):
        daemons.ask({"name": "a", "spec": {"model": {"dept": 3}}})
    with pytest.raises(SpecError, match="not allowed"):
        daemons.ask({"name": "../a", "spec": {}})
    with pytest.raises(NotFoundError, match="not a run"):
        daemons.ask({"resume": str(tmp_path)})
    with pytest.raises(SpecError, match="resume"):
        daemons.ask({})
    assert all_runs() == []
    run = daemons.start("a")
    with pytest.raises(RefusedError, match="exists"):
        daemons.start("a")
    with pytest.raises(RefusedError, match="already going"):
        daemons.resume(run)


def test_a_daemon_that_dies_before_it_is_up_is_quoted() -> None:
    with pytest.raises(LlmctlError, match="no torch for you"):
        start_supervisor({}, program=(sys.executable, "-c", "raise SystemExit('no torch for you')"))


def test_a_daemon_that_does_not_come_up_is_ended() -> None:
    program = (sys.executable, "-c", "import os, time; os.fork() and os._exit(0); time.sleep(600)")
    with pytest.raises(WaitTimeoutError, match="was ended"):
        start_supervisor({}, program=program, timeout_seconds=0.5)
    left = [p for p in psutil.process_iter(["cmdline"]) if "os._exit(0); time.sleep(600)" in str(p.info)]
    psutil.wait_procs(left, timeout=10)
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.fault
def test_of_many_that_start_the_same_name_at_once_one_succeeds_and_is_reachable(daemons: Daemons) -> None:
    """32: fifty starters."""
    count = rounds(10, 50)

    def start(_: int) -> str:
        try:
            daemons.start("same")
        except RefusedError:
            return "refused"
        return "started"

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(start, range(count)))
    assert sorted(answers) == ["refused"] * (count - 1) + ["started"]
    (run,) = all_runs()
    assert run.name == "same"
    watch(run, kind_is("train_step"))
    with Link.to(run) as link:
        assert link.request("ping", timeout_seconds=END_SECONDS) == {}, "no loser took the winner's sockets"


DELAYS = [n * 0.1 for n in range(20)] if IS_FULL else [0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4]
"""Seconds after which who starts a run is killed."""
STARTER = (
    "import sys, json; from trainer_daemon.supervisor.detach import start_supervisor\n"
    "start_supervisor(json.loads(sys.argv[1]), program=sys.argv[2:])\n"
)


def processes_of_this_home() -> list[psutil.Process]:
    """Those that this test began, not what another one has running at the same time."""
    home = os.environ["LLMCTL_HOME"]
    every = psutil.process_iter(["cmdline", "environ"])
    return [p for p in every if (p.info["environ"] or {}).get("LLMCTL_HOME") == home]


@pytest.mark.fault
@pytest.mark.parametrize("delay", DELAYS)
def test_killing_the_starter_at_any_moment_leaves_a_whole_run_or_none(daemons: Daemons, delay: float) -> None:
    """5: twenty moments of the first two seconds."""
    request = '{"name": "a", "spec": {"train": {"num_iterations": 20}}}'
    starter = subprocess.Popen([sys.executable, "-c", STARTER, request, *DAEMON], start_new_session=True)
    try:
        starter.wait(delay)
    except subprocess.TimeoutExpired:
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait()
    # whoever was on the way arrives or has died: both end in a state that does not change. A process that becomes another
    # program has no command line for a moment, so that no daemon in sight is not enough.
    wait_until(
        lambda: (
            not any("daemon_program" in str(p.info["cmdline"]) for p in processes_of_this_home())
            and all(observe(run).state == "completed" for run in all_runs())
        ),
        "a run does not end, or a daemon stays that belongs to none",
    )
    for run in all_runs():
        assert run.read_spec().train.num_iterations == 20
    assert {p.name for p in runs_folder().glob("[!.]*")} <= {"a"}


def test_a_hang_up_of_the_whole_session_ends_nothing(daemons: Daemons) -> None:
    run = daemons.start()
    watch(run, kind_is("train_step"))
    os.killpg(os.getpgid(daemons.pid), signal.SIGHUP)
    for process in psutil.Process(daemons.pid).children(recursive=True):
        if "agent_program" not in " ".join(process.cmdline()):
            continue
        assert os.getsid(process.pid) != os.getsid(daemons.pid)
    before = observe(run).step
    watch(run, lambda r: r.kind == "train_step" and getattr(r.event, "step", 0) > before + 5)
    assert observe(run).state == "running"


def test_the_starters_home_is_the_daemons_home_even_when_it_was_relative(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMCTL_HOME", "here")
    run = daemons.start(steps=3)
    assert run.path == tmp_path / "here" / "runs" / "a"
    wait_until_over(run, daemons.pid)
    assert psutil.pid_exists(os.getpid())
    kill_and_wait(daemons.pid)
    assert RunDir(run.path).read_spec()
