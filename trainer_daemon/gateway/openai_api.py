"""The wire format of OpenAI's API, as far as these models can serve it: requests parsed, answers spelled out.

What would change the text and is not offered is refused by name; fields that mean nothing here are passed over. Checked
against the official client, not against a document.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.generation import Generation, Message, Piece, Role, TokenLogprob

Kind = Literal["text_completion", "chat.completion", "chat.completion.chunk"]
FINISH_REASONS = {"length": "length", "end": "stop", "stop": "stop"}
MAX_TEXTS = 128
"""Of one request."""
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
UNOFFERED: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
    "echo": (None, False),
    "best_of": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
}
"""Field -> values under which it changes nothing."""


class StreamOptions(BaseModel):
    include_usage: bool = False


class _Request(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="allow")

    model: str
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=MAX_TEXTS)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: int | None = None
    """This and the next two are ours; the client sends them by `extra_body`."""
    min_p: float | None = None
    repetition_penalty: float | None = None

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def _generations(
        self,
        prompt: str | tuple[Message, ...],
        max_tokens: int | None,
        logprobs: int | None,
        stops: Sequence[str],
        seed: int,
    ) -> list[Generation]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        count = self.n or 1
        return [
            Generation(
                prompt=prompt if isinstance(prompt, str) else "",
                messages=() if isinstance(prompt, str) else prompt,
                # more than a context holds comes to an end there
                max_tokens=1 << 16 if max_tokens is None else max_tokens,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_k=self.top_k,
                top_p=1.0 if self.top_p is None else self.top_p,
                min_p=self.min_p or 0.0,
                repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
                seed=(abs(self.seed if self.seed is not None else seed) + i) % (1 << 63),
                stop=(*given, *stops),
                logprobs=logprobs,
                overflow="refuse",
            )
            for i in range(count)
        ]


class CompletionRequest(_Request):
    """Of /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]
    max_tokens: int | None = 16
    logprobs: int | None = None

    def generations(self, seed: int) -> list[Generation]:
        """One for each text, in the order of the answer's choices."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return [
            generation
            for prompt in prompts
            for generation in self._generations(prompt, self.max_tokens, self.logprobs, (), seed)
        ]


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(_Request):
    """Of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def answers(self, seed: int) -> list[Generation]:
        """One for each choice, of a model that was trained on conversations."""
        messages = tuple(Message(ROLES[message.role], message.text) for message in self.messages)
        return self._generations(messages, self._most_tokens, self._alternatives, (), seed)

    def transcripts(self, seed: int) -> list[Generation]:
        """One for each choice, of a base model: it knows no roles, so it continues a transcript up to the next speaker."""
        lines = [f"{ROLES[message.role].title()}: {message.text}" for message in self.messages]
        text = "\n".join([*lines, "Assistant:"])
        stops = ("\nUser:", "\nSystem:")
        return self._generations(text, self._most_tokens, self._alternatives, stops, seed)

    @property
    def _most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def _alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


def parse(kind: type[CompletionRequest] | type[ChatRequest], body: bytes) -> CompletionRequest | ChatRequest:
    """The request in a body. Raises SpecError, naming the field, for what is none or asks for what is not offered."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as e:
        problem = e.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the body"
        raise SpecError(f"{where}: {problem['msg']}") from e
    for name, value in (request.model_extra or {}).items():
        if name in UNOFFERED and value not in UNOFFERED[name]:
            raise SpecError(f"{name} is not offered here; leave it out")
    return request


def new_id(kind: Kind) -> str:
    return f"{'cmpl' if kind == 'text_completion' else 'chatcmpl'}-{uuid4().hex}"


def envelope(kind: Kind, answer_id: str, model: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """An answer, or a chunk of one."""
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": model, "choices": choices}


def usage(prompts: Sequence[Piece]) -> dict[str, int]:
    """Of texts whose last pieces these are."""
    prompt, completion = sum(p.prompt_tokens for p in prompts), sum(p.tokens for p in prompts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion_choice(
    index: int, text: str, last: Piece, tokens: Sequence[TokenLogprob] | None
) -> dict[str, Any]:
    """A choice of /v1/completions, whole or a chunk."""
    return {
        "index": index,
        "text": text,
        "finish_reason": _finish(last),
        "logprobs": None if tokens is None else _completion_logprobs(tokens),
    }


def chat_choice(
    index: int, text: str, last: Piece, tokens: Sequence[TokenLogprob] | None, *, is_chunk: bool
) -> dict[str, Any]:
    """A choice of /v1/chat/completions, whole or a chunk."""
    content = {"role": "assistant", "content": text} if not is_chunk else {"content": text}
    return {
        "index": index,
        "delta" if is_chunk else "message": content,
        "finish_reason": _finish(last),
        "logprobs": None if tokens is None else {"content": [_chat_logprob(token) for token in tokens]},
    }


def _finish(last: Piece) -> str | None:
    return FINISH_REASONS[last.finish_reason] if last.finish_reason else None


def _completion_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{other.text: other.logprob for other in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _chat_logprob(token: TokenLogprob) -> dict[str, Any]:
    top = [
        {"token": other.text, "logprob": other.logprob, "bytes": list(other.text.encode())}
        for other in token.top
    ]
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.text.encode()),
        "top_logprobs": top,
    }
