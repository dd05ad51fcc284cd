"""The families of networks, and the mark of what only some of them have.

A key or a section that means nothing to a family is refused where it is given and is no part of that family's specs, so that
no dump shows a rate that nothing uses. Which families a key is for is said where the key is declared, by `OnlyOf`.
"""

from typing import Literal

from pydantic.fields import FieldInfo

Family = Literal["nanochat", "classic", "moe"]
"""nanochat: rotary positions, windows, value embeddings and residual scalars, trained by Muon and AdamW. classic: the GPT of the
textbooks, with learned positions, LayerNorm, ReLU, biases and an untied head, trained by AdamW alone. moe: a mixture of
experts with keys and values from latents, trained by Muon and AdamW."""


class OnlyOf:
    """`n_kv_head: Annotated[int | None, OnlyOf("nanochat")]`: a key, or a section of `RunSpec`, that other families do not have."""

    def __init__(self, *families: Family) -> None:
        self.families = families


def is_of(family: Family, field: FieldInfo) -> bool:
    """Whether a key or section means something to a family."""
    return all(family in mark.families for mark in field.metadata if isinstance(mark, OnlyOf))
