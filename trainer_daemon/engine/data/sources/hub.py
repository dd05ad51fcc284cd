"""A dataset of the Hugging Face hub, streamed through `datasets`: hf://OWNER/NAME, hf://OWNER/NAME/CONFIG, …@REVISION.

One process reads it once, in its own order, into shards. So none of the stream's traps is met: a `skip` that is split among
shards, a shuffle buffer whose content a resume loses, more ranks than files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainer_daemon.contract.errors import LlmctlError, RefusedError, SpecError
from trainer_daemon.contract.spec import DataSpec
from trainer_daemon.engine.data.sources.documents import HELD_OUT_EVERY, Document, Place
from trainer_daemon.engine.data.sources.jsonl import no_such_field
from trainer_daemon.engine.data.tokenizer import without_lone_surrogates

PREFIX = "hf://"
TRAIN_SPLIT = "train"
PLACE_EVERY = 1000
"""Documents from one place to the next at which reading can begin again."""


@dataclass(frozen=True, slots=True)
class HubCorpus:
    """The split `train`; held out is every hundredth of it, or the split that `data.held_out` names."""

    data: DataSpec
    name: str
    holds_tokens: bool = False
    total: int | None = None
    """A stream does not say how long it is."""
    unit: str = "documents"

    @property
    def held_out_split(self) -> str | None:
        return None if self.data.held_out in ("auto", "hundredth") else self.data.held_out

    def identity(self) -> dict[str, Any]:
        # asking the hub for its newest revision would need a network at every start: who wants one names it
        return {
            "source": self.name,
            "held_out": self.held_out_split or f"every {HELD_OUT_EVERY}th",
            "text_field": self.data.text_field,
        }

    def documents(self, start: Place | None = None) -> Iterator[Document]:
        splits = [split for split in (self.held_out_split, TRAIN_SPLIT) if split]
        done = start.documents if start else 0
        first, state = start.at if start else (splits[0], None)
        for split in splits[splits.index(first) :]:
            place = Place(done, [split, state])
            for text, stream in self._texts(split, state):
                by_hundredth = self.held_out_split is None and done % HELD_OUT_EVERY == 0
                yield Document(text, split == self.held_out_split or by_hundredth, done + 1, place)
                done += 1
                if done % PLACE_EVERY == 0:
                    place = Place(done, [split, stream.state_dict()])
            state = None

    def bits_per_byte_floor(self) -> float | None:
        return None

    def lack(self, *, train: int, held_out: int) -> str:
        return f"data.source: {self.name} gives {train} documents to train on and {held_out} to hold out"

    def _texts(self, split: str, state: dict[str, Any] | None) -> Iterator[tuple[str, Any]]:
        """(text, the stream behind it), from a state that such a stream had."""
        try:
            import datasets
        except ImportError as e:
            raise SpecError(
                "data.source: streaming from the Hugging Face hub needs datasets, which is not installed here: "
                "pip install 'llmctl[datasets]'"
            ) from e
        path, revision, config = parse_address(self.name)
        field = self.data.text_field
        try:
            stream = datasets.load_dataset(path, config, split=split, revision=revision, streaming=True)
            if state is not None:
                stream.load_state_dict(state)
            for number, row in enumerate(stream):
                if field not in row:
                    raise SpecError(
                        no_such_field(f"row {number:,} of {self.name}", "field", field, list(row))
                    )
                if row[field] is not None and not isinstance(row[field], str):
                    kind = type(row[field]).__name__
                    raise SpecError(
                        f'data.text_field: "{field}" of row {number:,} of {self.name} is a {kind}, not text'
                    )
                if row[field]:
                    yield without_lone_surrogates(row[field]), stream
        except LlmctlError:
            raise
        except Exception as e:  # the library passes on the classes of whatever it reads with
            raise RefusedError(
                f"data.source: cannot stream {split} of {self.name} ({type(e).__name__}: {e}). Is there a network, and such "
                f"a dataset, configuration and split?"
            ) from e


def parse_address(source: str) -> tuple[str, str | None, str | None]:
    """`hf://owner/name/config@revision` -> (path, revision, config). A folder, `hf:///path`, is read as `datasets` would."""
    address, _, revision = source.removeprefix(PREFIX).partition("@")
    if address.startswith("/"):
        return address, None, None
    parts = address.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise SpecError(
            f'data.source: "{source}" is no dataset; write hf://OWNER/NAME or hf://OWNER/NAME/CONFIG'
        )
    return "/".join(parts[:2]), revision or None, parts[2] if len(parts) == 3 else None
