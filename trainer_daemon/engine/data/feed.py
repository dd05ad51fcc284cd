"""What a run trains on and is measured by, opened as `data.live` says: all of a prepared set, or one that is being made."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from trainer_daemon.contract.closing import Closing
from trainer_daemon.contract.errors import RunFailedError
from trainer_daemon.contract.hardware import usable_cores
from trainer_daemon.contract.rundir import write_json
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.engine.data import encode, writing
from trainer_daemon.engine.data.conversations import check_conversations
from trainer_daemon.engine.data.live import LiveOrder, LiveRows, Tokenizing, WrittenSet, held_out_split
from trainer_daemon.engine.data.order import Order, RowOrder
from trainer_daemon.engine.data.prepare import draft_of, prepare, prepared_folder, set_place
from trainer_daemon.engine.data.rows import Rows, open_rows
from trainer_daemon.engine.data.shards import read_meta
from trainer_daemon.engine.data.sources import open_corpus
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.data.writing import NOTE_FILE, Progress
from trainer_daemon.engine.ranks import Ranks

STATE_FILE = "live.json"
"""In a checkpoint: what a run on a set in the making needs to go on."""
MAX_LIVE_WORKERS = 16


@dataclass(frozen=True)
class Feed(Closing):
    """A run's data, open."""

    tokenizer: Tokenizer
    fingerprint: str
    """16 hex digits of what the ids are; of a set in the making, of its first shard."""
    bits_per_byte_floor: float | None
    """Entropy of the held-out documents in bits per byte, where it is known."""
    train: Rows
    order: Order
    held_out: Rows
    live: LiveRows | None
    """The training rows again, where their set is in the making."""

    def close(self) -> None:
        """Let go of what works beside the training."""
        if self.live is not None:
            self.live.close()


def open_feed(
    spec: RunSpec,
    ranks: Ranks,
    *,
    home: Path,
    window: Path,
    checkpoint: Path | None,
    samples_seen: int,
    progress: Progress,
) -> Feed:
    """The data of a run that has drawn `samples_seen` rows, as `checkpoint` has it. Every rank for itself.

    `window`: where shards lie with data.live=window. Raises SpecError and RefusedError as `prepare` does, and whatever
    `progress` raises.
    """
    if spec.data.live != "off":
        return _open_live(spec, ranks, home, window, checkpoint, samples_seen, progress)
    prepared = prepare(spec.data, spec.tokenizer, home, progress)
    if spec.data.conversations:
        check_conversations(prepared.tokenizer, prepared.held_out)
    train, held_out = (
        open_rows(split, spec.model.sequence_len, spec.data.packing)
        for split in (prepared.train, prepared.held_out)
    )
    order = RowOrder(len(train), spec.seed)
    return Feed(
        prepared.tokenizer,
        prepared.fingerprint,
        prepared.bits_per_byte_floor,
        train,
        order,
        held_out,
        live=None,
    )


def _open_live(
    spec: RunSpec,
    ranks: Ranks,
    home: Path,
    window: Path,
    checkpoint: Path | None,
    samples_seen: int,
    progress: Callable[[str, int, int | None, str], None],
) -> Feed:
    state = _load_state(checkpoint) if checkpoint else {}
    given = prepared_folder(spec.data, home)
    tokenizing: Tokenizing | None = None
    if given:
        written, floor = WrittenSet(given, given, None), read_meta(given)["bits_per_byte_floor"]
    else:
        place, key = set_place(spec.data, spec.tokenizer, home)
        floor = open_corpus(spec.data, spec.tokenizer, home).bits_per_byte_floor()
        is_window = spec.data.live == "window" and not (place / "meta.json").exists()
        written = WrittenSet(place, window if is_window else draft_of(place), key, is_window=is_window)
        starts_it = ranks.is_main if is_window else int(os.environ.get("LOCAL_RANK", str(ranks.rank))) == 0
        if starts_it:
            if is_window and state.get("note"):
                _restore_note(window, state["note"])
            tokenizing = Tokenizing(
                {
                    "data": spec.data.model_dump(mode="json"),
                    "tokenizer": spec.tokenizer.model_dump(mode="json"),
                    "home": str(home),
                    "folder": str(window) if is_window else None,
                    "workers": max(1, min(MAX_LIVE_WORKERS, usable_cores() // 2)),
                    "reader": [0, 0],
                    # of this process, so that both cut alike
                    "shard_tokens": writing.SHARD_TOKENS,
                    "batch_characters": encode.BATCH_CHARACTERS,
                }
            )
    live = LiveRows(
        written,
        tokenizing,
        sequence_len=spec.model.sequence_len,
        packing=spec.data.packing,
        seed=spec.seed,
        rows_of_shards=state["rows_of_shards"] if state.get("cut") == _cut(spec) else (),
        sha256_of_shards=state.get("sha256_of_shards", ()),
        samples_seen=samples_seen,
    )
    try:
        found = live.wait_for_first(samples_seen, progress)
        validation = held_out_split(found)
        if spec.data.conversations:
            check_conversations(found.tokenizer, validation)
        held_out = open_rows(validation, spec.model.sequence_len, spec.data.packing)
    except BaseException:
        live.close()
        raise
    marks = f"{found.tokenizer.content_hash} {found.train[0].sha256}"
    fingerprint = sha256(marks.encode()).hexdigest()[:16]
    return Feed(found.tokenizer, fingerprint, floor, live, LiveOrder(live), held_out, live)


def live_state(spec: RunSpec, live: LiveRows) -> str:
    """What a checkpoint keeps as STATE_FILE."""
    return json.dumps({"cut": _cut(spec), **live.state()}, indent=1)


def _cut(spec: RunSpec) -> list[Any]:
    """What decides how many rows a shard gives."""
    return [spec.data.packing, spec.model.sequence_len]


def _load_state(checkpoint: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_bytes())
    except FileNotFoundError:
        return {}  # of a run whose text was whole: a fork of it begins to read anew
    except ValueError as e:
        raise RunFailedError(f"{checkpoint.name}/{STATE_FILE} was not written by this program: {e}") from e
    return state


def _restore_note(window: Path, note: dict[str, Any]) -> None:
    """What the checkpoint knows of its blocks, where the run's folder knows less: it may be another run's, or gone."""
    try:
        known = len(json.loads((window / NOTE_FILE).read_bytes())["blocks"])
    except (OSError, ValueError, KeyError):
        known = 0
    if known < len(note["blocks"]):
        window.mkdir(parents=True, exist_ok=True)
        write_json(window / NOTE_FILE, note)
