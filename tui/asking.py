"""Asking a model for text: how it is asked, and the thread that streams the answer of a stored checkpoint.

The thread is a daemon thread of our own and not one of Textual's workers: those are joined when the app ends, and a
worker process that loads a large checkpoint may be silent for a minute. Whoever quits does not wait for it.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer_daemon.contract.errors import LlmctlError
from trainer_daemon.contract.events import Event, SampleChunk, Sampled
from trainer_daemon.contract.generation import Generation, Piece


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


class Asking(threading.Thread):
    """One question to a stored checkpoint. `take` gives what it wrote since, as the events a live run would report."""

    def __init__(self, checkpoint: Path, step: int, request_id: str, arguments: dict[str, Any]) -> None:
        super().__init__(name=f"ask {checkpoint.name}", daemon=True)
        self.request_id = request_id
        self.error: str | None = None
        """Why there is no text, or no more of it."""
        self._checkpoint = checkpoint
        self._step = step
        self._arguments = arguments
        self._outbox: deque[Event] = deque()
        self._stopping = threading.Event()

    @property
    def is_over(self) -> bool:
        """Nothing more will come, and all of it was taken."""
        return not self.is_alive() and not self._outbox

    def take(self) -> list[Event]:
        return [self._outbox.popleft() for _ in range(len(self._outbox))]

    def stop(self) -> None:
        """Have the worker write no more; what it has written stands."""
        self._stopping.set()

    def run(self) -> None:
        try:
            self._stream()
        except (LlmctlError, OSError) as e:
            self.error = str(e)
        except Exception as e:  # noqa: BLE001  a thread has nobody to raise to: the reader sees what it was
            self.error = f"{type(e).__name__}: {e}"

    def _stream(self) -> None:
        from trainer_daemon.link.inference import open_worker  # zmq: not before it is needed

        request = Generation(**self._arguments)
        written: list[str] = []
        last: Piece | None = None
        with open_worker() as worker:
            began = time.monotonic()
            pieces = worker.generate(self._checkpoint, request)
            for last in pieces:
                written.append(last.text)
                self._outbox.append(SampleChunk(self.request_id, last.text))
                if self._stopping.is_set():
                    break
            pieces.close()
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


class Comparing(threading.Thread):
    """One prompt to one or two stored checkpoints at once, with the likeliest alternatives of each token."""

    def __init__(self, checkpoints: Sequence[Path], request: Generation) -> None:
        super().__init__(name="compare", daemon=True)
        self.error: str | None = None
        """Why there is no text, or no more of it."""
        self._checkpoints = checkpoints
        self._request = request
        self._outbox: deque[tuple[int, str | Piece, float]] = deque()
        self._stopping = threading.Event()

    @property
    def is_over(self) -> bool:
        """Nothing more will come, and all of it was taken."""
        return not self.is_alive() and not self._outbox

    def take(self) -> list[tuple[int, str | Piece, float]]:
        """What came: (place of the checkpoint, its device in words or a piece of its text, seconds since it was asked)."""
        return [self._outbox.popleft() for _ in range(len(self._outbox))]

    def stop(self) -> None:
        """Have the worker write no more."""
        self._stopping.set()

    def run(self) -> None:
        try:
            self._stream()
        except (LlmctlError, OSError) as e:
            self.error = str(e)
        except Exception as e:  # noqa: BLE001  a thread has nobody to raise to: the reader sees what it was
            self.error = f"{type(e).__name__}: {e}"

    def _stream(self) -> None:
        from trainer_daemon.link.inference import open_worker  # zmq: not before it is needed

        begun = time.monotonic()
        with open_worker() as worker:
            for place, checkpoint in enumerate(self._checkpoints):
                self._outbox.append((place, worker.open(checkpoint).device, time.monotonic() - begun))
            asked = time.monotonic()
            wanted = [(checkpoint, self._request) for checkpoint in self._checkpoints]
            with closing(worker.generate_together(wanted)) as pieces:
                for place, piece in pieces:
                    self._outbox.append((place, piece, time.monotonic() - asked))
                    if self._stopping.is_set():
                        break
