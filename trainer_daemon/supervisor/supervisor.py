"""The supervisor: one thread, one loop, one poll.

It owns the run's lock, starts the ranks through an agent and watches how they end. It only ever follows: the ranks write
their own journal, so nothing is lost while it is dead, and a later one takes over where it stopped.
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
from typing import Any, Protocol

import msgspec

from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.events import (
    FINAL_STATES,
    CheckpointSaved,
    Command,
    CommandDone,
    Event,
    FailureCause,
    Finished,
    Forked,
    Notice,
    RankExited,
    SettingChanged,
    Stalled,
    State,
    StateChanged,
)
from trainer_daemon.contract.history import read_history, thin_history
from trainer_daemon.contract.journal import STREAMS, JournalReader, JournalWriter, Record, Stream
from trainer_daemon.contract.output import CUT_BYTES, cut_outgrown
from trainer_daemon.contract.rundir import RunDir, write_json
from trainer_daemon.contract.settings import change_settings, present_spec
from trainer_daemon.contract.spec import flat_values
from trainer_daemon.contract.status import fold_journal, load_snapshot
from trainer_daemon.contract.transitions import BY_SUPERVISOR
from trainer_daemon.contract.wire import HEARTBEAT_SECONDS, RANGE_LIMIT, Request
from trainer_daemon.supervisor.agent import AdoptedAgent, Agent, LaunchedAgent
from trainer_daemon.supervisor.attempts import RESULT_FILE, AttemptResult, read_struct
from trainer_daemon.supervisor.collectives import COLLECTIVES, save_collectives
from trainer_daemon.supervisor.commands import (
    CommandArguments,
    Ledger,
    Life,
    check_arguments,
    lapsed,
    refusal,
)
from trainer_daemon.supervisor.deliveries import Deliveries, occasion_of
from trainer_daemon.supervisor.diagnosis import Diagnosis
from trainer_daemon.supervisor.stacks import save_stacks
from trainer_daemon.supervisor.sweep import kill_run_processes, reap_orphans
from trainer_daemon.supervisor.system import SystemWatch
from trainer_daemon.supervisor.verdict import judge
from trainer_daemon.supervisor.watchdog import Watchdog, phase_of

TAIL_SECONDS = 0.03
"""How often the journal is looked at."""
RANGE_BYTES = 4 * 2**20
LEAVING_SECONDS = 30.0
"""Before a time limit, beside three times the last save and two steps: to reach a step boundary, save and leave."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""All mean: save now and stop. SIGUSR1 is what SLURM's --signal sends some time before the end."""
PR_SET_CHILD_SUBREAPER = 36


class Port(Protocol):
    """What the supervisor needs of its sockets."""

    def serve(self, timeout_seconds: float, answer: Callable[[Request], dict[str, Any]]) -> None:
        """Answer the requests that come within that time; an error that `answer` raises is the answer."""

    def publish(self, record: Record, line: bytes, cursors: dict[str, int]) -> None:
        """Send a journal line to all who watch."""

    def heartbeat(self, cursors: dict[str, int]) -> None:
        """Tell all who watch what there is."""

    def stay_reachable(self) -> None:
        """Make the sockets anew when someone removed them."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the ranks get to end by themselves before the next rung of the ladder."""

    stop_seconds: float = 120.0
    """After `stop`, to save and leave; three times the last save when that is longer. Then SIGTERM."""
    terminate_seconds: float = 30.0
    """After SIGTERM. Then SIGKILL."""
    finish_seconds: float = 60.0
    """After the ranks' own last word. Then SIGTERM."""


class RangeArguments(msgspec.Struct, frozen=True):
    stream: Stream
    after: int


