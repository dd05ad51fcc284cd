"""The supervisor: one thread, one loop, one poll.

It owns the run's lock, starts the ranks through an agent, watches how they end and decides what is next: that is here, with the
stop ladder. What it reads and publishes is in `telemetry`, what it was asked for in `control`, what it does about silence in
`hang`. It only ever follows: the ranks write their own journal, so nothing is lost while it is dead, and a later one takes
over where it stopped.
"""

import ctypes
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import (
    FINAL_STATES,
    CheckpointSaved,
    CommandDone,
    Event,
    FailureCause,
    Finished,
    Forked,
    Notice,
    RankExited,
    SettingChanged,
    State,
    StateChanged,
)
from trainer_daemon.contract.journal import JournalWriter, Record
from trainer_daemon.contract.output import CUT_BYTES, cut_outgrown
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.contract.settings import change_settings, present_spec
from trainer_daemon.contract.spec import flat_values
from trainer_daemon.contract.transitions import BY_SUPERVISOR
from trainer_daemon.contract.wire import HEARTBEAT_SECONDS, Request
from trainer_daemon.supervisor.agent import AdoptedAgent, Agent, LaunchedAgent
from trainer_daemon.supervisor.attempts import RESULT_FILE, AttemptResult, read_struct
from trainer_daemon.supervisor.collectives import COLLECTIVES, save_collectives
from trainer_daemon.supervisor.commands import (
    CommandArguments,
    Life,
    check_arguments,
    lapsed,
    refusal,
)
from trainer_daemon.supervisor.control import Control
from trainer_daemon.supervisor.deliveries import Deliveries, occasion_of
from trainer_daemon.supervisor.diagnosis import Diagnosis
from trainer_daemon.supervisor.hang import HangWatch
from trainer_daemon.supervisor.port import Port
from trainer_daemon.supervisor.reading import read_log, read_range
from trainer_daemon.supervisor.stacks import save_stacks
from trainer_daemon.supervisor.sweep import kill_run_processes, reap_orphans
from trainer_daemon.supervisor.system import SystemWatch
from trainer_daemon.supervisor.telemetry import Telemetry
from trainer_daemon.supervisor.verdict import judge
from trainer_daemon.supervisor.watchdog import phase_of

TAIL_SECONDS = 0.03
"""How often the journal is looked at."""
LEAVING_SECONDS = 30.0
"""Before a time limit, beside three times the last save and two steps: to reach a step boundary, save and leave."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""All mean: save now and stop. SIGUSR1 is what SLURM's --signal sends some time before the end."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the ranks get to end by themselves before the next rung of the ladder."""

    stop_seconds: float = 120.0
    """After `stop`, to save and leave; three times the last save when that is longer. Then SIGTERM."""
    terminate_seconds: float = 30.0
    """After SIGTERM. Then SIGKILL."""
    finish_seconds: float = 60.0
    """After the ranks' own last word. Then SIGTERM."""


