"""What the prompt line leads to: who answers, how the text is drawn, and the answer that is being written.

The model in training is asked by a command to its run, a stored checkpoint by a thread of our own; both answers are folded
into the run's state as the events that they are. Draws nothing, and says nothing to the reader itself.
"""

import time
import uuid
from collections.abc import Callable
from typing import Any

from trainer_daemon.contract.events import Notice
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.link.far import FarRun
from tui.asking import Asking, Sampling
from tui.run_state import Area, Checkpoint, RunState
from tui.wording import count

AskTraining = Callable[[RunDir, str, dict[str, Any], str], object]
"""(run, command, arguments, request id): sends it without waiting."""


class Prompting:
    """Of the run in sight; how text is drawn outlasts it."""

    def __init__(self, ask_training: AskTraining) -> None:
        self.sampling = Sampling()
        self.target: str | None = None
        """Path of the checkpoint that answers; None: the model in training while there is one, else the best."""
        self._ask_training = ask_training
        self._run: RunDir | None = None
        self._state = RunState("no run")
        self._asking: Asking | None = None
        self._said: set[str] = set()
        """Notices of the inference worker that the reader has had."""
        self._asked_count = 0

    def turn_to(self, run: RunDir | None, state: RunState) -> None:
        """Ask this run's models from now on; None: nobody is to be asked."""
        self.let_go()
        self._run, self._state, self.target = run, state, None

    def let_go(self) -> None:
        """Nobody waits for the answer any more."""
        if self._asking is not None:
            self._asking.stop()
            self._asking = None

    # Who answers. `is_live`: there is a model in training that would.

    def answering(self, *, is_live: bool) -> Checkpoint | None:
        """The checkpoint that answers; None for the model in training, the only one of another machine that does."""
        if isinstance(self._run, FarRun):
            return None
        chosen = self._state.checkpoints.get(self.target or "")
        if chosen is not None:
            return chosen
        return None if is_live else self._state.best_checkpoint

    def target_words(self, *, is_live: bool) -> str:
        """Who answers, in a word or two."""
        if self._run is None:
            return ""
        checkpoint = self.answering(is_live=is_live)
        if checkpoint is not None:
            return f"step {count(checkpoint.step)}"
        return "live" if is_live else "no model yet"

    def why_nobody_answers(self, *, is_live: bool) -> str:
        """Empty where somebody does."""
        if is_live or self.answering(is_live=is_live) is not None:
            return ""
        if isinstance(self._run, FarRun):
            return f"from here only the model in training answers; on its own machine: llmctl chat {self._run.name}"
        return "no model to ask yet: there is neither a live run nor a checkpoint"

    def next_target(self, stored: frozenset[str] | None) -> None:
        """Round: the live model (or the best checkpoint), the newest, the one before, …; of those in `stored`, where known."""
        newest_first = sorted(self._state.checkpoints.values(), key=lambda c: -c.step)
        paths = [None, *(c.path for c in newest_first if stored is None or c.path in stored)]
        at = paths.index(self.target) if self.target in paths else 0
        self.target = paths[(at + 1) % len(paths)]

    # The answer that is being written

    @property
    def is_under_way(self) -> bool:
        """A stored checkpoint writes. What the model in training writes comes with its run's events."""
        return self._asking is not None

    def ask(self, prompt: str, *, is_live: bool) -> set[Area]:
        """Have it continued by whom `answering` names; what changes at once."""
        assert self._run is not None
        self._asked_count += 1
        arguments = self.sampling.arguments(prompt, seed=self._asked_count)
        request_id = uuid.uuid4().hex
        checkpoint = self.answering(is_live=is_live)
        changed = self._state.ask(request_id, prompt, checkpoint.path if checkpoint else None)
        if checkpoint is None:
            self._ask_training(self._run, "sample", arguments, request_id)
            return changed
        if (before := self._asking) is not None:
            before.stop()
            changed |= self._state.fail_sample(before.request_id, "interrupted by the next one")
        self._asking = Asking(self._run.checkpoints / checkpoint.path, checkpoint.step, request_id, arguments)
        self._asking.start()
        return changed

    def stop(self) -> None:
        """Have no more of it written; what is written stands."""
        if self._asking is not None:
            self._asking.stop()

    def fold(self) -> tuple[set[Area], list[str]]:
        """What came of the answer since: (what changes, notices of the worker that are new)."""
        changed: set[Area] = set()
        notices: list[str] = []
        if (asking := self._asking) is None:
            return changed, notices
        for event in asking.take():
            if not isinstance(event, Notice):
                changed |= self._state.tell(event, time.time())
            elif event.text not in self._said:
                self._said.add(event.text)
                notices.append(event.text)
        if asking.is_over:
            if asking.error is not None:
                changed |= self._state.fail_sample(asking.request_id, asking.error)
            self._asking = None
        return changed, notices
