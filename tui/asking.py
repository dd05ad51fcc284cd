"""Asking a model for text: how it is asked, and the threads that stream answers of stored checkpoints.

They are daemon threads of our own and not Textual's workers: those are joined when the app ends, and a
worker process that loads a large checkpoint may be silent for a minute. Whoever quits does not wait for it.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import Event, Notice, SampleChunk, Sampled
from trainer_daemon.contract.generation import Generation, Message, Piece

if TYPE_CHECKING:
    from trainer_daemon.link.inference import Loaded

Told = TypeVar("Told")
"""What comes back of a question, bit by bit."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next text is drawn."""

    max_tokens: int = 96
    temperature: float = 0.8
    top_k: int | None = 50
    seed: int | None = None
    """None: another one each time."""

    def changed(self, words: str) -> "Sampling":
        """With `t 0.7`, `k 40`, `k off`, `n 200`, `seed 3` or `seed off` set. Raises ValueError saying what is understood."""
        name, _, value = words.strip().partition(" ")
        value = value.strip()
        is_off = value in ("off", "none", "all", "")
        try:
            match name:
                case "t" | "temperature" if 0 <= float(value) <= 10:
                    return replace(self, temperature=float(value))
                case "k" | "top-k" if is_off or int(value) >= 1:
                    return replace(self, top_k=None if is_off else int(value))
                case "n" | "max-tokens" if 1 <= int(value) <= 1 << 16:
                    return replace(self, max_tokens=int(value))
                case "seed" if is_off or int(value) >= 0:
                    return replace(self, seed=None if is_off else int(value))
                case _:
                    pass
        except ValueError:
            pass
        raise ValueError(
            "understood are: /t 0.8 (temperature)   /k 50 or /k off   /n 96 (tokens)   /seed 1 or /seed off"
        )

    def arguments(self, prompt: str, seed: int) -> dict[str, Any]:
        """Of the command `sample`."""
        return {
            "prompt": prompt,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "seed": seed if self.seed is None else self.seed,
        }

    def __str__(self) -> str:
        words = ["greedy" if self.temperature == 0 else f"t {self.temperature:g}"]
        words += [] if self.top_k is None else [f"k {self.top_k}"]
        words += [f"n {self.max_tokens}"]
        words += [] if self.seed is None else [f"seed {self.seed}"]
        return " ".join(words)


class Question(threading.Thread, Generic[Told]):
    """Something asked of the inference worker; what comes back waits to be taken."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.error: str | None = None
        """Why there is no text, or no more of it."""
        self._outbox: deque[Told] = deque()
        self._stopping = threading.Event()

    @property
    def is_over(self) -> bool:
        """Nothing more will come, and all of it was taken."""
        return not self.is_alive() and not self._outbox

    def take(self) -> list[Told]:
        """What came since."""
        return [self._outbox.popleft() for _ in range(len(self._outbox))]

    def stop(self) -> None:
        """Have the worker write no more; what it has written stands."""
        self._stopping.set()

    def run(self) -> None:
        try:
            self._ask()
        except (LlmctlError, OSError) as e:
            self.error = str(e)
        except Exception as e:  # noqa: BLE001  a thread has nobody to raise to: the reader sees what it was
            self.error = f"{type(e).__name__}: {e}"

    def _ask(self) -> None:
        """Ask, and put what comes into the outbox until it has all come or `_stopping` is set."""
        raise NotImplementedError


class Asking(Question[Event]):
    """One question to a stored checkpoint, answered in the events that a live run would report."""

    def __init__(self, checkpoint: Path, step: int, request_id: str, arguments: dict[str, Any]) -> None:
        super().__init__(f"ask {checkpoint.name}")
        self.request_id = request_id
        self._checkpoint = checkpoint
        self._step = step
        self._arguments = arguments

    def _ask(self) -> None:
        from trainer_daemon.link.inference import open_worker  # zmq: not before it is needed

        request = Generation(**self._arguments)
        written: list[str] = []
        last: Piece | None = None
        with open_worker() as worker:
            loaded = worker.open(self._checkpoint)
            self._outbox.extend(Notice("info", notice) for notice in loaded.notices)
            if loaded.is_chat:
                written.append("\n")  # between the question and its answer
                self._outbox.append(SampleChunk(self.request_id, "\n"))
            began = time.monotonic()
            with closing(worker.generate(self._checkpoint, addressed(request, loaded))) as pieces:
                for last in pieces:
                    written.append(last.text)
                    self._outbox.append(SampleChunk(self.request_id, last.text))
                    if self._stopping.is_set():
                        break
        self._outbox.append(
            Sampled(
                step=self._step,
                prompt=request.prompt,
                text="".join(written),
                tokens=last.tokens if last else 0,
                finish_reason=(last.finish_reason if last else None) or "length",
                temperature=request.temperature,
                top_k=request.top_k,
                seed=request.seed,
                seconds=time.monotonic() - began,
                request_id=self.request_id,
            )
        )


class Comparing(Question["tuple[int, Loaded | Piece, float]"]):
    """One prompt to one or two stored checkpoints at once, with the likeliest alternatives of each token.

    Told is (place of the checkpoint, what is known of it or a piece of its text, seconds since it was asked).
    """

    def __init__(self, checkpoints: Sequence[Path], request: Generation) -> None:
        super().__init__("compare")
        self._checkpoints = checkpoints
        self._request = request

    def _ask(self) -> None:
        from trainer_daemon.link.inference import open_worker  # zmq: not before it is needed

        begun = time.monotonic()
        wanted = []
        with open_worker() as worker:
            for place, checkpoint in enumerate(self._checkpoints):
                loaded = worker.open(checkpoint)
                wanted.append((checkpoint, addressed(self._request, loaded)))
                self._outbox.append((place, loaded, time.monotonic() - begun))
            asked = time.monotonic()
            with closing(worker.generate_together(wanted)) as pieces:
                for place, piece in pieces:
                    self._outbox.append((place, piece, time.monotonic() - asked))
                    if self._stopping.is_set():
                        break


def addressed(request: Generation, loaded: "Loaded") -> Generation:
    """The request as this model takes it: one that was trained on conversations answers the prompt."""
    if not loaded.is_chat:
        return request
    return replace(request, prompt="", messages=(Message("user", request.prompt),))