class Supervisor:
    """Supervises one run until it ends. The caller holds run.lock."""

    def __init__(
        self,
        run: RunDir,
        port: Port,
        agent_command: Callable[[int], list[str]],
        *,
        patience: Patience | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """`changes` are the values of the spec, by key, that change from now on.

        Raises RefusedError for a run that is complete, SpecError for a value that may not change on resume.
        """
        self._run = run
        self._port = port
        self._agent_command = agent_command
        self._patience = patience or Patience()

        self._telemetry = Telemetry(run, port)
        self._status = self._telemetry.status
        if self._status.state == "completed":
            raise RefusedError(f"{run.name} is complete: all {self._status.step} steps are done")
        if changes and run.ranks_are_alive():
            raise RefusedError(f"{run.name} trains on without its supervisor; resume it first, then stop it")
        before = change_settings(run, changes or {})
        self._spec = present_spec(run)
        self._attempt = self._status.attempt
        self._daemon = JournalWriter(run.journal, "daemon", self._attempt)
        self._control = Control(run, self._attempt, self._emit)
        self._system = JournalWriter(run.journal, "system", self._attempt)
        self._system_watch = SystemWatch()
        for writer in (self._daemon, self._control.journal):
            if writer.repaired_bytes:
                text = (
                    f"{writer.repaired_bytes} bytes of a torn line were cut off the {writer.stream} journal"
                )
                self._daemon.append(Notice("warning", text))
        if self._attempt == 0 and (origin := read_struct(run.origin_file, Forked)) is not None:
            self._daemon.append(origin)
        for key, value in before.items():
            now = flat_values(self._spec)[key]
            self._daemon.append(SettingChanged(self._status.step, key, now, before=value))
        self._agent: Agent | None = None
        self._state: State = "starting"
        self._relaunch_at = time.monotonic()
        self._launch_reason = "started" if self._attempt == 0 else "resumed"
        self._failures_in_a_row = 0
        self._finished: Finished | None = None
        self._stop_reason: str | None = None
        self._stop_done: CommandDone | None = None
        """How the ranks answered a stop."""
        self._stop_is_final = False
        """Whether the ranks end even when they cannot save."""
        self._ladder_since: float | None = None
        self._terminated_at: float | None = None
        self._save_seconds = 0.0
        self._asked_to_end: str | None = None
        self._next_beat = 0.0
        self._hang_watch = HangWatch(run, self._spec.health.hang_seconds, self._emit)
        self._diagnosis = Diagnosis(self._spec.model.family)
        self._cut_logs: set[str] = set()
        self._deliveries = Deliveries(
            self._spec.alerts, run, lambda text: self._emit(Notice("warning", text))
        )
        self._began = time.monotonic()

    # ------------------------------------------------------------------------------------------------- the loop

    def run(self) -> State:
        """Supervise until the run has ended; returns how."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in STOP_SIGNALS:
            signal.signal(number, self._note_signal)
        if sys.platform == "linux":  # orphans of a dead agent come to us, so that none is left behind
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for event in self._telemetry.told_before():
            self._diagnosis.remember(event)
        self._take_over()
        while self._state not in FINAL_STATES:
            self._port.serve(TAIL_SECONDS, self._answer)
            self._follow_journal()
            self._step()
            self._bound_logs()
            self._beat()
        self._deliver_the_rest()
        self._telemetry.store()
        return self._state

    def close(self) -> None:
        self._telemetry.close()
        self._daemon.close()
        self._control.close()
        self._system_watch.close()
        self._system.close()

    def _deliver_the_rest(self) -> None:
        """Whoever is told of the end hears of it; what fails is in the journal, too. Each has its own time limit."""
        self._follow_journal()
        while self._deliveries.pids:
            self._port.serve(TAIL_SECONDS, self._answer)
            self._deliveries.look()
            self._follow_journal()

    def _note_signal(self, number: int, _frame: object) -> None:
        self._asked_to_end = f"the supervisor got {signal.Signals(number).name}"

    def _take_over(self) -> None:
        """Go on with ranks that are running already, if there are any."""
        agent = AdoptedAgent.find(self._run, self._attempt)
        if agent is None:
            self._control.pause_wanted = False
            # an agent that had only just been started, or workers of ranks that are dead
            self._kill_processes()
            if (
                last_word := self._telemetry.last_word_of_ranks()
            ) is not None and last_word.reason == "completed":
                self._enter("completed", last_word.message)
            return
        self._agent = agent
        self._hang_watch.begin(phase_of(self._status.phase))
        was_stopping = self._status.state == "stopping"
        self._enter(
            self._status.state if self._status.state not in FINAL_STATES else "running",
            "a new supervisor took over the running ranks",
        )
        if was_stopping:
            self._stop_reason = "stopped"
            self._ladder_since = time.monotonic()

    def _step(self) -> None:
        """Whatever is due now."""
        self._deliveries.look()
        with suppress(RefusedError):  # neither disk nor memory took the command: it is tried again
            if self._asked_to_end and self._stop_reason is None:
                self._stop(uuid.uuid4().hex, self._asked_to_end, even_unsaved=True)
            if self._stop_reason is None and self._time_is_up():
                limit = self._spec.runtime.time_limit_minutes
                self._stop(
                    uuid.uuid4().hex, f"the time limit of {limit:g} minutes is near", even_unsaved=True
                )
        if self._agent is not None:
            reap_orphans(self._deliveries.pids | {self._agent.pid or 0})
            if self._agent.is_over():
                self._end_attempt(self._agent)
            elif self._stop_failed():
                self._call_off_stop()
            else:
                self._climb_ladder(self._agent)
        elif self._stop_reason is not None:
            self._control.settle(stop_ok=True, stop_message="stopped; no rank was running")
            self._enter("stopped", self._stop_reason)
        elif time.monotonic() >= self._relaunch_at:
            self._launch()

    def _time_is_up(self) -> bool:
        """Whether what is left of the time limit is just enough to save and leave."""
        if self._spec.runtime.time_limit_minutes is None:
            return False
        limit = 60 * self._spec.runtime.time_limit_minutes
        needed = LEAVING_SECONDS + 3 * self._save_seconds + 2 * (self._status.step_seconds or 0.0)
        return time.monotonic() - self._began > limit - min(needed, limit / 2)

    def _beat(self) -> None:
        """Once a second: tell watchers, be there for those that come, and put on disk what is known."""
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + HEARTBEAT_SECONDS
        self._port.stay_reachable()
        if self._agent is not None:
            pid = self._agent.pid
            # ranks that are asked to leave are the stop ladder's
            if self._ladder_since is None and self._hang_watch.look(self._attempt, is_ours=pid is not None):
                self._kill_processes()
            if sample := self._system_watch.take(pid, time.monotonic()):
                self._system.append(sample)
        self._telemetry.beat()

    def _bound_logs(self) -> None:
        for name in cut_outgrown(self._run.logs):
            if name not in self._cut_logs:  # once: a flood would fill the journal, too
                self._cut_logs.add(name)
                text = f"{name} grew by {CUT_BYTES >> 20} MB between two steps; what was in it is lost"
                self._emit(Notice("warning", text))

    # ------------------------------------------------------------------------------------------------- attempts

    def _launch(self) -> None:
        if self._run.ranks_are_alive():  # someone started ranks by hand in the meantime: they are the run
            self._take_over()
            return
        self._attempt += 1
        self._daemon.attempt = self._system.attempt = self._attempt
        self._finished = self._stop_done = self._ladder_since = self._terminated_at = None
        self._hang_watch.begin()
        self._enter("starting", self._launch_reason)
        control_after = self._control.begin_attempt(self._attempt)
        try:
            self._run.attempt(self._attempt).mkdir(parents=True, exist_ok=True)
            self._agent = LaunchedAgent(
                self._agent_command(self._attempt), self._run, self._attempt, control_after
            )
        except OSError as e:
            self._enter("failed", f"the ranks could not be started: {e}")

    def _end_attempt(self, agent: Agent) -> None:
        """The agent is gone: make sure that nothing of it is left, learn why, decide what is next."""
        unkillable = self._kill_processes()
        reap_orphans(self._deliveries.pids)
        self._agent = None
        self._follow_journal()
        result = read_struct(self._run.attempt(self._attempt) / RESULT_FILE, AttemptResult)
        if self._finished is None:
            self._failures_in_a_row += 1
            if (
                self._hang_watch.reason is None
            ):  # a rank that fell leaves the others in an exchange that never ends
                save_collectives(self._run, self._attempt)
            for rank in result.ranks if result else []:
                self._emit(
                    RankExited(rank.rank, rank.exit_code, rank.signal, rank.message, rank.is_root_cause)
                )
        if self._stop_done is not None:
            self._control.settle(stop_ok=self._stop_done.ok, stop_message=self._stop_done.message)
        elif self._finished is not None:
            self._control.settle(
                stop_ok=self._finished.reason != "failed", stop_message=self._finished.message
            )
        else:
            self._control.settle(stop_ok=False, stop_message="the ranks ended before they could save")
        verdict = judge(
            self._run,
            self._spec.runtime,
            finished=self._finished,
            result=result,
            agent_ending=agent.ending(),
            hang=self._hang_watch.reason,
            failures_in_a_row=self._failures_in_a_row,
            stop_reason=self._stop_reason,
            unkillable=unkillable,
        )
        if verdict.state is not None:
            self._enter(verdict.state, verdict.reason, verdict.cause)
            return
        self._deliveries.send("crash", verdict.reason, self._status)
        self._launch_reason = verdict.reason
        self._relaunch_at = time.monotonic() + verdict.delay_seconds
        self._enter("starting", verdict.reason)

    def _kill_processes(self) -> list[int]:
        """SIGKILL every process of the run; the pids that would not die."""
        return kill_run_processes(self._run, spare=self._deliveries.pids)

    def _climb_ladder(self, agent: Agent) -> None:
        """Ranks that should be gone get time, then SIGTERM, then SIGKILL."""
        if self._ladder_since is None:
            return
        now = time.monotonic()
        if self._terminated_at is None:
            patience = (
                self._patience.finish_seconds
                if self._finished is not None
                else max(self._patience.stop_seconds, 3 * self._save_seconds)
            )
            if now - self._ladder_since > patience:
                self._emit(
                    Notice("warning", f"the ranks did not end within {patience:g} s; they get SIGTERM")
                )
                self._terminated_at = now
                agent.terminate()
        elif now - self._terminated_at > self._patience.terminate_seconds:
            save_collectives(self._run, self._attempt)
            stacks = save_stacks(self._run, self._attempt, wake=True)
            told = f"; where each one was: {stacks}/rank-*.stacks and {COLLECTIVES}" if stacks else ""
            self._emit(Notice("warning", f"the ranks ignored SIGTERM; they get SIGKILL{told}"))
            self._terminated_at = now
            self._kill_processes()

    def _stop(self, request_id: str, reason: str, *, even_unsaved: bool = False) -> None:
        self._control.grant(request_id, "stop", {"even_unsaved": even_unsaved})
        self._stop_reason, self._stop_is_final = reason, even_unsaved
        if self._agent is not None:
            self._ladder_since = time.monotonic()
            self._enter("stopping", reason)

    def _stop_failed(self) -> bool:
        """Whether the ranks were asked to save and stop, could not save, and so train on."""
        if self._stop_done is None or self._stop_done.ok or self._stop_is_final:
            return False
        return self._finished is None and self._terminated_at is None

    def _call_off_stop(self) -> None:
        """Whoever asked for the stop decides anew."""
        assert self._stop_done is not None
        why = self._stop_done.message
        self._control.refuse_stops(why)
        self._stop_reason = self._stop_done = self._ladder_since = None
        self._enter("running", why)

    # -------------------------------------------------------------------------------------------------- journal

    def _enter(self, state: State, reason: str, cause: FailureCause | None = None) -> None:
        assert state in BY_SUPERVISOR[self._status.state], f"{state} does not follow {self._status.state}"
        self._state = state
        self._emit(StateChanged(state, reason, os.getpid(), self._attempt, cause))
        self._follow_journal()
        self._telemetry.store()

    def _emit(self, event: Event) -> None:
        self._daemon.append(event)

    def _follow_journal(self) -> None:
        """Publish what was appended since the last look, and act on it."""
        for record in self._telemetry.follow():
            self._take_in(record)

    def _take_in(self, record: Record) -> None:
        self._hang_watch.hear(record)
        for alert in self._diagnosis.take(record.event):
            self._emit(alert)
        if (occasion := occasion_of(record.event)) is not None:
            self._deliveries.send(*occasion, self._status)
        match record.event:
            case CheckpointSaved(seconds=seconds):
                self._failures_in_a_row = 0
                self._save_seconds = seconds
            case CommandDone() as done:
                self._control.hear(done)
                if done.name == "stop":
                    self._stop_done = done
            case Finished() as finished if record.attempt == self._attempt:
                self._finished = finished
                self._ladder_since = time.monotonic()
            case _:
                pass

    # ------------------------------------------------------------------------------------------------- requests

    def _answer(self, request: Request) -> dict[str, Any]:
        match request.op:
            case "ping":
                return {}
            case "hello":
                return {
                    "name": self._run.name,
                    "pid": os.getpid(),
                    "spec": self._spec.model_dump(mode="json"),
                    "cursors": self._status.cursors,
                }
            case "range":
                return read_range(self._run, request.args)
            case "log":
                return read_log(self._run, request.args)
            case "command":
                return self._command(msgspec.convert(request.args, CommandArguments))
            case "kill":
                return self._kill()
            case "open" | "generate" | "cancel":
                raise RefusedError("a supervisor has no model; text comes from an inference worker")

    def _command(self, wanted: CommandArguments) -> dict[str, Any]:
        ledger = self._control.ledger
        if not ledger.was_granted(wanted.request_id):
            arguments = check_arguments(wanted.name, wanted.arguments, self._spec)
            name: Any = wanted.name
            sentence = lapsed(
                wanted, state=self._status.state, now=time.time(), run_name=self._run.name
            ) or refusal(
                name, life=self._life(), is_paused=self._control.pause_wanted, run_name=self._run.name
            )
            if sentence is not None:
                raise ledger.refuse(wanted.request_id, sentence)
            if name != "stop":
                self._control.grant(wanted.request_id, name, arguments, wanted.deadline)
            elif self._stop_reason is None:
                self._stop(wanted.request_id, "stopped on request")
            else:
                self._control.join_stop(wanted.request_id)
        return {"request_id": wanted.request_id}

    def _life(self) -> Life:
        if self._state in FINAL_STATES:
            return "over"
        if self._stop_reason is not None or self._finished is not None:
            return "stopping"
        return "training" if self._agent is not None else "between attempts"

    def _kill(self) -> dict[str, Any]:
        """End every process of the run at once. The loop then sees the attempt's end."""
        self._stop_reason, self._stop_is_final = "killed on request", True
        left = self._kill_processes()
        if left:
            raise RefusedError(
                f"the processes {', '.join(map(str, left))} do not die; they hang in the kernel, see dmesg"
            )
        if isinstance(self._agent, AdoptedAgent) and self._run.ranks_are_alive():
            raise RefusedError("the ranks were started by another launcher; end that one")
        return {}
