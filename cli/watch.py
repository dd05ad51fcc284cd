"""`ls status attach logs events wait`: looking at runs without touching them."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.printing import (
    clock,
    count,
    duration,
    number,
    on_terminal,
    out,
    out_json,
    out_json_line,
    pairs,
    percent,
    say,
    size,
    table,
)
from cli.references import JsonOption, RunArgument, complete_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer_daemon.contract.journal import Record
    from trainer_daemon.contract.rundir import RunDir
    from trainer_daemon.contract.status import RunStatus
    from tui.run_row import RunRow

LOG_POLL_SECONDS = 0.2
FollowOption = Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run is over.")]


WhereOption = Annotated[
    str | None,
    typer.Option("--where", metavar="QUERY", help="Only these, e.g. 'state:live val<0.9 depth>=12 fox'."),
]


def ls(
    where: WhereOption = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="[-]FIELD", help="By a field, e.g. val or -step.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the runs, the newest last.

    --where takes terms that all have to hold: words of a name, state:STATE, FIELD<NUMBER, FIELD:PART, -TERM for the
    opposite. Fields are those of `status --json` and the keys of the spec, as in depth>=12 or data:stories.
    """
    from trainer_daemon.contract.rundir import all_runs
    from tui.run_query import field_named, sorted_by

    field = field_named(sort.removeprefix("-")) if sort else None  # a typo is told before anything is read
    rows = rows_where(where)
    if sort and field:
        rows = sorted_by(rows, field, lambda row: row.facts, falling=sort.startswith("-"))
    statuses = [row.status for row in rows if row.status is not None]
    if json:
        out_json([status.to_json() for status in statuses])
    elif statuses:
        headers = ("RUN", "STATE", "STEP", "OF", "LOSS", "VAL_BPB", "TOK/S", "ETA", "UPDATED", "TAG")
        out(table(headers, [_ls_row(status) for status in statuses], left=2))
    elif where and all_runs():
        say("no run is like that")
    else:
        say("there are no runs yet; start one with: llmctl run --preset stories")


def rows_where(where: str | None) -> "list[RunRow]":
    """The runs that a query picks, the newest last; one that is damaged is told, and left out when its state is not known.

    Raises QueryError.
    """
    from trainer_daemon.contract.rundir import all_runs
    from tui.run_query import parse_query
    from tui.run_row import read_row

    query = parse_query(where or "")
    rows = [read_row(run) for run in all_runs()]
    for row in rows:
        if row.error:
            say(f"{row.name}: {row.error}")
    return [row for row in rows if row.status is not None and query.holds(row.facts)]


def _ls_row(s: "RunStatus") -> tuple[str, ...]:
    from trainer_daemon.contract.text import printable

    of = "-" if s.total_steps is None else str(s.total_steps)
    return (
        s.name,
        s.state,
        str(s.step),
        of,
        number(s.loss_nats),
        number(s.val_bpb, 4),
        count(s.tokens_per_second),
        duration(s.eta_seconds),
        clock(s.updated_at),
        printable(s.tag),
    )


