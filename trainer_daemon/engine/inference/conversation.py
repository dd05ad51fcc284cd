"""A conversation as the ids that nanochat's chat models are trained on: their template, in special tokens.

    <|bos|> <|user_start|> … <|user_end|> <|assistant_start|> … <|assistant_end|> <|user_start|> …

No token opens a system message: it stands at the head of the first message of the user, as in training there. Special
tokens are put here by id and never read out of a text, so nobody's words can pass for another speaker's.
"""

from collections.abc import Sequence

from trainer_daemon.contract.generation import Message
from trainer_daemon.contract.vocabulary import ASSISTANT_END, ASSISTANT_START, USER_END, USER_START
from trainer_daemon.engine.data.tokenizer import Tokenizer

AROUND = {"user": (USER_START, USER_END), "assistant": (ASSISTANT_START, ASSISTANT_END)}


def ends_of_answer(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids with which an answer is over: its own end, and what can only begin something else."""
    names = (ASSISTANT_END, USER_START)
    return frozenset({tokenizer.bos_id, *(tokenizer.special[name] for name in names)})


def conversation_ids(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """All of a conversation up to the place where the answer begins."""
    return newest_that_fit(messages, tokenizer, None)[0]


def newest_that_fit(
    messages: Sequence[Message], tokenizer: Tokenizer, room: int | None
) -> tuple[list[int], int]:
    """The ids of the newest messages that fit in `room` (None: any room), and how many older ids were left out.

    What is left begins with a message of the user and keeps the system's; the last message is never left out, so it
    may not fit.
    """
    system = [message.text for message in messages if message.role == "system"]
    spoken = [message for message in messages if message.role != "system"]
    parts = [_framed(message.role, message.text, tokenizer) for message in spoken]
    head, tail = [tokenizer.bos_id], [tokenizer.special[ASSISTANT_START]]
    first_size = 0
    for at, message in enumerate(spoken):
        if message.role != "user":
            continue
        first = _framed("user", "\n\n".join([*system, message.text]), tokenizer)
        ids = [*head, *first, *(i for part in parts[at + 1 :] for i in part), *tail]
        first_size = first_size or len(ids)
        if room is None or len(ids) <= room or at == len(spoken) - 1:
            return ids, first_size - len(ids)
    raise AssertionError("the user has the last word in every conversation that is asked")


def _framed(role: str, text: str, tokenizer: Tokenizer) -> list[int]:
    start, end = (tokenizer.special[name] for name in AROUND[role])
    return [start, *tokenizer.encode(text), end]
