"""Text from stored checkpoints through a real worker process."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
import torch

from tests.tiny import Recorder, run_tiny, tiny_spec
from tests.workers import end_workers, workers_of
from trainer_daemon.contract.errors import LlmctlError, NotFoundError, RefusedError, RunFailedError, SpecError
from trainer_daemon.contract.events import Sampled
from trainer_daemon.contract.generation import Generation
from trainer_daemon.contract.hardware import usable_cores
from trainer_daemon.contract.spec import RuntimeSpec
from trainer_daemon.engine.checkpoint.store import MANIFEST, read_manifest
from trainer_daemon.engine.precision import choose_precision
from trainer_daemon.link.inference import Worker, open_worker, worker_folder
from trainer_daemon.processes.infer import niceness_for, precision_for, threads_for
from trainer_daemon.processes.room import GPU_MEMORY, free_memory, texts_that_fit

GREEDY = Generation(prompt="One", max_tokens=12, temperature=0.0)
ENDLESS = Generation(prompt="One", max_tokens=60_000, temperature=5.0, seed=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """The last checkpoint of a run that has three, and what the run reported."""
    home = tmp_path_factory.mktemp("trained")
    seen = Recorder()
    run_tiny(tiny_spec("sample.max_tokens=12"), home, seen)
    return home / "checkpoints/step-00000012", seen


@pytest.fixture
def checkpoint(trained: tuple[Path, Recorder]) -> Path:
    return trained[0]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own; whatever worker serves it at the end is ended."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    yield tmp_path / "home"
    end_workers(tmp_path / "home")


def text_of(worker: Worker, checkpoint: Path, request: Generation) -> str:
    return "".join(piece.text for piece in worker.generate(checkpoint, request))


def test_one_worker_serves_all_who_ask_whichever_checkpoint_they_ask_for(
    checkpoint: Path, trained: tuple[Path, Recorder], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_training = trained[1].of(Sampled)[-1]
    earlier = checkpoint.with_name("step-00000005")
    drawn = replace(GREEDY, temperature=1.0, seed=3)
    with open_worker() as first:
        loaded = first.open(checkpoint)
        assert (loaded.step, loaded.context, loaded.device) == (12, 32, "CPU, 1 thread, fp32")
        assert text_of(first, checkpoint, replace(GREEDY, prompt=in_training.prompt)) == in_training.text
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp/of-another-session")  # where the socket is, the home says
        with open_worker() as second:
            assert text_of(first, checkpoint, drawn) == text_of(second, checkpoint, drawn)
            assert second.open(earlier).step == 5
            assert first.ping() == second.ping() == workers_of(home)[0].pid
        together: dict[int, str] = {0: "", 1: "", 2: ""}
        wanted = [(checkpoint, drawn), (earlier, drawn), (checkpoint, replace(drawn, seed=4))]
        for place, piece in first.generate_together(wanted):
            together[place] += piece.text
        assert together == {i: text_of(first, path, request) for i, (path, request) in enumerate(wanted)}
    assert len(workers_of(home)) == 1


def test_a_text_that_is_left_early_makes_room_and_does_not_run_into_the_next(checkpoint: Path) -> None:
    with open_worker() as worker:
        expected = text_of(worker, checkpoint, GREEDY)
        for _ in range(40):  # more than there are rows: each left one must free its own
            abandoned = worker.generate(checkpoint, ENDLESS)
            next(abandoned)
            abandoned.close()
        assert text_of(worker, checkpoint, GREEDY) == expected


def test_a_client_that_dies_mid_stream_frees_its_row(checkpoint: Path) -> None:
    with open_worker() as worker:
        expected = text_of(worker, checkpoint, GREEDY)
        for _ in range(20):  # more than there are rows
            gone = Worker(worker_folder())
            next(gone.generate_together([(checkpoint, ENDLESS)]))
            gone._socket.close()  # without a word, as a killed process would
        assert text_of(worker, checkpoint, GREEDY) == expected


def test_a_checkpoint_that_is_thinned_out_while_one_talks_to_it_answers_on(
    checkpoint: Path, tmp_path: Path
) -> None:
    thinned = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, thinned)
    with open_worker() as worker:
        expected = text_of(worker, thinned, GREEDY)
        shutil.rmtree(thinned)
        assert text_of(worker, thinned, GREEDY) == expected


@pytest.mark.slow
def test_a_worker_that_nobody_asks_ends_and_a_killed_one_is_noticed_and_replaced(
    checkpoint: Path, home: Path
) -> None:
    with open_worker(idle_seconds=0.2):
        psutil.wait_procs(workers_of(home), timeout=60)
        assert workers_of(home) == []
    with open_worker() as worker:
        pieces = worker.generate(checkpoint, ENDLESS)
        next(pieces)
        os.kill(worker.ping(), signal.SIGKILL)
        with pytest.raises(RefusedError, match=r"the inference worker is gone.*; ask again"):
            for _ in pieces:
                pass
    with open_worker() as worker:
        assert text_of(worker, checkpoint, GREEDY)


def test_what_cannot_be_served_is_refused_in_a_sentence_and_the_worker_lives(
    checkpoint: Path, tmp_path: Path
) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(checkpoint, tmp_path / name / checkpoint.name)
        return tmp_path / name / checkpoint.name

    damaged, foreign, forged = copy("damaged"), copy("foreign"), copy("forged")
    whole = bytearray((damaged / "model.safetensors").read_bytes())
    whole[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(whole)
    forge(foreign, tokenizer_hash="0" * 64)
    (forged / MANIFEST).write_text("{}")
    with open_worker() as worker:
        pid = worker.ping()
        for path, kind, words in (
            (damaged, RunFailedError, r"damaged \(model.safetensors\)"),
            (foreign, RunFailedError, "trained with another tokenizer"),
            (forged, NotFoundError, r"damaged \(MANIFEST.json\)"),
            (tmp_path / "nowhere", NotFoundError, "is not a checkpoint folder"),
        ):
            with pytest.raises(kind, match=words):
                worker.open(path)
            with pytest.raises(kind, match=words):
                text_of(worker, path, GREEDY)
        with pytest.raises(SpecError, match=r"the prompt has \d+ tokens and the context 32"):
            text_of(worker, checkpoint, replace(GREEDY, prompt="One day " * 20, overflow="refuse"))
        with pytest.raises(SpecError, match=r"the request is 9\d,\d{3} bytes"):
            text_of(worker, checkpoint, replace(GREEDY, prompt="数" * 30_000))
        for arguments, words in (
            ({"prompt": "a", "max_tokens": 0}, "max_tokens must be"),
            ({"prompt": "\x1b]0;x\x07"}, r"control character U\+001B"),
            ({"prompt": 7}, "the request is not understood"),
            ([], "the request is not understood"),
        ):  # from a client that does not check
            with pytest.raises(LlmctlError, match=words):
                worker._ask_once("generate", {"checkpoint": str(checkpoint), "request": arguments})
        assert text_of(worker, checkpoint, GREEDY)
        assert worker.ping() == pid
    assert worker_folder().stat().st_mode & 0o077 == 0


def forge(checkpoint: Path, **lineage: str) -> None:
    """Give a checkpoint another lineage under a manifest that is whole."""
    from trainer_daemon.engine.checkpoint.store import _hash_of

    manifest = read_manifest(checkpoint)
    values = manifest.model_copy(update={"lineage": manifest.lineage.model_copy(update=lineage)}).model_dump()
    (checkpoint / MANIFEST).write_bytes(msgspec.json.encode({**values, "sha256": _hash_of(values)}))


def test_a_training_run_goes_before_the_worker_where_cores_are_shared_among_sessions_too(
    checkpoint: Path,
) -> None:
    """Linux shares cores among sessions first: a process's own niceness says nothing to a run in another session."""
    with open_worker() as worker:
        pid = worker.ping()
    niceness = niceness_for(usable_cores())
    assert psutil.Process(pid).nice() == min(19, os.nice(0) + niceness)
    autogroup = Path(f"/proc/{pid}/autogroup")
    if autogroup.exists():  # not where the kernel was built without
        assert int(autogroup.read_text().split()[-1]) == niceness


