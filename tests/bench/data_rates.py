"""The data path on a CPU: preparing, loading and a window of a shard, each beside the least that it could cost."""

import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from presets.loader import preset_tables
from tests.tiny import Recorder, run_tiny
from trainer_daemon.contract.events import TrainStep
from trainer_daemon.contract.hardware import usable_cores
from trainer_daemon.contract.spec import DataSpec, TokenizerSpec, build_spec
from trainer_daemon.engine.data import prepare as preparing
from trainer_daemon.engine.data import writing
from trainer_daemon.engine.data.batches import Batches
from trainer_daemon.engine.data.order import RowOrder
from trainer_daemon.engine.data.prepare import prepare
from trainer_daemon.engine.data.rows import ConcatRows, Rows, open_rows
from trainer_daemon.engine.data.shards import ShardFile, Split, SplitMeta, header
from trainer_daemon.engine.data.stories import story
from trainer_daemon.engine.data.tokenizer import Tokenizer

STORIES, COPIES = 20_000, 8
WINDOW, WINDOWS = 1025, 20_000
VIRTUAL_TOKENS = 5_000_000_000
STEPS = 12


def quiet(*_: object) -> None:
    """Nobody watches."""


def write_corpus(path: Path) -> list[str]:
    """Ninety megabytes of text; returns the distinct documents."""
    texts = [story(0, i, 3).text for i in range(STORIES)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    path.write_text(lines * COPIES)
    return texts


def encode_alone(tokenizer_file: str, corpus: str, share: int, shares: int) -> tuple[int, float, float]:
    """(bytes, begun, ended) of what tiktoken does to every `shares`-th document that lies in memory already."""
    tokenizer = Tokenizer.load(Path(tokenizer_file))
    texts = [json.loads(line)["text"] for line in Path(corpus).read_text().splitlines()[share::shares]]
    encoding = tokenizer._tiktoken()
    encoding.encode_to_numpy("warm")
    begun = perf_counter()
    for text in texts:
        encoding.encode_to_numpy(text, disallowed_special=())
    return sum(len(text.encode()) for text in texts), begun, perf_counter()


def prepare_rates(folder: Path, workers: int) -> tuple[float, float]:
    """Bytes a second of `prepare` and of tiktoken alone in as many processes; the start of processes is not counted."""
    corpus = folder / "corpus.jsonl"
    tokenizer = Tokenizer.train(write_corpus(corpus), 4096)
    tokenizer.save(folder / "mine.json")
    size = corpus.stat().st_size
    marks: list[tuple[float, int]] = []

    def mark(what: str, done: int, *_: object) -> None:
        if what == "writing tokens":
            marks.append((perf_counter(), done))

    writing.PROCESSES_ABOVE_BYTES, preparing.REPORT_SECONDS = 0, 0.0
    named = TokenizerSpec(name=str(folder / "mine.json"))
    prepare(DataSpec(source=str(corpus)), named, folder / "home", mark, workers=workers)
    (begun, first), (ended, _) = marks[0], marks[-1]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        shares = [
            pool.submit(encode_alone, str(folder / "mine.json"), str(corpus), i, workers)
            for i in range(workers)
        ]
        alone = [share.result() for share in shares]
    alone_seconds = max(end for _, _, end in alone) - min(begin for _, begin, _ in alone)
    text_share = sum(n for n, _, _ in alone) / size  # the file's bytes are those of JSON
    return (size - first) * text_share / (ended - begun), sum(n for n, _, _ in alone) / alone_seconds


def training_and_loading(folder: Path) -> tuple[float, float, float]:
    """Tokens a second of the fastest CPU preset and of its loader alone, and the share of a step that waits for rows."""
    spec = build_spec(
        preset_tables("stories"), [f"train.num_iterations={STEPS}", "eval.every=1000", "sample.every=1000"]
    )
    seen = Recorder()
    _, job = run_tiny(spec, folder, seen, folder)
    steps = seen.of(TrainStep)[2:]
    training = median(e.tokens_per_second for e in steps)
    waiting = median((e.data_seconds or 0.0) / e.step_seconds for e in steps)
    prepared = prepare(spec.data, spec.tokenizer, folder, quiet)
    rows = open_rows(prepared.train, spec.model.sequence_len, spec.data.packing)
    return training, loader_rate(rows, job.batches.global_rows, job.plan.micro_batch_size), waiting


def loader_rate(rows: Rows, global_rows: int, micro_batch_size: int) -> float:
    """Tokens a second of one rank's batches."""
    device = torch.device("cpu")
    batches = Batches(
        rows,
        RowOrder(len(rows), 1),
        global_rows=global_rows,
        micro_batch_size=micro_batch_size,
        rank=0,
        world_size=1,
        device=device,
    )
    begun, tokens, step = perf_counter(), 0, 0
    while perf_counter() - begun < 2:
        for batch in batches.micro_batches(step * global_rows):
            tokens += batch.inputs.numel()
        step += 1
    return tokens / (perf_counter() - begun)


def virtual_split(folder: Path) -> Split:
    """Ten gigabytes of ids that take no disk: a file with a hole."""
    folder.mkdir()
    with (folder / "000000.bin").open("wb") as file:
        file.write(header("uint16", VIRTUAL_TOKENS % 2**31))
        file.truncate(1024 + 2 * VIRTUAL_TOKENS)
    return Split(
        folder, SplitMeta(VIRTUAL_TOKENS, 1, 0, (ShardFile("000000", VIRTUAL_TOKENS, 1, ""),)), "uint16"
    )


def window_seconds(read: Callable[[int], object]) -> float:
    """Median seconds of one window, over rounds of random places."""
    places = np.random.default_rng(0).integers(0, 50_000_000, WINDOWS).tolist()
    rounds = []
    for _ in range(5):
        begun = perf_counter()
        for place in places:
            read(place)
        rounds.append((perf_counter() - begun) / len(places))
    return median(rounds)


def own_memory() -> int:
    """Bytes of this process that are no file's (Linux)."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def memory_growth(split: Split) -> int:
    """Bytes that this process grows by while its loader goes through a hundred thousand rows of a 10 GB corpus."""
    rows = ConcatRows(split, 1024)
    batches = Batches(
        rows,
        RowOrder(len(rows), 1),
        global_rows=512,
        micro_batch_size=32,
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
    )
    before = 0
    for step in range(200):
        for _ in batches.micro_batches(step * 512):
            pass
        if step == 20:
            before = own_memory()
    return own_memory() - before


def main() -> None:
    workers = usable_cores()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, alone = prepare_rates(folder, workers)
        print(
            f"prepare, {workers} processes   {ours / 1e6:8.1f} MB/s   {ours / alone:.2f} of tiktoken alone ({alone / 1e6:.1f})"
        )
        training, loading, waiting = training_and_loading(folder / "stories")
        print(
            f"loader of `stories`       {loading / 1e6:8.1f} M tok/s  {loading / training:.0f} x its training ({training / 1e3:.0f}k)"
        )
        print(f"data wait of `stories`    {100 * waiting:8.2f} %        of a step")
        split = virtual_split(folder / "virtual")
        bare = np.memmap(folder / "virtual" / "000000.bin", "<u2", "r", offset=1024)
        plain = np.asarray(bare)
        ours_s, plain_s, memmap_s = (
            window_seconds(read)
            for read in (
                lambda i: np.array(split.read(i, WINDOW)),
                lambda i: np.array(plain[i : i + WINDOW]),
                lambda i: np.array(bare[i : i + WINDOW]),
            )
        )
        print(
            f"window of {WINDOW} tokens     {1e6 * ours_s:8.2f} µs       {ours_s / plain_s:.2f} x a numpy slice ({1e6 * plain_s:.2f}), {ours_s / memmap_s:.2f} x a memmap's ({1e6 * memmap_s:.2f})"
        )
        if Path("/proc/self/status").exists():
            print(f"memory, 10 GB corpus      {memory_growth(split) / 1e6:+8.1f} MB       over 92,000 rows")


if __name__ == "__main__":
    main()
