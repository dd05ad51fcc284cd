"""Several texts written together: each step gives every one of them a token; they come and go between steps.

Reading the weights is what a step costs, so texts share it. One prompt is read a step, so that those who write already
are not held up by many newcomers. What a text becomes does not depend on the others.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random

from torch import Tensor

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.generation import Alternative, FinishReason, Generation, Piece, TokenLogprob
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.inference.conversation import (
    conversation_ids,
    ends_of_answer,
    newest_that_fit,
)
from trainer_daemon.engine.inference.decoder import Decoder
from trainer_daemon.engine.inference.kv_cache import KVCache
from trainer_daemon.engine.inference.recorded import RecordedDecoder
from trainer_daemon.engine.inference.sampling import logprob_of, pick_token
from trainer_daemon.engine.inference.text import StopFinder, TextStream
from trainer_daemon.engine.inference.uncached import Texts, UncachedDecoder

DEFAULT_ROWS = 16
"""Texts written at once; more of them wait for their turn."""


class Batch:
    """For one thread."""

    def __init__(
        self,
        decoder: Decoder | UncachedDecoder,
        tokenizer: Tokenizer,
        rows: int = DEFAULT_ROWS,
        *,
        is_chat: bool = False,
    ) -> None:
        """`is_chat`: the model was trained on conversations, so it may be asked to answer one."""
        self._tokenizer = tokenizer
        self._is_chat = is_chat
        self._cache: KVCache | Texts
        self._prefill: Callable[[Sequence[int], int], Tensor]
        self._decode: Callable[[Sequence[int]], Tensor]
        if isinstance(decoder, Decoder):
            cache = self._cache = decoder.new_cache(rows)
            self._prefill = lambda ids, row: decoder.prefill(ids, cache, row)
            self._decode = (
                RecordedDecoder(decoder, cache).decode
                if decoder.device.type == "cuda"
                else partial(decoder.decode, cache=cache)
            )
        else:
            texts = self._cache = decoder.new_cache(rows)
            self._prefill = lambda ids, row: decoder.prefill(ids, texts, row)
            self._decode = partial(decoder.decode, cache=texts)
        self._rows: list[_Text] = []
        """By row of the cache."""
        self._waiting: deque[_Text] = deque()
        self._tickets = 0

    @property
    def is_idle(self) -> bool:
        """Nobody waits for a token."""
        return not self._rows and not self._waiting

    def begin(self, request: Generation) -> int:
        """Take in a request; returns the ticket that its pieces carry. Raises SpecError where it does not fit."""
        context = self._cache.context
        ids, left_out = self._read(request)
        if len(ids) > context and request.overflow == "refuse":
            what = "conversation" if request.messages else "prompt"
            raise SpecError(
                f"the {what} has {len(ids)} tokens and the context {context}; shorten it, or let the text slide"
            )
        self._tickets += 1
        ends = ends_of_answer(self._tokenizer) if request.messages else frozenset({self._tokenizer.bos_id})
        self._waiting.append(_Text(self._tickets, request, ids, left_out, ends, self._tokenizer, context))
        return self._tickets

    def _read(self, request: Generation) -> tuple[list[int], int]:
        """The ids that a text begins with, and how many of a conversation's oldest ones were left out."""
        if not request.messages:
            return [self._tokenizer.bos_id, *self._tokenizer.encode(request.prompt)], 0
        if not self._is_chat:
            raise SpecError(
                "this model was not trained on conversations, so it answers none; give it a text to continue"
            )
        if request.overflow == "refuse":
            return conversation_ids(request.messages, self._tokenizer), 0
        return newest_that_fit(request.messages, self._tokenizer, self._cache.context // 2)

    def cancel(self, ticket: int) -> None:
        """Write no more of this one; does nothing when it has ended."""
        for row, text in enumerate(self._rows):
            if text.ticket == ticket:
                self._leave(row)
                return
        self._waiting = deque(text for text in self._waiting if text.ticket != ticket)

    def abandon(self) -> list[int]:
        """Drop all texts, after an error in a step; returns their tickets."""
        tickets = [text.ticket for text in (*self._rows, *self._waiting)]
        self._waiting.clear()
        while self._rows:
            self._leave(len(self._rows) - 1)
        return tickets

    def step(self) -> list[tuple[int, Piece]]:
        """One token for each text that has a row; returns (ticket, piece). The last piece of a text frees its row."""
        for row in reversed(range(len(self._rows))):
            if self._cache.lengths[row] == self._cache.context:
                text = self._rows[row]
                self._leave(row)
                text.slide()
                self._waiting.appendleft(text)
        written: list[tuple[_Text, Tensor]] = []
        if self._rows:
            logits = self._decode([text.ids[-1] for text in self._rows])  # (N, V)
            written += zip(self._rows, logits, strict=True)
        if self._waiting and len(self._rows) < self._cache.rows:
            text, row = self._waiting.popleft(), self._cache.add()
            self._rows.append(text)
            written.append((text, self._prefill(text.ids[text.forgotten :], row)))
        pieces = [(text.ticket, text.take(row_logits)) for text, row_logits in written]
        for row in reversed(range(len(self._rows))):
            if self._rows[row].is_over:
                self._leave(row)
        return pieces

    def _leave(self, row: int) -> None:
        last = self._cache.remove(row)
        self._rows[row] = self._rows[last]
        self._rows.pop()


def write(batch: Batch, request: Generation) -> Iterator[Piece]:
    """One text alone in a batch. Raises SpecError at once where it does not fit."""
    ticket = batch.begin(request)
    return _pieces(batch, ticket)


def _pieces(batch: Batch, ticket: int) -> Iterator[Piece]:
    try:
        while not batch.is_idle:
            for _, piece in batch.step():
                yield piece
    finally:
        batch.cancel(ticket)


class _Text:
    """One text: its tokens, and what of them was shown."""

    def __init__(
        self,
        ticket: int,
        request: Generation,
        ids: list[int],
        left_out: int,
        ends: frozenset[int],
        tokenizer: Tokenizer,
        context: int,
    ) -> None:
        """`left_out`: ids of the conversation that are not in `ids`. `ends`: the ids that end the text."""
        self.ticket = ticket
        self.ids = ids
        """Prompt and text; the cache has seen all of it from `forgotten` on, but for the last one."""
        self.forgotten = 0
        self.is_over = False
        self._request = request
        self._left_out = left_out
        self._ends = ends
        self._tokenizer = tokenizer
        self._context = context
        self._prompt_tokens = len(ids)
        self._draw = Random(request.seed)  # noqa: S311  # nothing secret: it is to be repeated
        self._stream = TextStream(tokenizer.decode_bytes)
        self._stops = StopFinder(request.stop)
        if len(ids) > context:
            self.slide()

    def slide(self) -> None:
        """From here on only the last half context is read."""
        self.forgotten = len(self.ids) - self._context // 2

    def take(self, logits: Tensor) -> Piece:
        """(V,) of the next token -> what it adds to the text."""
        request = self._request
        token = pick_token(logits, request, self.ids, self._draw.random())
        if token in self._ends:  # also a document's beginning, which is the end of the one before
            return self._piece("", "end")
        self.ids.append(token)
        logprobs = () if request.logprobs is None else (self._logprob(logits, token, request.logprobs),)
        shown = self._stops.push(self._stream.push(token))
        reason: FinishReason | None = None
        if self._stops.found:
            reason = "stop"
        elif self._tokens == request.max_tokens or (
            request.overflow == "refuse" and len(self.ids) > self._context
        ):
            reason = "length"
        return self._piece(shown, reason, logprobs)

    @property
    def _tokens(self) -> int:
        return len(self.ids) - self._prompt_tokens

    def _piece(
        self, shown: str, reason: FinishReason | None, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> Piece:
        self.is_over = reason is not None
        if reason in ("length", "end"):
            shown += self._stops.push(self._stream.finish())
            if self._stops.found:
                reason = "stop"
            shown += self._stops.finish()
        return Piece(
            text=shown,
            tokens=self._tokens,
            done=self.is_over,
            finish_reason=reason,
            prompt_tokens=self._left_out + self._prompt_tokens,
            forgotten=self._left_out + self.forgotten,
            logprobs=logprobs,
        )

    def _logprob(self, logits: Tensor, token: int, alternatives: int) -> TokenLogprob:
        logprob, top = logprob_of(logits, token, alternatives)
        return TokenLogprob(
            self._spell(token),
            logprob,
            tuple(Alternative(self._spell(other), value) for other, value in top),
        )

    def _spell(self, token: int) -> str:
        names = {token_id: name for name, token_id in self._tokenizer.special.items()}
        return names.get(token) or self._tokenizer.decode_bytes(token).decode("utf-8", "replace")
