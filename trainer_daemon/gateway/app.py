"""OpenAI's API over HTTP: each request becomes texts of the inference worker; the answer streams as they are written.

It holds no model: the worker is started by the first request, batches what comes at once, and may end in between. Every
request carries the token; a client that goes away takes its texts with it.
"""

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from trainer_daemon.contract.errors import LlmctlError, NotFoundError, SpecError
from trainer_daemon.contract.generation import Generation, Piece
from trainer_daemon.gateway import openai_api as api
from trainer_daemon.link.inference import open_worker

MAX_BODY_BYTES = 1 << 20
STATUS_OF_EXIT_CODE = {2: 400, 3: 404, 5: 504, 6: 503}
"""HTTP status of our errors; else 500."""
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A checkpoint that requests can name."""

    checkpoint: Path
    is_chat: bool
    """Trained on conversations: it answers messages in its own template, where a base model continues a transcript."""


class _StatusError(Exception):
    """An answer that is an error, in the form that OpenAI's clients understand."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.response = JSONResponse(
            {"error": {"message": message, "type": "invalid_request_error" if status < 500 else "server_error",
                       "param": None, "code": code}},
            status,
        )  # fmt: skip


def build_app(served: Mapping[str, ServedModel], token: str) -> Starlette:
    """Serve these, by the names that requests call them."""

    def guarded(handler: Handler) -> Handler:
        async def guard(request: Request) -> Response:
            try:
                scheme, _, given = request.headers.get("authorization", "").partition(" ")
                if scheme.lower() != "bearer" or not secrets.compare_digest(given.encode(), token.encode()):
                    message = "the token is missing or wrong; llmctl serve says where it is kept"
                    raise _StatusError(401, message, "invalid_api_key")
                return await handler(request)
            except _StatusError as e:
                return e.response
            except LlmctlError as e:
                return _error_of(e).response

        return guard

    async def models(_request: Request) -> Response:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "llmctl"} for name in served]
        return JSONResponse({"object": "list", "data": listed})

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        _model(served, name)
        return JSONResponse({"id": name, "object": "model", "created": 0, "owned_by": "llmctl"})

    async def completions(request: Request) -> Response:
        return await _answer(request, api.CompletionRequest, served)

    async def chat_completions(request: Request) -> Response:
        return await _answer(request, api.ChatRequest, served)

    async def not_offered(_request: Request, error: Exception) -> Response:
        """In the form of all other errors, which clients show."""
        assert isinstance(error, HTTPException)
        offered = ", ".join(
            f"{'POST' if 'POST' in (route.methods or ()) else 'GET'} {route.path}" for route in routes
        )
        message = f"this is not offered here; there are {offered}"
        return _StatusError(error.status_code, message, "not_offered").response

    routes = [
        Route("/v1/models", guarded(models)),
        Route("/v1/models/{name}", guarded(one_model)),
        Route("/v1/completions", guarded(completions), methods=["POST"]),
        Route("/v1/chat/completions", guarded(chat_completions), methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: not_offered})


def _model(served: Mapping[str, ServedModel], name: str) -> ServedModel:
    if name not in served:
        names = ", ".join(served)
        raise _StatusError(404, f'the model "{name}" is not served here; served: {names}', "model_not_found")
    return served[name]


def _error_of(error: LlmctlError) -> _StatusError:
    status = STATUS_OF_EXIT_CODE.get(error.exit_code, 500)
    is_too_long = isinstance(error, SpecError) and "context" in str(error)
    code = (
        "context_length_exceeded"
        if is_too_long
        else "model_not_found"
        if isinstance(error, NotFoundError)
        else "error"
    )
    return _StatusError(status, str(error), code)


async def _body(request: Request) -> bytes:
    body, size = bytearray(), 0
    async for part in request.stream():  # to its end: a client that is cut off while it sends hears nothing
        size += len(part)
        if size <= MAX_BODY_BYTES:
            body += part
    if size > MAX_BODY_BYTES:
        raise _StatusError(413, f"a request has at most {MAX_BODY_BYTES:,} bytes", "too_large")
    return bytes(body)