class LogArguments(msgspec.Struct, frozen=True):
    source: str
    offset: int = 0


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

        self._status = fold_journal(run, load_snapshot(run))
        if self._status.state == "completed":
            raise RefusedError(f"{run.name} is complete: all {self._status.step} steps are done")
        if changes and run.ranks_are_alive():
            raise RefusedError(f"{run.name} trains on without its supervisor; resume it first, then stop it")
        before = change_settings(run, changes or {})
        self._spec = present_spec(run)
        self._attempt = self._status.attempt
        self._daemon = JournalWriter(run.journal, "daemon", self._attempt)
        self._control = JournalWriter(run.journal, "control", self._attempt)
        self._system = JournalWriter(run.journal, "system", self._attempt)
        self._system_watch = SystemWatch()
        for writer in (self._daemon, self._control):
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
        # watchers that come later fetch what is older, so only what is new is published
        self._readers = [JournalReader(run.journal, s, self._status.cursors.get(s, 0)) for s in STREAMS]
        self._ledger = Ledger()
        self._open_commands: dict[str, str] = {}
        """Granted and not yet done: request id -> name."""
        self._pause_wanted = False
        self._recall_commands()

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
        self._watchdog = Watchdog(self._spec.health.hang_seconds, time.monotonic())
        self._is_stalled = False
        self._hang: str | None = None
        """Why this supervisor killed the ranks, when it took them to hang."""
        self._stored_cursors: dict[str, int] = {}
        self._diagnosis = Diagnosis()
        self._known_before = dict(self._status.cursors)
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
        self._recall_curves()
        self._take_over()
        while self._state not in FINAL_STATES:
            self._port.serve(TAIL_SECONDS, self._answer)
            self._follow_journal()
            self._step()
            self._bound_logs()
            self._beat()
        self._deliver_the_rest()
        self._store()
        return self._state

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._daemon.close()
        self._control.close()
        self._system_watch.close()
        self._system.close()

    def _recall_curves(self) -> None:
        """What the diagnosis knew under earlier supervisors; a second for a run of a million steps."""
        for record in read_history(self._run.journal):
            if record.seq <= self._known_before.get(record.stream, 0):
                self._diagnosis.remember(record.event)

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
            self._pause_wanted = False
            # an agent that had only just been started, or workers of ranks that are dead
            self._kill_processes()
            if (last_word := self._last_word()) is not None and last_word.reason == "completed":
                self._enter("completed", last_word.message)
            return
        self._agent = agent
        self._watchdog = Watchdog(
            self._spec.health.hang_seconds, time.monotonic(), phase_of(self._status.phase)
        )
        was_stopping = self._status.state == "stopping"
        self._enter(
            self._status.state if self._status.state not in FINAL_STATES else "running",
            "a new supervisor took over the running ranks",
        )
        if was_stopping:
            self._stop_reason = "stopped"
            self._ladder_since = time.monotonic()

    def _last_word(self) -> Finished | None:
        """The ranks' last word, when nothing followed it."""
        last_seq = self._status.cursors.get("train", 0)
        with JournalReader(self._run.journal, "train", max(0, last_seq - 1)) as reader:
            events = [record.event for record, _ in reader.poll()]
        return events[-1] if events and isinstance(events[-1], Finished) else None

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
            self._settle_commands(stop_ok=True, stop_message="stopped; no rank was running")
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
        if self._agent is not None and self._ladder_since is None:
            self._look_for_hang(self._agent)
        if self._agent is not None and (sample := self._system_watch.take(self._agent.pid, time.monotonic())):
            self._system.append(sample)
        self._port.heartbeat(self._status.cursors)
        with suppress(OSError):  # a disk that is full costs those who come late some seconds
            thin_history(self._run.journal, most=1)
        self._store()

    def _bound_logs(self) -> None:
        for name in cut_outgrown(self._run.logs):
            if name not in self._cut_logs:  # once: a flood would fill the journal, too
                self._cut_logs.add(name)
                text = f"{name} grew by {CUT_BYTES >> 20} MB between two steps; what was in it is lost"
                self._emit(Notice("warning", text))

    def _look_for_hang(self, agent: Agent) -> None:
        """Silent for too long: tell once, with the stacks of all ranks. For twice as long: kill them, to start again."""
        silence = self._watchdog.look(time.monotonic())
        if silence.judgement == "well" or silence.budget_seconds is None:
            return
        is_ours = agent.pid is not None
        if not self._is_stalled:
            self._is_stalled = True
            stacks = save_stacks(self._run, self._attempt)
            collectives, finding = save_collectives(self._run, self._attempt)
            kill_seconds = 2 * silence.budget_seconds if is_ours else None
            self._emit(
                Stalled(
                    silence.seconds,
                    silence.usual_seconds,
                    silence.phase,
                    stacks,
                    kill_seconds,
                    collectives,
                    finding,
                )
            )
        elif silence.judgement == "hung" and is_ours and self._hang is None:
            # the records first: a rank that was stopped is let go on for its stacks
            _, finding = save_collectives(self._run, self._attempt)
            stacks = save_stacks(self._run, self._attempt, wake=True)
            told = f"; where each one was: {self._run.path / stacks}/rank-*.stacks" if stacks else ""
            seen = f": {finding}" if finding else ""
            self._hang = (
                f"the ranks said nothing for {silence.seconds:.0f} s while {silence.phase}{seen}{told}"
            )
            self._emit(Notice("error", f"{self._hang}; they are killed"))
            self._kill_processes()

    # ------------------------------------------------------------------------------------------------- attempts

    def _launch(self) -> None:
        if self._run.ranks_are_alive():  # someone started ranks by hand in the meantime: they are the run
            self._take_over()
            return
        self._attempt += 1
        self._daemon.attempt = self._control.attempt = self._system.attempt = self._attempt
        self._finished = self._stop_done = self._ladder_since = self._terminated_at = self._hang = None
        self._watchdog, self._is_stalled = Watchdog(self._spec.health.hang_seconds, time.monotonic()), False
        self._enter("starting", self._launch_reason)
        control_after = self._control.last_seq
        if self._pause_wanted:  # a restart does not undo a pause
            self._grant(uuid.uuid4().hex, "pause", {})
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
            if self._hang is None:  # a rank that fell leaves the others in an exchange that never ends
                save_collectives(self._run, self._attempt)
            for rank in result.ranks if result else []:
                self._emit(
                    RankExited(rank.rank, rank.exit_code, rank.signal, rank.message, rank.is_root_cause)
                )
        if self._stop_done is not None:
            self._settle_commands(stop_ok=self._stop_done.ok, stop_message=self._stop_done.message)
        elif self._finished is not None:
            self._settle_commands(
                stop_ok=self._finished.reason != "failed", stop_message=self._finished.message
            )
        else:
            self._settle_commands(stop_ok=False, stop_message="the ranks ended before they could save")
        verdict = judge(
            self._run,
            self._spec.runtime,
            finished=self._finished,
            result=result,
            agent_ending=agent.ending(),
            hang=self._hang,
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

    def _settle_commands(self, *, stop_ok: bool, stop_message: str) -> None:
        """Answer the commands that no rank will answer any more: someone may be waiting."""
        for request_id, name in self._open_commands.items():
            if name == "stop":
                self._emit(CommandDone(request_id, name, stop_ok, stop_message))
            else:
                self._emit(CommandDone(request_id, name, False, "the ranks ended before it took effect"))
        self._open_commands.clear()

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
        self._grant(request_id, "stop", {"even_unsaved": even_unsaved})
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
        for request_id in [r for r, name in self._open_commands.items() if name == "stop"]:
            del self._open_commands[request_id]
            self._emit(CommandDone(request_id, "stop", False, why))
        self._stop_reason = self._stop_done = self._ladder_since = None
        self._enter("running", why)

    # -------------------------------------------------------------------------------------------------- journal

    def _enter(self, state: State, reason: str, cause: FailureCause | None = None) -> None:
        assert state in BY_SUPERVISOR[self._status.state], f"{state} does not follow {self._status.state}"
        self._state = state
        self._emit(StateChanged(state, reason, os.getpid(), self._attempt, cause))
        self._follow_journal()
        self._store()

    def _emit(self, event: Event) -> None:
        self._daemon.append(event)

    def _follow_journal(self) -> None:
        """Take in and publish what was appended since the last look."""
        for reader in self._readers:
            while batch := reader.poll():
                for record, line in batch:
                    self._status.apply(record)
                    self._port.publish(record, line, self._status.cursors)
                    self._take_in(record)

    def _take_in(self, record: Record) -> None:
        self._watchdog.hear(record)
        if record.stream == "train":
            self._is_stalled = False
        for alert in self._diagnosis.take(record.event):
            self._emit(alert)
        if (occasion := occasion_of(record.event)) is not None:
            self._deliveries.send(*occasion, self._status)
        match record.event:
            case CheckpointSaved(seconds=seconds):
                self._failures_in_a_row = 0
                self._save_seconds = seconds
            case CommandDone(request_id, name, ok, _) as done:
                self._open_commands.pop(request_id, None)
                if name in ("pause", "resume") and not ok:  # it lapsed, so what was before holds
                    self._pause_wanted = name == "resume"
                if name == "stop":
                    self._stop_done = done
            case Finished() as finished if record.attempt == self._attempt:
                self._finished = finished
                self._ladder_since = time.monotonic()
            case _:
                pass

    def _store(self) -> None:
        """Put the streams and then the state on disk, in this order: the state must not cover what a crash undoes."""
        if self._status.cursors == self._stored_cursors or any(r.is_ahead_of_disk for r in self._readers):
            return
        # a full or failing disk costs the reader freshness, never the run
        with suppress(OSError):
            for reader in self._readers:
                reader.sync()
            write_json(self._run.state_file, self._status.to_json())
            self._stored_cursors = dict(self._status.cursors)

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
                return self._range(msgspec.convert(request.args, RangeArguments))
            case "log":
                wanted = msgspec.convert(request.args, LogArguments)
                text, offset, size = self._run.read_log(wanted.source, wanted.offset)
                return {"text": text, "offset": offset, "size": size}
            case "command":
                return self._command(msgspec.convert(request.args, CommandArguments))
            case "kill":
                return self._kill()
            case "open" | "generate" | "cancel":
                raise RefusedError("a supervisor has no model; text comes from an inference worker")

    def _range(self, wanted: RangeArguments) -> dict[str, Any]:
        lines: list[bytes] = []
        size = 0
        with JournalReader(self._run.journal, wanted.stream, wanted.after) as reader:
            for _, line in reader.poll(RANGE_LIMIT):
                lines.append(line)
                size += len(line)
                if size > RANGE_BYTES:
                    break
        return {"lines": lines}

    def _command(self, wanted: CommandArguments) -> dict[str, Any]:
        if not self._ledger.was_granted(wanted.request_id):
            arguments = check_arguments(wanted.name, wanted.arguments, self._spec)
            name: Any = wanted.name
            sentence = lapsed(
                wanted, state=self._status.state, now=time.time(), run_name=self._run.name
            ) or refusal(name, life=self._life(), is_paused=self._pause_wanted, run_name=self._run.name)
            if sentence is not None:
                raise self._ledger.refuse(wanted.request_id, sentence)
            if name != "stop":
                self._grant(wanted.request_id, name, arguments, wanted.deadline)
            elif self._stop_reason is None:
                self._stop(wanted.request_id, "stopped on request")
            else:  # one stop is enough for the ranks; whoever asked again hears how it went too
                self._open_commands[wanted.request_id] = name
            self._ledger.grant(wanted.request_id)
        return {"request_id": wanted.request_id}

    def _life(self) -> Life:
        if self._state in FINAL_STATES:
            return "over"
        if self._stop_reason is not None or self._finished is not None:
            return "stopping"
        return "training" if self._agent is not None else "between attempts"

    def _grant(
        self, request_id: str, name: Any, arguments: dict[str, Any], deadline: float | None = None
    ) -> None:
        """Append the command for the ranks. Raises RefusedError when the disk does not take it."""
        if not self._control.append(Command(request_id, name, arguments, deadline)):
            raise RefusedError(f"the command could not be written to {self._run.journal}: is the disk full?")
        self._open_commands[request_id] = name
        if name in ("pause", "resume"):
            self._pause_wanted = name == "pause"

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

    def _recall_commands(self) -> None:
        """What earlier supervisors granted, and what of it may still be open."""
        with JournalReader(self._run.journal, "control") as reader:
            while batch := reader.poll():
                for record, _ in batch:
                    if not isinstance(record.event, Command):
                        continue
                    command = record.event
                    self._ledger.grant(command.request_id)
                    if record.attempt == self._attempt and command.name in ("pause", "resume"):
                        self._pause_wanted = command.name == "pause"
