"""Writing on a CPU: the decoder, alone and side by side, against reading everything again for each token, and against the
first thing that one would build, a cache in the training model (`cached_eager.py`). All take turns; ratios are medians of
neighbours in a turn. Then the first token of the embedded default's checkpoint, from a cold and from a warm worker:

    python -m tests.bench.writing [ROUNDS]
"""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil
import torch

from presets.loader import preset_tables
from tests.bench.cached_eager import CachedEager
from tests.tiny import Recorder, run_tiny
from tests.workers import end_workers
from trainer_daemon.contract.generation import Generation
from trainer_daemon.contract.scaling import ModelShape
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.engine.inference.decoder import Decoder
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.link.inference import open_worker

SHAPES = {
    "stories": ModelShape(4, 128, 4, 4, 32, 256, 2048, (256,) * 4),
    "depth 4": ModelShape(4, 256, 2, 2, 128, 512, 32768, (128, 128, 128, 512)),
}
TEXT = 256
"""Tokens that stand when a token is timed."""
TOKENS, ROWS = 8, (1, 8, 16)
COLD_STARTS, WARM_STARTS = 3, 10


@dataclass(frozen=True)
class Way:
    """One way of writing a token for each of so many texts, over and over at the same length."""

    name: str
    texts: int
    write: Callable[[], object]

    def seconds(self) -> float:
        """Of one token for each text."""
        begun = perf_counter()
        for _ in range(TOKENS):
            self.write()
        return (perf_counter() - begun) / TOKENS


def without_cache(model: GPT, ids: list[int]) -> Way:
    idx = torch.tensor([ids])

    @torch.no_grad()
    def write() -> None:
        # the head of the last position alone: no straw man
        model.unembed(model.hidden_states(idx)[:, -1:]).argmax()

    return Way("without a cache", 1, write)


def cached_eager(model: GPT, ids: list[int]) -> Way:
    writer = CachedEager(model)
    writer.read(ids)

    def write() -> None:
        writer.length = len(ids)
        writer.read([5]).argmax()

    return Way("cached, eager", 1, write)


def decoded(decoder: Decoder, ids: list[int], texts: int) -> Way:
    cache = decoder.new_cache(texts)
    for _ in range(texts):
        decoder.prefill(ids, cache, cache.add())

    def write() -> None:
        decoder.decode([5] * texts, cache)
        cache.lengths = [len(ids)] * texts

    return Way("decoder", texts, write)


def fresh(shape: ModelShape, dtype: torch.dtype) -> GPT:
    model = GPT(shape, compute_dtype=dtype)
    model.init_weights(0)
    return model.eval()


def compare(rounds: int) -> None:
    print(
        f"{'':9} {'':5} {'':16} {'texts':>5} {'ms/step':>8} {'tok/s':>7} {'× without':>10} {'× cached, eager':>16}"
    )
    for name, shape in SHAPES.items():
        ids = [7 * i % shape.vocab_size for i in range(min(TEXT, shape.sequence_len) - 1)]
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            model, decoder = fresh(shape, dtype), Decoder.of(fresh(shape, dtype))
            ways = [without_cache(model, ids), cached_eager(fresh(shape, dtype), ids)]
            ways += [decoded(decoder, ids, texts) for texts in ROWS]
            for way in ways:
                way.seconds()
            taken = [[way.seconds() for way in ways] for _ in range(rounds)]
            for i, way in enumerate(ways):
                ratios = [median(turn[j] * way.texts / turn[i] for turn in taken) for j in (0, 1)]
                seconds = median(turn[i] for turn in taken)
                print(
                    f"{name:9} {precision:5} {way.name:16} {way.texts:5} {1e3 * seconds:8.2f} "
                    f"{way.texts / seconds:7.0f} {ratios[0]:10.1f} {ratios[1]:16.1f}",
                    flush=True,
                )


@dataclass(frozen=True)
class Answer:
    wait: float
    """Seconds until the first token, asked for as the command line asks."""
    worker_seconds: float
    """Processor time that the worker had used by then, its own start included."""
    tokens_per_second: float
    """Behind the first token."""


def answer_of(checkpoint: Path) -> Answer:
    begun = perf_counter()
    with open_worker() as worker:
        process = psutil.Process(worker.ping())
        pieces = worker.generate(checkpoint, Generation(prompt="One day", max_tokens=100))
        next(pieces)
        wait = perf_counter() - begun
        used = process.cpu_times()
        begun = perf_counter()
        written = sum(1 for _ in pieces)
    return Answer(wait, used.user + used.system, written / (perf_counter() - begun))


def first_tokens(home: Path) -> None:
    os.environ["LLMCTL_HOME"] = str(home)
    untrained = ("train.num_iterations=1", "schedule.warmup_steps=1", "eval.every=off", "sample.every=off")
    run_tiny(build_spec(preset_tables("stories"), list(untrained)), home, Recorder())
    (checkpoint,) = (home / "checkpoints").iterdir()
    cold = []
    try:
        for _ in range(COLD_STARTS):
            end_workers(home)
            cold.append(answer_of(checkpoint))
        warm = [answer_of(checkpoint) for _ in range(WARM_STARTS)]
    finally:
        end_workers(home)
    print(
        f"first token of stories: {median(a.wait for a in cold):.2f} s from a cold worker, which uses "
        f"{median(a.worker_seconds for a in cold):.2f} s of a core; {1e3 * median(a.wait for a in warm):.0f} ms from a "
        f"warm one ({1e3 * min(a.wait for a in warm):.0f} at best); then "
        f"{median(a.tokens_per_second for a in warm):.0f} tok/s. {psutil.getloadavg()[0]:.1f} threads ran in the last minute"
    )


def main(rounds: int = 15) -> None:
    torch.set_num_threads(1)
    compare(rounds)
    with tempfile.TemporaryDirectory() as home:
        first_tokens(Path(home))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