async def _answer(
    request: Request,
    kind: type[api.CompletionRequest] | type[api.ChatRequest],
    served: Mapping[str, ServedModel],
) -> Response:
    try:
        wanted = api.parse(kind, await _body(request))
    except ClientDisconnect:
        return Response(status_code=499)
    model = _model(served, wanted.model)
    seed = secrets.randbelow(1 << 31)
    if isinstance(wanted, api.ChatRequest):
        generations = wanted.answers(seed) if model.is_chat else wanted.transcripts(seed)
    else:
        generations = wanted.generations(seed)
    pieces = _write(model.checkpoint, generations)
    stream = iterate_in_threadpool(pieces)
    try:
        # what is refused is refused now, with a status of its own, and not in the middle of a stream
        first = await anext(stream)
    except BaseException:
        pieces.close()
        raise
    if wanted.stream:
        return StreamingResponse(
            _events(wanted, len(generations), first, stream, pieces), media_type="text/event-stream"
        )
    try:
        return await _whole(request, wanted, len(generations), first, stream)
    finally:
        pieces.close()


def _write(checkpoint: Path, generations: list[Generation]) -> Generator[tuple[int, Piece], None, None]:
    with (
        open_worker() as worker,
        closing(worker.generate_together([(checkpoint, g) for g in generations])) as pieces,
    ):
        yield from pieces


async def _whole(
    request: Request,
    wanted: api.CompletionRequest | api.ChatRequest,
    count: int,
    first: tuple[int, Piece],
    stream: AsyncIterator[tuple[int, Piece]],
) -> Response:
    written: list[list[Piece]] = [[] for _ in range(count)]
    written[first[0]].append(first[1])
    async for place, piece in stream:
        written[place].append(piece)
        if len(written[place]) % 16 == 0 and await request.is_disconnected():
            return Response(status_code=499)
    is_chat = isinstance(wanted, api.ChatRequest)
    choices = [_choice(wanted, i, pieces, is_chunk=False) for i, pieces in enumerate(written)]
    kind: api.Kind = "chat.completion" if is_chat else "text_completion"
    answer = api.envelope(kind, api.new_id(kind), wanted.model, choices)
    return JSONResponse({**answer, "usage": api.usage([pieces[-1] for pieces in written])})


async def _events(
    wanted: api.CompletionRequest | api.ChatRequest,
    count: int,
    first: tuple[int, Piece],
    stream: AsyncIterator[tuple[int, Piece]],
    pieces: Generator[tuple[int, Piece], None, None],
) -> AsyncIterator[str]:
    """Server-sent events; an error after the first is an event, too."""
    is_chat = isinstance(wanted, api.ChatRequest)
    kind: api.Kind = "chat.completion.chunk" if is_chat else "text_completion"
    answer_id, last = api.new_id(kind), {}

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({**api.envelope(kind, answer_id, wanted.model, choices), **more})}\n\n"

    try:
        if is_chat:
            for i in range(count):
                yield event(
                    [{"index": i, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
                )
        place, piece = first
        while True:
            last[place] = piece
            if piece.text or piece.logprobs or piece.done:
                yield event([_choice(wanted, place, [piece], is_chunk=True)])
            try:
                place, piece = await anext(stream)
            except StopAsyncIteration:
                break
        if wanted.includes_usage:
            yield event([], usage=api.usage(list(last.values())))
    except LlmctlError as e:
        yield f"data: {bytes(_error_of(e).response.body).decode()}\n\n"
    finally:
        pieces.close()
    yield "data: [DONE]\n\n"


def _choice(
    wanted: api.CompletionRequest | api.ChatRequest, index: int, pieces: list[Piece], *, is_chunk: bool
) -> dict[str, Any]:
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.logprobs]
    if isinstance(wanted, api.CompletionRequest):
        return api.completion_choice(index, text, pieces[-1], tokens if wanted.logprobs is not None else None)
    return api.chat_choice(index, text, pieces[-1], tokens if wanted.logprobs else None, is_chunk=is_chunk)