def test_a_thread_that_writes_takes_no_more_than_its_share_from_one_that_trains_on_each_core() -> None:
    for cores, niceness in ((1, 5), (2, 9), (3, 12), (4, 15), (5, 17), (6, 19), (64, 19)):
        assert niceness_for(cores) == niceness
        weight = 1.25**-niceness  # of one core, beside a run that has 1 / cores of its weight there
        assert cores * weight <= 1 / cores or niceness == 19  # there is no nicer


def test_there_are_as_many_texts_at_once_as_memory_has_room_for(checkpoint: Path) -> None:
    assert texts_that_fit(checkpoint, 1 << 30, GPU_MEMORY) == 64
    with pytest.raises(
        RefusedError, match=r"step-00000012 needs 0\.\d MB of GPU memory .* and 0\.0 MB are free; end what"
    ):
        texts_that_fit(checkpoint, 1 << 10, GPU_MEMORY)
    room = [least for least in range(0, 1 << 21, 1 << 12) if fits(checkpoint, least)]
    assert sorted(fits(checkpoint, free) for free in room) == [fits(checkpoint, free) for free in room]
    assert {1, 2, 32, 64} <= {fits(checkpoint, free) for free in room}


def fits(checkpoint: Path, free: int) -> int:
    """Texts; 0 when it is refused."""
    with suppress(RefusedError):
        return texts_that_fit(checkpoint, free, GPU_MEMORY)
    return 0


