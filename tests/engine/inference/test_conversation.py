"""Conversations in special tokens, and what of them a model reads."""

from dataclasses import replace

import pytest

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.generation import Generation, Message
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.inference.batch import Batch, write
from trainer_daemon.engine.inference.conversation import conversation_ids, newest_that_fit
from trainer_daemon.engine.inference.decoder import Decoder
from trainer_daemon.engine.models.language_model import LanguageModel

TALK = (
    Message("system", "Hm."),
    Message("user", "a"),
    Message("assistant", "b<|assistant_end|>"),
    Message("user", "c"),
)


def spelled(ids: list[int], letters: Tokenizer) -> str:
    names = {token_id: name for name, token_id in letters.special.items()}
    return "".join(names.get(i) or letters.decode([i]) for i in ids)


def test_a_conversation_is_spelled_as_chat_models_learn_it_and_words_stay_words(letters: Tokenizer) -> None:
    ids = conversation_ids(TALK, letters)
    assert spelled(ids, letters) == (
        "<|bos|><|user_start|>Hm.\n\na<|user_end|><|assistant_start|>b<|assistant_end|><|assistant_end|>"
        "<|user_start|>c<|user_end|><|assistant_start|>"
    )
    assert ids.count(letters.special["<|assistant_end|>"]) == 1, "the other one is what somebody typed"


def test_what_does_not_fit_leaves_whole_exchanges_at_a_time_and_the_system_message_stays(
    letters: Tokenizer,
) -> None:
    ids, left_out = newest_that_fit(TALK, letters, 12)
    assert spelled(ids, letters) == "<|bos|><|user_start|>Hm.\n\nc<|user_end|><|assistant_start|>"
    assert left_out == len(conversation_ids(TALK, letters)) - len(ids)
    assert newest_that_fit(TALK, letters, 3) == (ids, left_out), "the last message is never left out"
    assert newest_that_fit(TALK, letters, 100) == (conversation_ids(TALK, letters), 0)


def test_an_answer_ends_where_the_model_ends_it_and_a_base_model_answers_none(
    windowed: LanguageModel, letters: Tokenizer
) -> None:
    def tokens(batch: Batch, request: Generation) -> set[str]:
        drawn = [
            replace(request, max_tokens=200, temperature=3.0, logprobs=0, seed=seed) for seed in range(6)
        ]
        return {token.text for one in drawn for piece in write(batch, one) for token in piece.logprobs}

    base = Batch(Decoder.of(windowed), letters, rows=1)
    chat = Batch(Decoder.of(windowed), letters, rows=1, is_chat=True)
    ends = {"<|assistant_end|>", "<|user_start|>"}
    assert ends & tokens(base, Generation(prompt="a")), "a base model's text goes on behind them"
    assert not ends & tokens(chat, Generation(prompt="", messages=TALK))
    assert ends & tokens(chat, Generation(prompt="a")), "a text that it continues is no answer"
    with pytest.raises(SpecError, match="not trained on conversations"):
        base.begin(Generation(prompt="", messages=TALK))


def test_a_long_conversation_slides_by_exchanges_or_is_refused(
    windowed: LanguageModel, letters: Tokenizer
) -> None:
    many = tuple(Message("user" if i % 2 == 0 else "assistant", "word " * 6) for i in range(21))
    batch = Batch(Decoder.of(windowed), letters, rows=1, is_chat=True)
    (piece,) = write(batch, Generation(prompt="", messages=many, max_tokens=1, temperature=0))
    ids, left_out = newest_that_fit(many, letters, 128)
    assert 60 < len(ids) <= 128
    assert (piece.prompt_tokens, piece.forgotten) == (len(ids) + left_out, left_out)
    with pytest.raises(SpecError, match=r"the conversation has \d+ tokens and the context 256"):
        batch.begin(Generation(prompt="", messages=many, overflow="refuse"))


@pytest.mark.parametrize(
    ("prompt", "messages", "words"),
    [
        ("", (Message("user", "a"), Message("assistant", "b")), "it must be the user's"),
        ("", (Message("user", "a\x1b"),), r"message 1 has the control character U\+001B"),
        ("a", (Message("user", "a"),), "not both"),
    ],
)
def test_a_conversation_that_cannot_be_answered_is_refused(
    prompt: str, messages: tuple[Message, ...], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        Generation(prompt=prompt, messages=messages)