def status(run: RunArgument, json: JsonOption = False) -> None:
    """Say what a run is doing, and what is wrong if anything is."""
    from trainer_daemon.contract.rundir import find_run, recorded_sockets
    from trainer_daemon.contract.status import observe
    from trainer_daemon.contract.text import printable

    found = find_run(run)
    s = observe(found)
    if json:
        # where its supervisor answers, for a cockpit on another machine to have ssh forward
        sockets = str(recorded_sockets(found)) if found.supervisor_is_alive() else None
        out_json({**s.to_json(), "folder": str(found.path), "sockets": sockets})
        return
    of = f" of {s.total_steps}" if s.total_steps else ""
    tokens_of = f" of {count(s.total_tokens)}" if s.total_tokens else ""
    checkpoint = f"step {s.last_checkpoint['step']}" if s.last_checkpoint else "-"
    rows = [
        ("run", s.name),
        *([("tag", printable(s.tag))] if s.tag else []),
        *([("notes", printable(s.notes))] if s.notes else []),
        ("state", s.state),
        ("step", f"{s.step}{of}"),
        ("tokens", f"{count(s.tokens)}{tokens_of}"),
        ("loss", f"{number(s.loss_nats, 4)} nats"),
        ("val_bpb", f"{number(s.val_bpb, 4)}, best {number(s.min_val_bpb, 4)}"),
        *([("CORE", _core_words(s.core))] if s.core else []),
        ("speed", f"{number(s.tokens_per_second, 0)} tok/s, MFU {percent(s.mfu)}"),
        ("step time", _step_time(s)),
        ("memory", f"{size(s.memory_bytes)}, at most {size(s.peak_memory_bytes)}"),
        ("ETA", duration(s.eta_seconds)),
        ("checkpoint", checkpoint),
        ("ranks", f"{s.world_size or '-'} on {s.device or '-'}, {s.restarts} restarts"),
        ("started", clock(s.started_at)),
        ("updated", clock(s.updated_at)),
        ("folder", str(found.path)),
    ]
    if s.skipped_steps:
        rows.append(("skipped", f"{s.skipped_steps} steps changed nothing"))
    if s.alert:
        rows.append(("alert", printable(s.alert["message"])))
    if s.error:
        rows.append(("wrong", printable(s.error["message"])))
    out(pairs(rows))


def _core_words(core: "dict[str, Any]") -> str:
    """`0.2565 at step 2000`, or of how many tasks."""
    found = number(core["mean_centred"] if core["core"] is None else core["core"], 4)
    of = "" if core["core"] is not None else f", mean of {core['tasks']} of its 22 tasks"
    return f"{found}{of}, at step {core['step']}"


def _step_time(s: "RunStatus") -> str:
    """`0.21 s: data 1%, compute 70%, wait 0%, optimizer 29%`"""
    if s.step_seconds is None:
        return "-"
    parts = s.step_parts or {}
    total = sum(parts.values())
    shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in parts.items()) if total else ""
    return f"{s.step_seconds:.3g} s" + (f": {shares}" if shares else "")


def attach(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run, ssh://[user@]host[:port]/RUN, or tcp://KEY@host:port; else the list of runs.",
            autocompletion=complete_run,
        ),
    ] = None,
    remote_llmctl: Annotated[
        str,
        typer.Option(
            "--remote-llmctl",
            metavar="PATH",
            help="Where llmctl is on the other machine, when ssh does not find it.",
        ),
    ] = "llmctl",
    read_only: Annotated[
        bool, typer.Option("--readonly", help="Only look: no key steers a run or touches a checkpoint.")
    ] = False,
    web: Annotated[
        bool, typer.Option("--web", help="In a browser of this machine; needs the extra `web`.")
    ] = False,
    port: Annotated[
        int,
        typer.Option("--port", metavar="N", min=0, max=65535, help="For --web; 0 takes one that is free."),
    ] = 0,
) -> None:
    """Open the cockpit on a run: live, finished or crashed.

    Of a run behind ssh:// everything is drawn and asked from here; the link is made anew when it drops. tcp:// is for a run
    that was started with --listen, and for a key that was let in (llmctl keys).
    """
    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.rundir import find_run

    is_far = run is not None and run.startswith(("ssh://", "tcp://"))
    if is_far and web:
        raise SpecError(
            "--web shows runs of its own machine: start it there, and forward its port with ssh -L"
        )
    found = find_run(run) if run and not is_far else None  # a name that is not there is told on any terminal
    if web:
        serve_in_browser(found, port, is_read_only=read_only)
        return
    if not on_terminal():
        raise SpecError(
            "the cockpit needs a terminal; without one use: llmctl events RUN -f, or llmctl status RUN"
        )
    if run and run.startswith("ssh://"):
        _attach_over_ssh(run, remote_llmctl, is_read_only=read_only)
        return
    if run and run.startswith("tcp://"):
        _attach_over_tcp(run, is_read_only=read_only)
        return
    from tui.app import run_cockpit

    run_cockpit(found, is_read_only=read_only)


