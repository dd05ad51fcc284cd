"""Writing on a CPU: the decoder against reading everything again for each token, alone and side by side. Ratios are what it
is for; a second part times a checkpoint's first token, from a cold and from a warm worker, where one is named:

    python -m tests.bench.writing [CHECKPOINT]
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from trainer_daemon.contract.generation import Generation
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.engine.inference.decoder import Decoder
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.link.inference import open_worker

SHAPES = {
    "stories": ModelShape(4, 128, 4, 4, 32, 256, 2048, (256,) * 4),
    "depth 4": ModelShape(4, 256, 2, 2, 128, 512, 32768, (128, 128, 128, 512)),
}
TEXT = 256
"""Tokens that stand when a token is timed."""
TOKENS, ROUNDS, ROWS = 8, 5, (1, 8, 16)


def seconds_per_token(write: Callable[[], None]) -> float:
    """Median over rounds of TOKENS calls."""
    write()
    rounds = []
    for _ in range(ROUNDS):
        begun = perf_counter()
        for _ in range(TOKENS):
            write()
        rounds.append((perf_counter() - begun) / TOKENS)
    return median(rounds)


def without_cache(model: GPT, ids: list[int]) -> Callable[[], None]:
    idx = torch.tensor([ids])

    @torch.no_grad()
    def write() -> None:
        model.unembed(
            model.hidden_states(idx)[:, -1:]
        ).argmax()  # the head of the last position alone: no straw man

    return write


def with_cache(decoder: Decoder, ids: list[int], rows: int) -> Callable[[], None]:
    cache = decoder.new_cache(rows)
    for _ in range(rows):
        decoder.prefill(ids, cache, cache.add())

    def write() -> None:
        decoder.decode([5] * rows, cache)
        cache.lengths = [
            len(ids)
        ] * rows  # the same token over and over: every one is timed at the same length

    return write


def compare() -> None:
    print(f"{'':9} {'':5} {'texts':>5} {'ms/step':>8} {'tok/s':>7} {'× without a cache':>18}")
    for name, shape in SHAPES.items():
        ids = [7 * i % shape.vocab_size for i in range(min(TEXT, shape.sequence_len) - 1)]
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            model = GPT(shape, compute_dtype=dtype)
            model.init_weights(0)
            plain = seconds_per_token(without_cache(model.eval(), ids))
            print(f"{name:9} {precision:5} {'plain':>5} {1000 * plain:8.2f} {1 / plain:7.0f} {1:18.1f}")
            decoder = Decoder.of(model)
            for rows in ROWS:
                seconds = seconds_per_token(with_cache(decoder, ids, rows))
                speed = rows / seconds
                print(
                    f"{name:9} {precision:5} {rows:5} {1000 * seconds:8.2f} {speed:7.0f} {speed * plain:18.1f}"
                )


def first_tokens(checkpoint: Path) -> None:
    for attempt in ("first", "again", "again"):
        begun = perf_counter()
        with open_worker() as worker:
            pieces = worker.generate(checkpoint, Generation(prompt="One day", max_tokens=100))
            next(pieces)
            wait = perf_counter() - begun
            written = sum(1 for _ in pieces)
        speed = written / (perf_counter() - begun - wait)
        print(f"{attempt}: first token after {1000 * wait:.0f} ms, then {speed:.0f} tok/s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    compare()
    if len(sys.argv) > 1:
        first_tokens(Path(sys.argv[1]))
