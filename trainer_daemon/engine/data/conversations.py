"""Whether a corpus is what `data.conversations` says: a model that only claims to have learned to answer does not answer."""

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.vocabulary import CHAT_TOKENS
from trainer_daemon.engine.data.shards import Split
from trainer_daemon.engine.data.tokenizer import Tokenizer

LOOKED_AT = 1 << 20
"""Tokens of the held-out set in which a conversation must begin."""


def check_conversations(tokenizer: Tokenizer, held_out: Split) -> None:
    """Raises SpecError where the tokenizer has no chat tokens, or the held-out text none of them."""
    check_chat_tokens(tokenizer)
    ids = held_out.read(0, min(LOOKED_AT, len(held_out)))
    absent = [name for name in CHAT_TOKENS if not (ids == tokenizer.special[name]).any()]
    if absent:
        raise SpecError(
            f"data.conversations: the held-out text has no {' and no '.join(absent)}; text never becomes special tokens, "
            f"so give files of ids that hold them, or leave data.conversations out"
        )


def check_chat_tokens(tokenizer: Tokenizer) -> None:
    """Raises SpecError where a conversation cannot be spelled."""
    if missing := [name for name in CHAT_TOKENS if name not in tokenizer.special]:
        raise SpecError(f"data.conversations: the tokenizer has no {', '.join(missing)}; take one that does")