def serve_in_browser(run: "RunDir | None", port: int, *, is_read_only: bool) -> None:
    """Until Ctrl-C. Raises RefusedError when the extra is not installed, or the port is taken."""
    from importlib.util import find_spec
    from socket import create_server

    from trainer_daemon.contract.errors import RefusedError

    if find_spec("textual_serve") is None:
        raise RefusedError(
            "a cockpit in a browser needs textual-serve, which is not installed here: pip install 'llmctl[web]'"
        )
    from tui.web import LOOPBACK, CockpitServer

    try:
        listener = create_server((LOOPBACK, port))
    except OSError as e:
        raise RefusedError(f"port {port} cannot be had: {e.strerror}; choose another: --port 0") from e
    with listener:
        server = CockpitServer(listener, run, is_read_only=is_read_only)
        out(server.address)
        say(
            "open it in a browser; whoever has this address can steer the run. Ctrl-C ends the page, not the run"
        )
        server.serve_until_signalled()


def _attach_over_ssh(url: str, program: str, *, is_read_only: bool) -> None:
    from trainer_daemon.link.ssh import Address, Tunnel

    address = Address.parse(url, program)
    say(f"asking {address.host} for {address.run}")
    with Tunnel(address) as tunnel:
        run = tunnel.open()
        from tui.app import run_cockpit

        run_cockpit(run, is_read_only=is_read_only)


def _attach_over_tcp(url: str, *, is_read_only: bool) -> None:
    from trainer_daemon.link.keys import own_keys
    from trainer_daemon.link.tcp import Visit
    from trainer_daemon.link.ways import CurveWay

    with Visit(CurveWay.parse(url, own_keys())) as visit:
        run = visit.open()
        from tui.app import run_cockpit

        run_cockpit(run, is_read_only=is_read_only)


def logs(
    run: RunArgument,
    follow: FollowOption = False,
    rank: Annotated[int, typer.Option("--rank", metavar="N", min=0, help="Which rank's output.")] = 0,
    source: Annotated[
        str | None, typer.Option("--from", metavar="supervisor|agent", help="Another process's output.")
    ] = None,
) -> None:
    """Show what a run printed."""
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.text import printable

    found = find_run(run)
    name = source or f"rank-{rank}"
    offset = 0
    while True:
        # looked at before reading: what is read afterwards includes the last words
        is_alive = found.supervisor_is_alive() or found.ranks_are_alive()
        # until nothing comes, which may be before the file's end: a process that was killed leaves half a character there
        text, offset, _ = found.read_log(name, offset)
        while text:
            out(printable(text), end="")
            text, offset, _ = found.read_log(name, offset)
        if not follow or not is_alive:
            break
        time.sleep(LOG_POLL_SECONDS)
    if offset == 0 and not follow:
        say(f"{name} of {found.name} has printed nothing; others: --rank N, --from agent, --from supervisor")


def events(
    run: RunArgument,
    follow: FollowOption = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="SEQ", help="Only after this event, e.g. 120, train:120 or daemon:3."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="The journal's own lines, each behind its stream's name; of a long run a thinned part.",
        ),
    ] = False,
) -> None:
    """Show what a run reported."""
    import sys

    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.history import history_lines
    from trainer_daemon.contract.journal import read_all
    from trainer_daemon.contract.rundir import find_run

    found = find_run(run)
    if raw:
        if follow or since or json:
            raise SpecError("--raw gives the journal as it stands; it goes with no other option")
        for stream, line in history_lines(found.journal):
            sys.stdout.buffer.write(stream.encode() + b" " + line)
        return
    after = Since.parse(since) if since else None
    for record in _records_as_they_come(found) if follow else read_all(found.journal):
        if after is not None and not after.is_behind(record):
            continue
        if json:
            out_json_line(record_json(record))
        else:
            out(record_line(record))


