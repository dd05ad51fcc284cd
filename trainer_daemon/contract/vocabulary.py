"""What is known of a tokenizer before it is loaded: how many ids it has and which of them divides documents.

A plan needs the count and a check of token files needs the separator, and neither should cost the import of a tokenizer
library or a download.
"""

import json
from pathlib import Path
from typing import NamedTuple

from trainer_daemon.contract.errors import SpecError, did_you_mean
from trainer_daemon.contract.spec import TokenizerSpec

TRAINED = "trained"
"""The name of the tokenizer that a run learns from its own text."""
BOS = "<|bos|>"
END_OF_TEXT = "<|endoftext|>"
USER_START, USER_END = "<|user_start|>", "<|user_end|>"
ASSISTANT_START, ASSISTANT_END = "<|assistant_start|>", "<|assistant_end|>"
CHAT_TOKENS = (USER_START, USER_END, ASSISTANT_START, ASSISTANT_END)
"""What a conversation is made of, as in nanochat."""


class Vocabulary(NamedTuple):
    size: int
    """Ids, specials and unused ones included: the largest id is one less."""
    separator_id: int
    """The id that stands between documents."""


PUBLISHED: dict[str, Vocabulary] = {
    "gpt2": Vocabulary(50_257, 50_256),
    "r50k_base": Vocabulary(50_257, 50_256),
    "p50k_base": Vocabulary(50_281, 50_256),
    "cl100k_base": Vocabulary(100_277, 100_257),
    "o200k_base": Vocabulary(200_019, 199_999),
}
"""By tiktoken's names; a test compares them with what tiktoken loads."""


def named_vocabulary(tokenizer: TokenizerSpec, home: Path) -> Vocabulary | None:
    """Of a tokenizer that exists already; None for one that the run will train. Raises SpecError when there is none such."""
    if tokenizer.name == TRAINED:
        return None
    if tokenizer.name in PUBLISHED:
        return PUBLISHED[tokenizer.name]
    path = tokenizer_file(tokenizer.name, home)
    try:
        stored = json.loads(path.read_bytes())
        special = {str(name): int(token_id) for name, token_id in stored["special"].items()}
        return Vocabulary(
            max(len(stored["tokens"]), *(i + 1 for i in special.values())), separator_of(special)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise SpecError(f"tokenizer.name: {path} is not a tokenizer of this version: {e!r}") from e


def separator_of(special: dict[str, int]) -> int:
    """The special id that opens documents. Raises KeyError where there is none."""
    return special[BOS] if BOS in special else special[END_OF_TEXT]


def tokenizer_file(name: str, home: Path) -> Path:
    """The stored tokenizer that `tokenizer.name` means: a path, or a name under `home`/tokenizers. Raises SpecError."""
    written = Path(name).expanduser()
    tried = [Path.cwd() / written, home / "tokenizers" / f"{name.removesuffix('.json')}.json"]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise SpecError(
        f'tokenizer.name: "{name}" is no published tokenizer{did_you_mean(name, PUBLISHED)} and there is nothing at '
        f"{' nor at '.join(map(str, tried))}; published ones are {', '.join(PUBLISHED)}"
    )