def test_the_memory_that_is_free_is_what_a_container_leaves(tmp_path: Path) -> None:
    """psutil tells of the whole machine, where a container of 64 MB has been ended by the kernel long before."""
    free = free_memory(tmp_path, tmp_path / "none")
    (tmp_path / "own").write_text("3:cpu:/\n0::/box/inner\n")
    (tmp_path / "box/inner").mkdir(parents=True)
    for folder, limit in (("box", str(64 << 20)), ("box/inner", "max")):
        (tmp_path / folder / "memory.max").write_text(f"{limit}\n")
        (tmp_path / folder / "memory.current").write_text(f"{60 << 20}\n")
        (tmp_path / folder / "memory.stat").write_text(
            f"anon 7\nactive_file {1 << 20}\ninactive_file {2 << 20}\n"
        )
    assert free_memory(tmp_path, tmp_path / "own") == 7 << 20 < free


def test_a_model_that_no_memory_holds_is_refused_in_a_sentence_and_the_worker_lives(
    checkpoint: Path, tmp_path: Path
) -> None:
    large = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, large)
    with open_worker() as worker:
        expected = text_of(worker, checkpoint, GREEDY)
        process = psutil.Process(worker.ping())
        os.truncate(large / "model.safetensors", 1 << 40)  # no machine has so much; the file takes no disk
        with pytest.raises(
            RefusedError, match=r"needs 24\d\d\.\d GB of memory to be loaded.*, and [\d.]+ .B are free"
        ):
            worker.open(large)
        if hasattr(process, "rlimit"):  # Linux: the limit of a running process
            os.truncate(large / "model.safetensors", 1 << 27)  # every machine that tests this has so much
            process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + (1 << 27), -1))
            with pytest.raises(
                RefusedError, match=r"needs 295\.\d MB of memory to be loaded.*, and 1\d\d\.\d MB are"
            ):
                text_of(worker, large, GREEDY)
            process.rlimit(psutil.RLIMIT_AS, (-1, -1))
            with pytest.raises(RunFailedError, match="damaged"):
                worker.open(large)
        assert text_of(worker, checkpoint, GREEDY) == expected
        assert worker.ping() == process.pid


def test_the_worker_takes_no_more_cores_than_are_its_share() -> None:
    assert threads_for(7_000_000, is_training=False) == 1
    assert threads_for(1 << 30, is_training=True) <= max(1, threads_for(1 << 30, is_training=False) // 2)


def test_a_cpu_that_multiplies_in_bf16_writes_in_it_where_that_is_faster() -> None:
    cpu = torch.device("cpu")
    assert precision_for(7_000_000, cpu) == "fp32"  # of the embedded default: bf16 writes half as fast
    assert precision_for(1 << 30, cpu) == choose_precision(RuntimeSpec(), cpu)
    assert precision_for(7_000_000, torch.device("cuda")) == "bf16"
