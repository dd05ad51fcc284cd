"""`sample`: text from stored checkpoints, or, with `--live`, from the model in training.

Several texts are written at once and shown one after the other. What a model writes is made printable before a terminal
sees it.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.generation import (
    Completion,
    MaxTokensOption,
    MinPOption,
    OverflowOption,
    PenaltyOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    in_order,
    new_seed,
    tokens_per_second,
)
from cli.printing import out, out_json, say, side_by_side
from cli.references import CheckpointArgument, JsonOption, find_checkpoint, split_reference

if TYPE_CHECKING:
    from trainer_daemon.contract.generation import Generation, Piece
    from trainer_daemon.engine.checkpoint.store import CheckpointInfo

PROMPT_BYTES = 30_000
"""A request is 64 KiB at most; escaped as JSON in the journal, a byte may take two."""
VERSUS_WIDTH = 100
"""Columns of two answers side by side, where the terminal does not say."""


@dataclass(frozen=True)
class Answer:
    """What one model wrote."""

    checkpoint: str | None
    """Its folder; None for the model in training."""
    step: int
    completions: list[Completion]
    device: str | None = None
    pause_seconds: float | None = None
    """What the training waited, where it was the model in training."""

    @property
    def tokens_per_second(self) -> float | None:
        """None where it is not known."""
        if self.pause_seconds is None:
            return tokens_per_second(self.completions)
        # its tokens are counted at the end, all at once: what they took is the pause
        tokens = sum(c.tokens for c in self.completions)
        return tokens / self.pause_seconds if tokens and self.pause_seconds > 0 else None


def sample(
    checkpoint: CheckpointArgument,
    prompt: Annotated[str, typer.Argument(help="What the model continues; as -, what comes on stdin.")] = "",
    n: Annotated[
        int, typer.Option("-n", metavar="N", min=1, max=256, help="How many texts; seeds count up.")
    ] = 1,
    max_tokens: MaxTokensOption = 128,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = None,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: PenaltyOption = 1.0,
    stop: StopOption = None,
    seed: SeedOption = None,
    overflow: OverflowOption = "slide",
    logprobs: Annotated[
        int | None,
        typer.Option(
            "--logprobs", metavar="K", help="With --json: each token's log-probability and K alternatives."
        ),
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(
            "--versus", metavar="RUN[@STEP]", help="Have another checkpoint write too, side by side."
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the model in training, not a checkpoint.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Have a model continue a prompt; the text streams to stdout."""
    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.generation import Generation

    if overflow not in ("slide", "refuse"):
        raise SpecError(f'--overflow is slide or refuse; got "{overflow}"')
    first = Generation(
        prompt=_prompt(prompt),
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=tuple(stop or ()),
        seed=new_seed() if seed is None else seed,
        logprobs=logprobs,
        overflow="slide" if overflow == "slide" else "refuse",
    )
    requests = [replace(first, seed=first.seed + i) for i in range(n)]
    is_shown = not json and versus is None
    if live:
        if versus is not None:
            raise SpecError("--versus compares checkpoints; leave out --live, or save first: llmctl save RUN")
        answers = [_ask_live(checkpoint, requests, is_shown=is_shown)]
    else:
        infos = [find_checkpoint(reference)[1] for reference in (checkpoint, versus) if reference is not None]
        answers = _ask_checkpoints(infos, requests, is_shown=is_shown)
    if json:
        out_json(_as_json(first, answers))
        return
    if versus is not None:
        _show_side_by_side(first.prompt, answers)
    for answer in answers:
        say(_summary(answer, first))


def _prompt(argument: str) -> str:
    from trainer_daemon.contract.errors import SpecError

    text = sys.stdin.read().removesuffix("\n") if argument == "-" else argument
    if len(text.encode("utf-8", "replace")) > PROMPT_BYTES:
        raise SpecError(
            f"the prompt has more than {PROMPT_BYTES:,} bytes; the model reads its context's end only"
        )
    return text


