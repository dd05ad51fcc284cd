"""Asking llmctl what a run takes, and having it start one: the command line's own commands, in processes of their own.

So a run that is started from the cockpit is checked, refused and started as `llmctl run` does, and what a plan has to look
into (shards, GPUs, disks) never holds up a key. A daemon thread waits, so that leaving the cockpit does not.
"""

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer_daemon.contract.text import printable
from tui.chart.axis import compact, duration
from tui.errands import PROGRAM
from tui.wording import UNKNOWN, count, size

PLAN_SECONDS, START_SECONDS = 120, 600
"""Each wait has an end; a start looks into the data first."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What llmctl said."""

    value: Any
    """The JSON that it printed; None where it failed."""
    said: tuple[str, ...]
    """What it narrated, a line each; the last one why it failed."""

    @property
    def error(self) -> str:
        return "" if self.value is not None else self.said[-1] if self.said else "llmctl said nothing"


def ask_llmctl(words: Sequence[str], seconds: float) -> Answer:
    """Run a command that prints JSON, and wait for it. Never raises: what goes wrong is in the answer."""
    try:
        done = subprocess.run(
            [*PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return Answer(None, (str(e),))
    said = tuple(printable(line).removeprefix("error: ") for line in done.stderr.splitlines() if line.strip())
    try:
        return Answer(json.loads(done.stdout) if done.returncode == 0 else None, said)
    except ValueError:
        return Answer(None, (*said, "llmctl printed something else than JSON"))


class Question(threading.Thread):
    """A command that prints JSON, asked at once."""

    def __init__(self, words: Sequence[str], seconds: float) -> None:
        super().__init__(name=f"llmctl {words[0]}", daemon=True)
        self.answer: Answer | None = None
        """None until it is there."""
        self._words, self._seconds = tuple(words), seconds
        self.start()

    def run(self) -> None:
        self.answer = ask_llmctl(self._words, self._seconds)


def plan_rows(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a plan comes to: (of what, how much), a dash for what cannot be known yet."""
    model, data, hardware, estimated = (plan[name] for name in ("model", "data", "hardware", "estimated"))
    memory, rows, seconds = plan["memory_per_rank_bytes"], plan["micro_batch_size"], estimated["seconds"]
    tokens = data["tokens_available"]
    return [
        ("model", f"{model['n_layer']} layers × {model['n_embd']} wide, {model['n_head']} heads"),
        ("parameters", compact(plan["parameters"]["total"])),
        ("steps", count(plan["total_steps"])),
        ("tokens", compact(plan["total_tokens"])),
        ("a step", f"{count(plan['global_batch_tokens'])} tokens"),
        ("", f"{plan['world_size']} × {rows or 'as many'} rows × {plan['grad_accum_steps'] or 1}"),
        ("FLOPs", f"{plan['total_flops']:.3g}"),
        ("time", UNKNOWN if seconds is None else duration(max(1.0, seconds))),
        ("memory", UNKNOWN if memory is None else f"{size(memory)} a rank, {plan['precision']}"),
        ("disk", size(plan["disk_needed_bytes"])),
        ("text", UNKNOWN if tokens is None else f"{compact(tokens)} tokens, {data['epochs']:.2g} times"),
        ("hardware", f"{hardware['count']} × {printable(hardware['name'])}"),
    ]


def what_is_missing(answer: Answer) -> str:
    """Why it would not start here, if it would not."""
    mark = "here it would not start: "
    return next((line.partition(mark)[2] for line in answer.said if mark in line), answer.error)
