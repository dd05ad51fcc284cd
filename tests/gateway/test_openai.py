"""What `llmctl serve` answers to the official client."""

import time

import openai
import pytest

from tests.gateway.conftest import CHAT_MODEL, MODEL, Endpoint
from trainer_daemon.contract.generation import Message

WROTE = "\x1b[31m 10 2!"
"""What the parrot says in three tokens."""


def test_completions(endpoint: Endpoint) -> None:
    done = endpoint.client.completions.create(
        model=MODEL, prompt=["Once", "One"], max_tokens=3, n=2, seed=5, stop="x", temperature=0.5, top_p=0.9,
        logprobs=1, extra_body={"top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2},
    )  # fmt: skip
    assert [(c.index, c.text, c.finish_reason) for c in done.choices] == [
        (i, WROTE, "length") for i in range(4)
    ]
    assert done.choices[0].logprobs is not None
    assert done.choices[0].logprobs.token_logprobs == [-1.5] * 3
    assert done.choices[0].logprobs.top_logprobs == [{"y": -0.5}] * 3
    assert done.usage is not None
    assert done.usage.completion_tokens == 12
    first, second, third, _ = endpoint.parrot.asked
    assert (first.prompt, second.prompt, third.prompt) == ("Once", "Once", "One")
    assert (first.seed, second.seed) == (5, 6)
    assert (first.stop, first.temperature, first.top_p, first.overflow) == (("x",), 0.5, 0.9, "refuse")
    assert (first.top_k, first.min_p, first.repetition_penalty) == (7, 0.1, 1.2)


def test_chat_is_a_transcript_that_ends_where_the_next_speaker_begins(endpoint: Endpoint) -> None:
    done = endpoint.client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        ],
        max_completion_tokens=3,
        logprobs=True,
        top_logprobs=1,
    )
    (choice,) = done.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        WROTE,
        "length",
    )
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [token.logprob for token in choice.logprobs.content] == [-1.5] * 3
    (asked,) = endpoint.parrot.asked
    assert asked.prompt == "System: Be kind.\nUser: Hello\nAssistant:"
    assert "\nUser:" in asked.stop


def test_a_model_that_was_trained_on_conversations_is_asked_in_its_own_template(endpoint: Endpoint) -> None:
    done = endpoint.client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "Why?"},
        ],
        max_completion_tokens=3,
        stop="x",
    )
    assert done.choices[0].message.content == WROTE.replace("10", "20")
    (asked,) = endpoint.parrot.asked
    assert asked.messages == (
        Message("system", "Be kind."),
        Message("user", "Hello"),
        Message("assistant", "Hi"),
        Message("user", "Why?"),
    )
    assert (asked.prompt, asked.stop) == ("", ("x",))
    for messages, words in (
        ([{"role": "assistant", "content": "Hi"}], "the last message is the assistant's"),
        ([{"role": "user", "content": "a\x07"}], "message 1 has the control character"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            endpoint.client.chat.completions.create(model=CHAT_MODEL, messages=messages)  # type: ignore[arg-type]  # wrong on purpose


def test_streams(endpoint: Endpoint) -> None:
    chunks = list(
        endpoint.client.completions.create(
            model=MODEL, prompt="The end", max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].text for c in chunks[:-1]) == WROTE
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, "stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    talk = list(
        endpoint.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "a"}], max_tokens=3, n=2, stream=True
        )
    )
    for index in (0, 1):
        deltas = [c.choices[0] for c in talk if c.choices[0].index == index]
        assert deltas[0].delta.role == "assistant"
        assert "".join(d.delta.content or "" for d in deltas) == WROTE
        assert deltas[-1].finish_reason == "length"
    assert len({c.id for c in talk}) == 1


def test_models(endpoint: Endpoint) -> None:
    assert [model.id for model in endpoint.client.models.list()] == [MODEL, CHAT_MODEL]
    assert endpoint.client.models.retrieve(MODEL).id == MODEL


def test_what_is_wrong_is_said_with_the_status_that_the_client_knows(endpoint: Endpoint) -> None:
    def complete(client: openai.OpenAI, **changes: object) -> object:
        return client.completions.create(**{"model": MODEL, "prompt": "a", "max_tokens": 2, **changes})  # type: ignore[call-overload]  # wrong on purpose

    client = endpoint.client
    for authorization in ("Bearer wrong", "Bearer open", "open sesame", "Basic b3BlbiBzZXNhbWU="):
        header = {"Authorization": authorization}
        with pytest.raises(openai.AuthenticationError, match="the token is missing or wrong"):
            client.models.list(extra_headers=header)
    with pytest.raises(openai.NotFoundError, match="done@10"):
        complete(client, model="gpt-4")
    for changes, words in (
        ({"prompt": "refuse"}, "not that one"),
        ({"prompt": "a\x00"}, "control character"),
        ({"temperature": 11}, "temperature must be"),
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"presence_penalty": 1.0}, "presence_penalty is not offered"),
        ({"prompt": "refuse", "stream": True}, "not that one"),
        ({"prompt": "x" * 100_000}, "the request is"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            complete(client, **changes)
    with pytest.raises(openai.APIStatusError, match="at most 1,048,576 bytes"):
        complete(client, prompt="x" * 2_000_000)
    with pytest.raises(openai.NotFoundError, match="this is not offered here; there are GET /v1/models"):
        client.embeddings.create(model=MODEL, input="a")
    assert complete(client)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_goes_away_takes_its_text_with_it(endpoint: Endpoint, is_stream: bool) -> None:
    if is_stream:
        stream = endpoint.client.completions.create(model=MODEL, prompt="a", max_tokens=60_000, stream=True)
        assert next(iter(stream)).choices
        stream.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            endpoint.client.completions.create(model=MODEL, prompt="a", max_tokens=60_000, timeout=0.2)
    end = time.monotonic() + 60
    while not endpoint.parrot.is_idle and time.monotonic() < end:
        time.sleep(0.02)
    assert endpoint.parrot.is_idle
    assert endpoint.parrot.spoken < 60_000
