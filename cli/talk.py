"""`sample` and `chat`: text from a stored checkpoint, or, with `--live`, from the model in training.

These are base models: they continue what was begun and follow no instructions, so chatting is writing together.
What a model writes is made printable before a terminal sees it.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.printing import out, out_json, say
from cli.references import CheckpointArgument, JsonOption, find_checkpoint, split_reference

if TYPE_CHECKING:
    from trainer_daemon.link.inference import Piece, Worker

LIVE_SECONDS = 600.0
"""Longest wait for the model in training: it writes at a step boundary, behind whatever was asked before."""
PROMPT_BYTES = 30_000
"""A request is 64 KiB at most; escaped as JSON in the journal, a byte may take two."""
CHAT_HELP = """type the beginning of a text and the model goes on; each line is added to what stands already
/reset          forget what stands
/temperature T  0 takes the likeliest token each time
/max N          tokens of one answer
/seed N         begin the draws anew from N
/help           this
/quit           leave; so does Ctrl-D. Ctrl-C stops an answer"""


@dataclass
class Drawing:
    """How tokens are chosen."""

    max_tokens: int
    temperature: float
    top_k: int | None
    seed: int


@dataclass
class Completion:
    """One finished text, and when its pieces came."""

    text: str = ""
    tokens: int = 0
    finish_reason: str | None = None
    first_piece_seconds: float | None = None
    seconds: float = 0.0


MaxTokensOption = Annotated[int, typer.Option("--max-tokens", metavar="M", min=1, help="Tokens to write.")]
TemperatureOption = Annotated[
    float,
    typer.Option("--temperature", metavar="T", min=0, max=10, help="0 takes the likeliest token each time."),
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", metavar="K", min=1, help="Draw only among the K likeliest tokens.")
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="S", min=0, help="The same seed gives the same text; else a new one."),
]


def sample(
    checkpoint: CheckpointArgument,
    prompt: Annotated[str, typer.Argument(help="What the model continues.")] = "",
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many texts; seeds count up.")] = 1,
    max_tokens: MaxTokensOption = 128,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = None,
    seed: SeedOption = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the model in training, not a checkpoint.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Have a model continue a prompt; the text streams to stdout."""
    from trainer_daemon.contract.errors import SpecError

    if len(prompt.encode("utf-8", "replace")) > PROMPT_BYTES:
        raise SpecError(
            f"the prompt has more than {PROMPT_BYTES:,} bytes; the model reads its context's end only"
        )
    drawing = Drawing(max_tokens, temperature, top_k, _new_seed() if seed is None else seed)
    texts = [Drawing(max_tokens, temperature, top_k, drawing.seed + i) for i in range(n)]
    if live:
        run_reference, which = split_reference(checkpoint)
        if which is not None:
            raise SpecError(
                f"--live asks the model as it is now, not step {which}; give the run alone: {run_reference}"
            )
        path, step, completions = _sample_live(run_reference, prompt, texts, quiet=json)
    else:
        from trainer_daemon.link.inference import open_worker

        _, info = find_checkpoint(checkpoint)
        path, step = str(info.path), info.step
        with open_worker(info.path) as worker:
            completions = [_write(prompt, _pieces(worker, prompt, each), quiet=json) for each in texts]

    tokens, seconds = sum(c.tokens for c in completions), sum(c.seconds for c in completions)
    per_second = tokens / seconds if seconds > 0 and tokens else None
    if json:
        out_json(
            {
                "checkpoint": path,
                "step": step,
                "prompt": prompt,
                "completions": [
                    {"text": c.text, "tokens": c.tokens, "finish_reason": c.finish_reason, "logprobs": None}
                    for c in completions
                ],
                "seed": drawing.seed,
                "temperature": temperature,
                "time_to_first_token_seconds": completions[0].first_piece_seconds,
                "tokens_per_second": per_second,
            }
        )
    else:
        speed = f", {per_second:.0f} tok/s" if per_second else ""
        say(f"[step {step}, {tokens} tokens{speed}, seed {drawing.seed}]")


def _write(prompt: str, pieces: "Iterator[Piece]", *, quiet: bool) -> Completion:
    """Take a text as it comes, and show it unless `quiet`."""
    from trainer_daemon.contract.text import printable

    done, begun = Completion(), time.monotonic()
    if not quiet:
        out(printable(prompt), end="")
    for piece in pieces:
        if done.first_piece_seconds is None:
            done.first_piece_seconds = time.monotonic() - begun
        done.text += piece.text
        done.tokens, done.finish_reason = piece.tokens, piece.finish_reason
        if not quiet:
            out(printable(piece.text), end="")
    done.seconds = time.monotonic() - begun
    if not quiet:
        out()
    return done


def _pieces(worker: "Worker", prompt: str, d: Drawing) -> "Generator[Piece, None, None]":
    return worker.generate(
        prompt, max_tokens=d.max_tokens, temperature=d.temperature, top_k=d.top_k, seed=d.seed
    )