def _records_as_they_come(run: "RunDir") -> "Iterator[Record]":
    from cli.following import follow
    from trainer_daemon.contract.status import RunStatus

    return (r for r in follow(run, RunStatus(name=run.name)) if r is not None)


class Since:
    """Passes over the records up to one of them, in the order in which they are read."""

    def __init__(self, stream: str, seq: int) -> None:
        self._stream, self._seq, self._passed = stream, seq, False

    @classmethod
    def parse(cls, text: str) -> "Since":
        """`120` is `train:120`. Raises SpecError for anything else than STREAM:SEQ."""
        from trainer_daemon.contract.errors import SpecError
        from trainer_daemon.contract.journal import STREAMS

        stream, _, seq = text.rpartition(":")
        if stream not in ("", *STREAMS) or not (seq.isascii() and seq.isdecimal()):
            raise SpecError(
                f'--since takes a sequence number, or STREAM:NUMBER with one of {", ".join(STREAMS)}; got "{text}"'
            )
        return cls(stream or "train", int(seq))

    def is_behind(self, record: "Record") -> bool:
        """Whether the record comes after the one that was named."""
        if self._passed:
            return True
        if record.stream != self._stream:
            return False
        self._passed = record.seq >= self._seq
        return record.seq > self._seq


def record_json(record: "Record") -> dict[str, Any]:
    """A record as one flat JSON object: its place, its kind, its event's fields."""
    head = {k: getattr(record, k) for k in ("stream", "seq", "wall", "mono", "attempt", "kind")}
    return {**head, **(asdict(record.event) if record.event else {})}


def record_line(record: "Record") -> str:
    """`12:03:11 train:123 train_step step=10 loss_nats=3.21`"""
    from trainer_daemon.contract.text import printable

    def show(value: object) -> str:
        return (
            f"{value:.6g}"
            if isinstance(value, float)
            else repr(value)
            if isinstance(value, str)
            else str(value)
        )

    values = asdict(record.event) if record.event else {}
    told = " ".join(f"{k}={show(v)}" for k, v in values.items())
    when = time.strftime("%H:%M:%S", time.localtime(record.wall))
    return printable(f"{when} {record.stream}:{record.seq} {record.kind} {told}".rstrip())


def wait(
    run: RunArgument,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="STATE|step=N", help="What to wait for; else the run's end."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", min=0, help="Give up after so many seconds (exit 5)."),
    ] = None,
) -> None:
    """Block until a run is over, in a state, or at a step.

    Exit 4 when it failed, or ended without getting there; 5 when the time is over.
    """
    from cli.following import check_outcome, follow, outcome
    from trainer_daemon.contract.errors import RunFailedError
    from trainer_daemon.contract.events import FINAL_STATES
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.status import observe

    found = find_run(run)
    is_met = parse_condition(for_) if for_ else None
    until = None if timeout is None else time.monotonic() + timeout
    s = observe(found)
    if is_met is None:
        for _ in follow(found, s, until=until):
            pass
        check_outcome(found, s)
        out(outcome(found, s))
        return
    if not is_met(s):
        met = any(is_met(s) for record in follow(found, s, until=until) if record is not None)
        # `crashed` is seen in the locks alone, after the last record
        if not met and not is_met(s):
            assert s.state in FINAL_STATES, s.state
            raise RunFailedError(f"{outcome(found, s)}; it will not be {for_} any more")
    out(f"{found.name} {s.state} at step {s.step}")


def parse_condition(text: str) -> Any:
    """`paused` or `step=100` -> a test on a status. Raises SpecError for anything else."""
    from typing import get_args

    from trainer_daemon.contract.errors import SpecError, did_you_mean
    from trainer_daemon.contract.events import State

    if text.startswith("step=") and text[5:].isascii() and text[5:].isdecimal():
        step = int(text[5:])
        return lambda status: status.step >= step
    states = get_args(State)
    if text not in states:
        raise SpecError(
            f"--for takes step=N or a state{did_you_mean(text, states)}; states: {', '.join(states)}"
        )
    return lambda status: status.state == text
