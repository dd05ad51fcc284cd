"""Tokenizes beside a run that trains already: one order as a line of JSON on stdin, then where the reader is as often as
it moves; what it does and what went wrong as lines of JSON on stdout. It ends with its stdin, so with its rank.
"""

import json
import os
import sys
import threading
from pathlib import Path

from trainer_daemon.contract.errors import LlmctlError

NICENESS = 10
"""Training goes first where both want the same cores."""


def main(arguments: list[str]) -> int:
    if arguments:
        print("usage: python -m trainer_daemon tokenize < order", file=sys.stderr)
        return 2
    from trainer_daemon.contract.spec import DataSpec, TokenizerSpec
    from trainer_daemon.engine.data import encode, writing
    from trainer_daemon.engine.data.prepare import keep_window_of, prepare

    order = json.loads(sys.stdin.readline())
    writing.SHARD_TOKENS, encode.BATCH_CHARACTERS = order["shard_tokens"], order["batch_characters"]
    os.nice(NICENESS)
    reader = Reader(*order["reader"])
    data = DataSpec.model_validate(order["data"])
    tokenizer = TokenizerSpec.model_validate(order["tokenizer"])
    home, workers = Path(order["home"]), order["workers"]
    try:
        if folder := order["folder"]:
            keep_window_of(data, tokenizer, home, Path(folder), reader.at, report, workers=workers)
        prepare(data, tokenizer, home, report, workers=workers)
    except LlmctlError as e:
        tell(error=str(e))
        return e.exit_code
    return 0


class Reader:
    """Where the run is: a thread follows stdin, and ends the process with it."""

    def __init__(self, shard: int, needed_behind: int) -> None:
        self._at = shard, needed_behind
        threading.Thread(target=self._follow, daemon=True).start()

    def at(self) -> tuple[int, int]:
        """(number of its shard, shards behind that its batch needs)."""
        return self._at

    def _follow(self) -> None:
        for line in sys.stdin:
            shard, needed_behind = json.loads(line)
            self._at = shard, needed_behind
        os._exit(0)


def report(what: str, done: int, total: int | None, unit: str) -> None:
    tell(what=what, done=done, total=total, unit=unit)


def tell(**fields: str | int | None) -> None:
    print(json.dumps(fields), flush=True)