def _sample_live(
    reference: str, prompt: str, texts: list[Drawing], *, quiet: bool
) -> tuple[None, int, list[Completion]]:
    """(no checkpoint, step, texts) of the model in training."""
    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.rundir import find_run
    from trainer_daemon.contract.status import observe

    run = find_run(reference)
    if not run.supervisor_is_alive():
        raise RefusedError(f"{run.name} is not training now; leave out --live to ask its newest checkpoint")
    completions = []
    step = 0
    for drawing in texts:
        status = observe(run)
        completions.append(_write(prompt, _live_pieces(run, status, prompt, drawing), quiet=quiet))
        step = status.step
    return None, step, completions


def _live_pieces(run: Any, status: Any, prompt: str, drawing: Drawing) -> "Iterator[Piece]":
    """Raises what the supervisor refuses with, and RefusedError when the sample failed or the run ended first."""
    from dataclasses import asdict

    from cli.following import check_outcome, follow, outcome
    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.events import CommandDone, SampleChunk, Sampled
    from trainer_daemon.link.client import send_command
    from trainer_daemon.link.inference import Piece

    request_id = send_command(run, "sample", {"prompt": prompt, **asdict(drawing)})
    for record in follow(run, status, until=time.monotonic() + LIVE_SECONDS):
        match record.event if record is not None else None:
            case SampleChunk(request_id=asked, text=text) if asked == request_id:
                yield Piece(text, 0, done=False, finish_reason=None)
            case Sampled(request_id=asked, tokens=tokens, finish_reason=reason) if asked == request_id:
                yield Piece("", tokens, done=True, finish_reason=reason)
                return
            case CommandDone(request_id=asked, ok=False, message=message) if asked == request_id:
                raise RefusedError(f"{run.name}: {message}; see: llmctl events {run.name}")
            case _:
                pass
    check_outcome(run, status)
    raise RefusedError(f"{outcome(run, status)}, before it could sample")


def chat(
    checkpoint: CheckpointArgument,
    max_tokens: MaxTokensOption = 128,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = None,
    seed: SeedOption = None,
) -> None:
    """Write together with a model: you begin, it goes on."""
    from trainer_daemon.link.inference import open_worker

    run, info = find_checkpoint(checkpoint)
    say(f"opening {run.name if run else info.path.parent.parent.name} as of step {info.step}")
    with open_worker(info.path) as worker:
        say("a base model: it continues what you begin, it does not answer. /help lists what it understands")
        drawing = Drawing(max_tokens, temperature, top_k, _new_seed() if seed is None else seed)
        Conversation(worker, drawing).hold()


class Conversation:
    """What stands so far, and the lines that are typed."""

    def __init__(self, worker: "Worker", drawing: Drawing) -> None:
        self._worker = worker
        self.drawing = drawing
        self.text = ""
        """All of it, the reader's and the model's words."""

    def hold(self) -> None:
        """Read lines until the reader leaves."""
        import sys

        if sys.stdin.isatty():
            import readline  # noqa: F401  # its import is what makes input() editable
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "")
            except EOFError:
                return
            except KeyboardInterrupt:
                say("\nCtrl-D leaves")
                continue
            if line.startswith("/"):
                if not self.obey(line):
                    return
            elif line:
                self.go_on(line)

    def go_on(self, line: str) -> None:
        """Add a line and have the model continue; Ctrl-C ends its turn and keeps what it has written."""
        from trainer_daemon.contract.text import printable

        self.text += ("\n" if self.text else "") + line
        pieces = _pieces(self._worker, last_bytes(self.text, PROMPT_BYTES), self.drawing)
        self.drawing.seed += 1
        try:
            with closing(pieces):
                out(printable(line), end="")
                for piece in pieces:
                    self.text += piece.text
                    out(printable(piece.text), end="")
                    if piece.finish_reason == "end":
                        self.text = ""
            out()
            if not self.text:
                say("[the text has come to its end; the next line begins another]")
        except KeyboardInterrupt:
            out(" …")

    def obey(self, line: str) -> bool:
        """Do what a line with a slash says; False when that is to leave."""
        word, _, value = line.partition(" ")
        try:
            match word:
                case "/quit" | "/exit":
                    return False
                case "/reset":
                    self.text = ""
                    say("nothing stands any more")
                case "/temperature":
                    self.drawing.temperature = _between(float(value), 0, 10)
                case "/max":
                    self.drawing.max_tokens = int(_between(int(value), 1, 65_536))
                case "/seed":
                    self.drawing.seed = int(_between(int(value), 0, 2**62))
                case "/help":
                    say(CHAT_HELP)
                case _:
                    say(f"{word} is not known; /help lists what is")
        except ValueError as e:
            say(f"{word} takes a number: {e}")
        return True


def last_bytes(text: str, most: int) -> str:
    """The end of a text that fits into so many UTF-8 bytes, cut between characters."""
    return text.encode("utf-8", "replace")[-most:].decode("utf-8", "ignore")


def _between(value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{value:g} is not between {low:g} and {high:g}")
    return value


def _new_seed() -> int:
    import secrets

    return secrets.randbelow(2**31)