def _ask_checkpoints(
    infos: "list[CheckpointInfo]", requests: "list[Generation]", *, is_shown: bool
) -> list[Answer]:
    """All texts of all checkpoints at once."""
    from trainer_daemon.link.inference import open_worker

    begun = time.monotonic()
    completions = [Completion() for _ in infos for _ in requests]
    with open_worker() as worker:
        loaded = [worker.open(info.path) for info in infos]
        for notice in dict.fromkeys(notice for one in loaded for notice in one.notices):
            say(notice)
        wanted = [(info.path, request) for info in infos for request in requests]
        pieces = _taking(completions, worker.generate_together(wanted), begun)
        if is_shown:
            _show(requests[0].prompt, completions, pieces)
        else:
            for _ in pieces:
                pass
    n = len(requests)
    return [
        Answer(str(info.path), info.step, completions[i * n : (i + 1) * n], loaded[i].device)
        for i, info in enumerate(infos)
    ]


def _ask_live(reference: str, requests: "list[Generation]", *, is_shown: bool) -> Answer:
    """One text after the other: each is a pause of the training."""
    from cli.live import LiveText, find_live_run
    from trainer_daemon.contract.errors import SpecError

    run_reference, which = split_reference(reference)
    if which is not None:
        raise SpecError(
            f"--live asks the model as it is now, not step {which}; give the run alone: {run_reference}"
        )
    run = find_live_run(run_reference)
    completions: list[Completion] = []
    step, pause = 0, 0.0
    for request in requests:
        completions.append(Completion())
        live = LiveText(run, request)
        pieces = _taking(completions[-1:], ((0, piece) for piece in live), time.monotonic())
        if is_shown:
            _show(request.prompt, completions[-1:], pieces)
        else:
            for _ in pieces:
                pass
        step, pause = live.step, pause + live.pause_seconds
    return Answer(None, step, completions, pause_seconds=pause)


def _taking(
    completions: list[Completion], pieces: "Iterator[tuple[int, Piece]]", begun: float
) -> "Iterator[tuple[int, Piece]]":
    for place, piece in pieces:
        completions[place].take(piece, time.monotonic() - begun)
        yield place, piece


def _show(prompt: str, completions: list[Completion], pieces: "Iterator[tuple[int, Piece]]") -> None:
    """Each text behind the prompt, as it comes."""
    from trainer_daemon.contract.text import printable

    showing = -1
    for place, text in in_order(completions, pieces):
        if place != showing:
            out(("\n" if showing >= 0 else "") + printable(prompt), end="")
            showing = place
        out(printable(text), end="")
    out()


def _show_side_by_side(prompt: str, answers: list[Answer]) -> None:
    import shutil

    from trainer_daemon.contract.text import printable

    width = shutil.get_terminal_size((VERSUS_WIDTH, 24)).columns
    left, right = answers
    out(side_by_side(f"step {left.step}", f"step {right.step}", width))
    for one, other in zip(left.completions, right.completions, strict=True):
        texts = [printable(prompt + c.text) for c in (one, other)]
        out("\n" + side_by_side(texts[0], texts[1], width))


def _summary(answer: Answer, request: "Generation") -> str:
    tokens = sum(c.tokens for c in answer.completions)
    parts = [f"step {answer.step}", f"{tokens} tokens"]
    if (speed := answer.tokens_per_second) is not None:
        parts.append(f"{speed:.0f} tok/s")
    parts += [answer.device] if answer.device else []
    parts += [f"seed {request.seed}"]
    if answer.pause_seconds is not None:
        parts.append(f"the training waited {answer.pause_seconds:.2f} s")
    if forgotten := max(c.forgotten for c in answer.completions):
        parts.append(f"the context slid: {forgotten} tokens of the beginning were forgotten")
    return f"[{', '.join(parts)}]"


def _as_json(request: "Generation", answers: list[Answer]) -> dict[str, Any]:
    first, *others = (_answer_json(answer, request) for answer in answers)
    settings = {name: value for name, value in asdict(request).items() if name not in ("prompt", "logprobs")}
    return {**first, "prompt": request.prompt, **settings} | ({"versus": others[0]} if others else {})


def _answer_json(answer: Answer, request: "Generation") -> dict[str, Any]:
    return {
        "checkpoint": answer.checkpoint,
        "step": answer.step,
        "device": answer.device,
        "completions": [
            {
                "text": c.text,
                "tokens": c.tokens,
                "finish_reason": c.finish_reason,
                "forgotten": c.forgotten,
                "logprobs": None if request.logprobs is None else [asdict(token) for token in c.logprobs],
            }
            for c in answer.completions
        ],
        "time_to_first_token_seconds": answer.completions[0].first_token_seconds,
        "tokens_per_second": answer.tokens_per_second,
        "pause_seconds": answer.pause_seconds,
    }
