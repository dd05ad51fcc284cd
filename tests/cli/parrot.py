"""A real worker socket behind which a parrot stands instead of a model."""

import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.generation import Alternative, Generation, Piece, TokenLogprob
from trainer_daemon.link.inference import InferenceServer, Loaded, worker_folder

STEP_AT = slice(5, None)
CHAT_STEP = 30
"""The bird of this checkpoint was taught conversations, and there is something to be said about it."""


@dataclass
class Bird:
    """Says what it was asked, word by word, behind an escape sequence; the first word is its checkpoint's step."""

    checkpoint: Path
    asked: list[Generation]
    texts: dict[int, deque[Piece]] = field(default_factory=dict)
    spoken: int = 0

    @property
    def loaded(self) -> Loaded:
        step = int(self.checkpoint.name[STEP_AT])
        return Loaded(
            step,
            99,
            300,
            "a perch",
            0.1,
            is_chat=step == CHAT_STEP,
            notices=("it has one wing",) if step == CHAT_STEP else (),
        )

    @property
    def is_idle(self) -> bool:
        return not self.texts

    def begin(self, request: Generation) -> int:
        if request.prompt == "refuse":
            raise SpecError("not that one")
        self.asked.append(request)
        words = [f"\x1b[31m {self.loaded.step}", *(f" {n}" for n in range(2, request.max_tokens)), "!"]
        reason = "end" if request.prompt.endswith("The end") else "length"
        logprobs = (TokenLogprob("x", -1.5, (Alternative("y", -0.5),)),) if request.logprobs else ()
        self.texts[len(self.asked)] = deque(
            Piece(word, n, n == len(words), reason if n == len(words) else None, logprobs=logprobs)  # type: ignore[arg-type]  # one of the two above
            for n, word in enumerate(words, 1)
        )
        return len(self.asked)

    def cancel(self, ticket: int) -> None:
        self.texts.pop(ticket, None)

    def abandon(self) -> list[int]:
        return list(self.texts)

    def step(self) -> list[tuple[int, Piece]]:
        pieces = [(ticket, words.popleft()) for ticket, words in self.texts.items()]
        self.spoken += len(pieces)
        self.texts = {ticket: words for ticket, words in self.texts.items() if words}
        return pieces


class Parrot:
    """Serves the present home."""

    def __init__(self) -> None:
        self.asked: list[Generation] = []
        self.birds: list[Bird] = []
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._is_up.wait(60)

    def _serve(self) -> None:
        with InferenceServer(worker_folder(), self._load) as server:
            self._server = server
            self._is_up.set()
            server.serve(idle_seconds=1000.0)

    def _load(self, checkpoint: Path) -> Bird:
        self.birds.append(Bird(checkpoint, self.asked))
        return self.birds[-1]

    @property
    def is_idle(self) -> bool:
        """Nobody is being spoken to."""
        return all(bird.is_idle for bird in self.birds)

    @property
    def spoken(self) -> int:
        """Words so far."""
        return sum(bird.spoken for bird in self.birds)

    def close(self) -> None:
        self._server.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()
