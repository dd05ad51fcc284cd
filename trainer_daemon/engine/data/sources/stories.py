"""The generated corpus: no file, no download, and an entropy that is known."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainer_daemon.contract.spec import DataSpec
from trainer_daemon.engine.data.sources.documents import HELD_OUT_EVERY, Document, Place
from trainer_daemon.engine.data.stories import GENERATOR_VERSION, floor_bits_per_byte, is_held_out, story


@dataclass(frozen=True, slots=True)
class StoryCorpus:
    """Story i is a function of (seed, i, level) alone."""

    data: DataSpec
    name: str = "stories"
    holds_tokens: bool = False

    @property
    def total(self) -> int:
        return self.data.stories

    @property
    def unit(self) -> str:
        return "stories"

    def identity(self) -> dict[str, Any]:
        return {
            "source": "stories",
            "generator": GENERATOR_VERSION,
            "stories": self.data.stories,
            "level": self.data.level,
            "seed": self.data.seed,
        }

    def documents(self, start: Place | None = None) -> Iterator[Document]:
        for i in range(start.documents if start else 0, self.data.stories):
            yield Document(
                story(self.data.seed, i, self.data.level).text, is_held_out(i), i + 1, Place(i, None)
            )

    def bits_per_byte_floor(self) -> float | None:
        # the first thousand held-out stories settle it to a fraction of a per cent; all of 10^6 would take minutes
        some = [i for i in range(min(self.data.stories, 1000 * HELD_OUT_EVERY)) if is_held_out(i)]
        return floor_bits_per_byte(self.data.seed, some, self.data.level)

    def lack(self, *, train: int, held_out: int) -> str:
        return (
            f"data.stories: {self.data.stories} give {train} to train on and {held_out} to hold out; raise it"
        )
