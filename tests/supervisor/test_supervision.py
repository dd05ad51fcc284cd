import os
import select
import signal
from pathlib import Path

import psutil
import pytest

from tests.supervisor.conftest import (
    Daemons,
    agent_pid,
    events,
    follow,
    kill_and_wait,
    kind_is,
    rank_pids,
    state_is,
    states,
    wait_until,
    wait_until_over,
    watch,
)
from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import (
    Alert,
    Command,
    CommandDone,
    Finished,
    Notice,
    RankExited,
    Resumed,
    Stalled,
    StateChanged,
)
from trainer_daemon.contract.journal import read_all
from trainer_daemon.contract.rundir import STACKS_SIGNAL
from trainer_daemon.contract.status import load_snapshot, observe
from trainer_daemon.link.client import Feed, request_kill, send_command
from trainer_daemon.supervisor.stacks import catches
from trainer_daemon.supervisor.sweep import run_processes


def test_a_run_that_is_done_is_completed_and_leaves_no_process(daemons: Daemons) -> None:
    run = daemons.start(steps=5, nproc=2)
    wait_until_over(run, daemons.pid)
    assert states(run) == ["starting", "completed"]
    assert observe(run).state == load_snapshot(run).state == "completed"
    assert run_processes(run) == []
    assert not run.supervisor_is_alive()
    with pytest.raises(RefusedError, match="is complete"):
        daemons.resume(run)
    assert states(run) == ["starting", "completed"]


def test_stop_saves_first_and_resume_goes_on_from_there(daemons: Daemons) -> None:
    run = daemons.start()
    watch(run, kind_is("train_step"))
    request_id = send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    assert states(run) == ["starting", "stopping", "stopped"]
    stopped_at = events(run, Finished)[-1].step
    assert CommandDone(request_id, "stop", ok=True, message=f"stopped at {stopped_at}") in events(
        run, CommandDone
    )

    daemons.resume(run)
    seen = watch(run, kind_is("resumed", attempt=2))
    assert seen[-1].seq > 0
    assert events(run, Resumed)[-1].step == stopped_at
    assert observe(run).restarts == 0, "the user asked for it, nothing had failed"


def test_pause_holds_the_steps_and_resume_lets_them_go(daemons: Daemons) -> None:
    run = daemons.start()
    watch(run, kind_is("train_step"))
    paused = send_command(run, "pause")
    watch(run, lambda r: isinstance(r.event, CommandDone) and r.event.request_id == paused)
    assert observe(run).state == "paused"
    with pytest.raises(RefusedError, match="is paused already"):
        send_command(run, "pause")
    saved = send_command(run, "save")
    watch(run, lambda r: isinstance(r.event, CommandDone) and r.event.request_id == saved)
    records = list(read_all(run.journal))
    after_pause = records[[isinstance(r.event, CommandDone) for r in records].index(True) :]
    assert not [r for r in after_pause if r.kind == "train_step"]

    resumed = send_command(run, "resume")
    watch(run, lambda r: isinstance(r.event, CommandDone) and r.event.request_id == resumed)
    with pytest.raises(RefusedError, match="is not paused"):
        send_command(run, "resume")
    before = observe(run).step
    watch(run, lambda r: r.kind == "train_step" and getattr(r.event, "step", 0) > before)


def test_a_killed_rank_is_named_and_the_run_starts_again(daemons: Daemons) -> None:
    run = daemons.start(nproc=2)
    watch(run, kind_is("train_step"))
    os.kill(rank_pids(run)[0], signal.SIGKILL)
    watch(run, kind_is("train_step", attempt=2))
    (exited,) = events(run, RankExited)
    assert exited.signal == "SIGKILL"
    assert exited.is_root_cause
    assert observe(run).restarts == 1
    again = [e for e in events(run, StateChanged) if "restart 1 of 3" in e.reason]
    assert again
    assert observe(run).state == "running"


def test_a_run_that_keeps_falling_without_progress_is_given_up(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "crash")
    run = daemons.start(max_restarts=2)
    wait_until_over(run, daemons.pid)
    status = observe(run)
    assert status.state == "failed"
    assert status.attempt == 3
    assert status.error is not None
    assert status.error["kind"] == "no_progress"
    message = status.error["message"]
    assert "the third step is cursed" in message
    assert "2 restarts without a new checkpoint" in message
    assert str(run.rank_log(0)) in message
    assert run.rank_log(0).read_text().count("is up") == 3


