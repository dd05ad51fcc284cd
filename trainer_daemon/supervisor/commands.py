"""Which request is granted when, each at most once.

A command is granted by being appended to the `control` stream; the ranks act on it at a step boundary and answer with a
`CommandDone` event. The stream is also the memory of what was granted: a request that is repeated, even to a later
supervisor, is answered as it was the first time.
"""

from typing import Annotated, Any, Literal, get_args

import msgspec

from trainer_daemon.contract.core_tasks import EvalTask
from trainer_daemon.contract.errors import RefusedError, SpecError, did_you_mean
from trainer_daemon.contract.events import CommandName, State
from trainer_daemon.contract.generation import Overflow
from trainer_daemon.contract.settings import changed_spec
from trainer_daemon.contract.spec import RunSpec

REMEMBERED_REFUSALS = 10_000


class CommandArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wire's `command`."""

    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    name: str
    arguments: dict[str, Any] = {}
    expected_state: State | None = None
    """Refused unless this is the run's state: who asks may look at an old one."""
    deadline: float | None = None
    """Seconds since 1970 after which it must not take effect any more."""


class SampleArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `sample`."""

    prompt: Annotated[str, msgspec.Meta(max_length=32_768)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 64
    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    stop: Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(max_length=16)] = ()
    overflow: Overflow = "slide"


class SetArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `set`."""

    key: str
    value: int | float | str | None


class EvaluateArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `evaluate`."""

    task: EvalTask = "bpb"


def check_arguments(name: str, arguments: dict[str, Any], spec: RunSpec) -> dict[str, Any]:
    """The command's arguments, complete. Raises SpecError when the name or an argument is not one."""
    if name not in get_args(CommandName):
        known = get_args(CommandName)
        raise SpecError(
            f'no command is called "{name[:40]}"{did_you_mean(name, known)}; there are: {", ".join(known)}'
        )
    kind = {"sample": SampleArguments, "set": SetArguments, "evaluate": EvaluateArguments}.get(name)
    if kind is None:
        if arguments:
            raise SpecError(f'the command "{name}" takes no arguments')
        return {}
    try:
        checked = msgspec.convert(arguments, kind)
    except msgspec.ValidationError as e:
        raise SpecError(f"{name}: {e}") from e
    if isinstance(checked, SetArguments):
        changed_spec(spec, checked.key, checked.value)
    return msgspec.to_builtins(checked)  # type: ignore[no-any-return]  # msgspec types it as Any


Life = Literal["training", "between attempts", "stopping", "over"]
"""training: an agent runs. between attempts: a restart is due. stopping: asked to stop. over: ended."""


def refusal(name: CommandName, *, life: Life, is_paused: bool, run_name: str) -> str | None:
    """Why this command is not granted now, or None when it is.

    |          | training       | paused  | between attempts | stopping | over |
    |----------|----------------|---------|------------------|----------|------|
    | pause    | yes            | no      | no               | no       | no   |
    | resume   | no             | yes     | no               | no       | no   |
    | save, sample, evaluate, check, set | yes | yes | no        | no       | no   |
    | stop     | yes            | yes     | yes              | yes, it changes nothing | no |
    """
    match life:
        case "over":
            return f"{run_name} has ended; see: llmctl status {run_name}"
        case "stopping":
            return None if name == "stop" else f"{run_name} is stopping; it takes no other command"
        case "between attempts" if name != "stop":
            return f"{run_name} is between two attempts; try again when it runs, or: llmctl stop {run_name}"
        case _:
            pass
    if name == "pause" and is_paused:
        return f"{run_name} is paused already; go on with: llmctl resume {run_name}"
    if name == "resume" and not is_paused:
        return f"{run_name} is not paused, it runs; to stop it and go on later: llmctl stop {run_name}"
    return None


def lapsed(wanted: CommandArguments, *, state: State, now: float, run_name: str) -> str | None:
    """Why this request is not what its sender would want any more, or None when it is."""
    if wanted.expected_state not in (None, state):
        return f"{run_name} is {state}, not {wanted.expected_state} as whoever asked believed; look again"
    if wanted.deadline is not None and now > wanted.deadline:
        return f"the request to {run_name} came {now - wanted.deadline:.0f} s after its deadline"
    return None


class Ledger:
    """Request ids and how each was answered."""

    def __init__(self) -> None:
        self._refused: dict[str, str] = {}
        self._granted: set[str] = set()

    def was_granted(self, request_id: str) -> bool:
        """True when it was granted before. Raises RefusedError with the first answer when it was refused."""
        if request_id in self._refused:
            raise RefusedError(self._refused[request_id])
        return request_id in self._granted

    def grant(self, request_id: str) -> None:
        self._granted.add(request_id)

    def refuse(self, request_id: str, sentence: str) -> RefusedError:
        """The error to raise."""
        self._refused[request_id] = sentence
        if len(self._refused) > REMEMBERED_REFUSALS:
            del self._refused[next(iter(self._refused))]
        return RefusedError(sentence)