def test_a_checkpoint_renews_the_allowance_of_restarts(daemons: Daemons) -> None:
    run = daemons.start(max_restarts=1)
    for attempt in (1, 2, 3):
        watch(run, kind_is("train_step", attempt=attempt))
        send_command(run, "save")
        watch(run, kind_is("checkpoint_saved", attempt=attempt))
        os.kill(rank_pids(run)[0], signal.SIGKILL)
    watch(run, kind_is("train_step", attempt=4))
    assert observe(run).state == "running"


def test_a_spec_error_of_a_rank_is_not_tried_again(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "exit2")
    run = daemons.start()
    wait_until_over(run, daemons.pid)
    status = observe(run)
    assert (status.state, status.attempt) == ("failed", 1)
    assert status.error is not None
    assert status.error["kind"] == "spec"
    assert "there is nothing at /nowhere" in status.error["message"]


def test_a_killed_agent_takes_its_ranks_along_and_the_run_starts_again(daemons: Daemons) -> None:
    run = daemons.start(nproc=2)
    watch(run, kind_is("train_step"))
    first = rank_pids(run)
    kill_and_wait(agent_pid(run))
    watch(run, kind_is("train_step", attempt=2))
    assert not set(first) & set(rank_pids(run))
    assert "launcher of the ranks was killed by SIGKILL" in str(events(run, StateChanged))


def test_what_a_killed_rank_leaves_behind_is_swept(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "orphan")
    run = daemons.start(max_restarts=0)
    watch(run, kind_is("train_step"))
    assert any(p.name() == "sleep" for p in run_processes(run))
    os.kill(rank_pids(run)[0], signal.SIGKILL)
    wait_until_over(run, daemons.pid)
    assert run_processes(run) == []
    assert observe(run).state == "failed"


def test_kill_ends_every_process_at_once(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "orphan")
    run = daemons.start(nproc=3)
    watch(run, kind_is("train_step"))
    assert len(run_processes(run)) == 5  # the agent, three ranks, and what one of them started
    request_kill(run)
    assert run_processes(run) == []
    wait_until_over(run, daemons.pid)
    assert observe(run).state == "stopped"
    assert "killed on request" in events(run, StateChanged)[-1].reason


def test_ranks_that_do_not_see_a_stop_get_sigterm_and_save(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "busy")
    monkeypatch.setenv("STOP_SECONDS", "0.3")
    monkeypatch.setenv("TERMINATE_SECONDS", "600")
    run = daemons.start()
    watch(run, kind_is("train_step"))
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    assert events(run, Finished)[-1].message.startswith("stopped by a signal")
    assert events(run, CommandDone)[-1].ok
    assert states(run)[-2:] == ["stopping", "stopped"]


def test_ranks_that_do_not_stop_get_sigterm_and_then_sigkill(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "deaf")
    monkeypatch.setenv("STOP_SECONDS", "0.3")
    run = daemons.start(nproc=2)
    watch(run, kind_is("train_step"))
    asked = {send_command(run, "stop"), send_command(run, "stop")}
    wait_until_over(run, daemons.pid)
    assert states(run)[-2:] == ["stopping", "stopped"]
    answers = events(run, CommandDone)
    assert {a.request_id for a in answers} == asked, "whoever asked again is answered too"
    assert not any(a.ok for a in answers), "nothing was saved"
    notices = str([r.event for r in read_all(run.journal) if r.kind == "notice"])
    assert notices.index("SIGTERM") < notices.index("SIGKILL")
    assert run_processes(run) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_the_supervisor_is_a_stop_that_saves(daemons: Daemons, number: signal.Signals) -> None:
    run = daemons.start()
    watch(run, kind_is("train_step"))
    kill_and_wait(daemons.pid, number)
    assert states(run)[-2:] == ["stopping", "stopped"]
    assert number.name in events(run, StateChanged)[-2].reason
    assert events(run, Finished)[-1].reason == "stopped"


def test_a_stop_before_the_ranks_step_is_kept_for_them(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = daemons.start()  # returns before there are ranks
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    assert states(run)[-1] == "stopped"


def test_between_two_attempts_stop_is_obeyed_and_the_rest_refused(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "crash")
    run = daemons.start(restart_delay_seconds=600)
    watch(run, lambda r: isinstance(r.event, StateChanged) and "in 600 s" in r.event.reason)
    with pytest.raises(RefusedError, match="between two attempts"):
        send_command(run, "save")
    request_id = send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    assert states(run)[-1] == "stopped"
    assert request_id in [e.request_id for e in events(run, CommandDone)]


def test_a_paused_run_that_falls_comes_back_paused(daemons: Daemons) -> None:
    run = daemons.start()
    watch(run, kind_is("train_step"))
    send_command(run, "pause")
    watch(run, kind_is("command_done"))
    os.kill(rank_pids(run)[0], signal.SIGKILL)
    watch(run, kind_is("command_done", attempt=2))
    assert observe(run).state == "paused"


# --------------------------------------------------------------------------------- the supervisor itself dies


def test_ranks_outlive_their_supervisor_and_a_new_one_takes_them_over(daemons: Daemons) -> None:
    run = daemons.start(nproc=2)
    watch(run, kind_is("train_step"))
    ranks = rank_pids(run)
    kill_and_wait(daemons.pid)
    status = observe(run)
    assert status.state == "running"
    assert status.error is not None
    assert status.error["kind"] == "supervisor_lost"
    watch(run, lambda r: r.kind == "train_step" and getattr(r.event, "step", 0) > status.step + 3)

    pid = daemons.resume(run)
    # a daemon reports that it is up before it looks whose ranks are there
    watch(run, lambda r: isinstance(r.event, StateChanged) and r.event.pid == pid)
    status = observe(run)
    assert (status.state, status.pid, status.attempt, status.error) == ("running", pid, 1, None)
    assert rank_pids(run) == ranks
    send_command(run, "stop")
    wait_until_over(run, pid)
    assert observe(run).state == "stopped"
    assert [r.seq for r in read_all(run.journal) if r.stream == "train"] == list(
        range(1, max(r.seq for r in read_all(run.journal) if r.stream == "train") + 1)
    )


def test_a_supervisor_that_dies_while_it_launches_leaves_no_second_set_of_ranks(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_DELAY", "600")  # it does not come to say who it is
    run = daemons.start(nproc=2)
    wait_until(lambda: run_processes(run) != [], "no agent was launched")
    first = psutil.Process(agent_pid(run))
    kill_and_wait(daemons.pid)
    monkeypatch.setenv("AGENT_DELAY", "0")
    daemons.resume(run)
    watch(run, kind_is("train_step"))
    assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE
    wait_until(lambda: len(rank_pids(run)) == 2, "there are not two ranks")


def test_a_rank_of_a_run_that_was_taken_over_may_fall_and_start_again(daemons: Daemons) -> None:
    run = daemons.start()
    watch(run, kind_is("train_step"))
    kill_and_wait(daemons.pid)
    daemons.resume(run)
    os.kill(rank_pids(run)[0], signal.SIGKILL)
    watch(run, kind_is("train_step", attempt=2))
    assert events(run, RankExited)[0].signal == "SIGKILL"


def test_a_run_that_was_taken_over_can_be_killed(daemons: Daemons) -> None:
    run = daemons.start(nproc=2)
    watch(run, kind_is("train_step"))
    kill_and_wait(daemons.pid)
    daemons.resume(run)
    request_kill(run)
    assert run_processes(run) == []
    wait_until_over(run, daemons.pid)
    assert observe(run).state == "stopped"


def test_a_run_that_ended_well_without_a_supervisor_is_completed_by_the_next(daemons: Daemons) -> None:
    """The ranks finish while nobody watches; a later supervisor sees that there is nothing left to do."""
    run = daemons.start(steps=60)
    watch(run, kind_is("train_step"))
    kill_and_wait(daemons.pid)
    watch(run, kind_is("finished"))
    pid = daemons.resume(run)
    wait_until_over(run, pid)
    assert observe(run).state == "completed"
    assert observe(run).attempt == 1, "no rank was started to find that out"


def test_when_all_processes_die_at_once_the_run_is_crashed_and_resumes(daemons: Daemons) -> None:
    run = daemons.start(nproc=2)
    watch(run, kind_is("train_step"))
    send_command(run, "save")
    watch(run, kind_is("checkpoint_saved"))
    for pid in (daemons.pid, agent_pid(run), *rank_pids(run)):
        kill_and_wait(pid)
    assert observe(run).state == "crashed"
    daemons.resume(run)
    watch(run, kind_is("resumed", attempt=2))
    assert observe(run).state == "running"


def test_commands_of_an_earlier_attempt_are_not_obeyed_again(daemons: Daemons) -> None:
    run = daemons.start()
    watch(run, kind_is("train_step"))
    send_command(run, "stop")
    wait_until_over(run, daemons.pid)
    daemons.resume(run)
    watch(run, kind_is("train_step", attempt=2))
    before = observe(run).step
    watch(run, lambda r: r.kind == "train_step" and getattr(r.event, "step", 0) > before + 5)
    assert len(events(run, Command)) == 1


def test_a_folder_named_like_ours_in_the_working_folder_is_not_imported(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trainer_daemon").mkdir()
    (tmp_path / "trainer_daemon" / "__init__.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    run = daemons.start(steps=3)
    wait_until_over(run, daemons.pid)
    assert observe(run).state == "completed"


def test_the_supervisor_loads_no_torch_and_stays_small(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "sleepy")
    run = daemons.start()
    watch(run, kind_is("phase_changed"))
    assert psutil.Process(daemons.pid).memory_info().rss < 100 * 2**20
    assert "torch" not in Path(f"/proc/{daemons.pid}/maps").read_text()


def test_ranks_that_fall_silent_are_told_once_and_forgiven_when_they_go_on(
    daemons: Daemons,
) -> None:
    run = daemons.start(sections={"health": {"hang_seconds": 5}})
    with Feed(run) as feed:
        follow(feed, kind_is("train_step"))
        (rank,) = rank_pids(run)
        os.kill(rank, signal.SIGSTOP)
        follow(feed, kind_is("stalled"))
        status = observe(run)
        assert status.error is not None
        assert status.error["kind"] == "stalled"
        assert "llmctl logs" in status.error["message"]
        os.kill(rank, signal.SIGCONT)
        follow(feed, kind_is("train_step"))
    assert observe(run).error is None
    assert len(events(run, Stalled)) == 1


@pytest.mark.fault
def test_ranks_that_hang_leave_their_stacks_and_are_killed_and_started_again(daemons: Daemons) -> None:
    run = daemons.start(nproc=2, sections={"health": {"hang_seconds": 4}})
    with Feed(run) as feed:
        follow(feed, kind_is("train_step"))
        wait_until(lambda: len(rank_pids(run)) == 2, "there are not two ranks")
        ranks = rank_pids(run)
        # the first may step while the second is not yet asked for its stacks
        wait_until(lambda: all(catches(pid, STACKS_SIGNAL) for pid in ranks), "a rank has no handler")
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        follow(feed, kind_is("stalled"))
        assert "killed and started again" in str(observe(run).error)
        seen = follow(feed, state_is("starting"))
        assert "restart 1 of 3" in str(seen[-1].event)
        assert "said nothing for" in str(seen[-1].event)
        follow(feed, kind_is("train_step", attempt=2))
    assert not set(ranks) & set(rank_pids(run))
    for rank in (0, 1):
        assert "rank_program.py" in run.rank_stacks(1, rank).read_text(), rank
    assert [e.stacks for e in events(run, Stalled)] == [None], "a stopped process could not write yet"


def test_a_run_with_a_time_limit_saves_and_stops_before_it_and_may_be_resumed(daemons: Daemons) -> None:
    run = daemons.start(time_limit_minutes=0.05)
    wait_until_over(run, daemons.pid)
    status = observe(run)
    assert status.state == "stopped"
    assert "time limit of 0.05 minutes" in events(run, StateChanged)[-2].reason
    assert status.last_checkpoint is not None
    assert status.last_checkpoint["step"] == status.step
    daemons.resume(run)
    # on a slow machine its time may be up before its first step
    watch(run, kind_is("phase_changed", attempt=2))


def test_a_run_that_goes_wrong_slowly_is_told_so(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    """With VOCAB_SIZE the stand-in's loss is its logarithm at every step: a model that learns nothing."""
    monkeypatch.setenv("STEP_SECONDS", "0.001")
    monkeypatch.setenv("VOCAB_SIZE", "7")
    run = daemons.start(steps=400)
    wait_until_over(run, daemons.pid)
    assert [(e.name, e.step) for e in events(run, Alert)] == [("loss_stuck", 160)]
    assert "ln V" in str(observe(run).alert)


@pytest.mark.fault
def test_a_flood_of_output_is_held_to_its_bound_and_told(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 50, the disk's half: 400 MB printed within one step, the second half as soon as the first was cut."""
    monkeypatch.setenv("FAULT", "flood")
    run = daemons.start(steps=3)
    largest = 0
    while run.supervisor_is_alive():
        largest = max(largest, sum(p.stat().st_size for p in run.logs.iterdir()))
        select.select([], [], [], 0.02)
    assert observe(run).state == "completed"
    assert largest <= 320e6
    assert ["rank-0.log grew" in e.text for e in events(run, Notice)] == [True]
