"""The training loop on a real, tiny run: what it reports, how it obeys, and that a resumed run is the same run."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from tests.tiny import Recorder, build_tiny, run_tiny, tiny_spec
from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import (
    AttentionChosen,
    CheckpointFailed,
    CheckpointSaved,
    Command,
    CommandDone,
    Evaluated,
    Event,
    Notice,
    PhaseChanged,
    Resumed,
    RunPlanned,
    SampleChunk,
    Sampled,
    TrainStep,
)
from trainer_daemon.contract.rundir import RunDir
from trainer_daemon.engine.assembly import StoppedBeforeTrainingError
from trainer_daemon.engine.checkpoint import store
from trainer_daemon.engine.checkpoint.files import Progress, load_progress
from trainer_daemon.engine.job import Job
from trainer_daemon.engine.loop import train
from trainer_daemon.engine.models import loss
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.network import compiled_or_eager
from trainer_daemon.engine.optim.gradients import LossScale
from trainer_daemon.engine.optim.muon_adamw import MuonAdamW


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One corpus for the whole module."""
    return tmp_path_factory.mktemp("home")


def stop_at(step: int) -> Recorder:
    return Recorder({step: [Command("r1", "stop", {})]})


def test_a_run_reports_its_plan_every_step_and_its_end(home: Path, tmp_path: Path) -> None:
    seen = Recorder()
    finished, job = run_tiny(tiny_spec(), home, seen, tmp_path)

    assert (finished.reason, finished.step) == ("completed", 12)
    assert [e.step for e in seen.of(TrainStep)] == list(range(1, 13))
    assert [e.step for e in seen.of(Evaluated)] == [0, 6, 12]
    assert [e.step for e in seen.of(Sampled)] == [6, 12]
    assert [e.step for e in seen.of(CheckpointSaved)] == [5, 10, 12]
    assert [e.kernel for e in seen.of(AttentionChosen)] == ["blocked"]
    (plan,) = seen.of(RunPlanned)
    assert plan.parameters == sum(p.numel() for p in job.model.parameters())
    assert plan.bits_per_byte_floor is not None
    rows_of_a_batch = job.plan.micro_batch_size
    for e in seen.of(Evaluated):
        assert e.rows == min(512 // 32, plan.held_out_rows)
        assert (e.val_bpb_whole_batches == e.val_bpb) == (e.rows % rows_of_a_batch == 0)
    first, last = seen.of(TrainStep)[0], seen.of(TrainStep)[-1]
    assert first.loss_nats is not None
    assert first.loss_nats == pytest.approx(math.log(plan.vocab_size), rel=0.05)
    assert last.loss_nats is not None
    assert last.loss_nats < first.loss_nats - 0.3
    assert last.tokens == plan.total_tokens == 12 * 256
    assert last.grad_norm is not None
    assert last.grad_norm > 0
    assert plan.train_rows is not None
    assert last.epoch == pytest.approx(12 * 8 / plan.train_rows)
    peaks = asdict(job.plan.learning_rates)
    assert last.learning_rates == pytest.approx({g: lr * last.learning_rate_scale for g, lr in peaks.items()})
    parts = [seconds for seconds in last.part_seconds.values() if seconds is not None]
    assert len(parts) == 4
    assert sum(parts) <= last.step_seconds
    assert [c.val_bpb is not None for c in store.list_checkpoints(tmp_path / "checkpoints")] == [
        False,
        False,
        True,
    ]


WholeRun = Callable[[str], tuple[Recorder, Job]]


@pytest.fixture(scope="module")
def whole_run(home: Path) -> WholeRun:
    """A run that nothing interrupts, in a precision: what it reported and how it ended. Trained once for all who compare."""

    @cache
    def trained(precision: str) -> tuple[Recorder, Job]:
        seen = Recorder()
        _, job = run_tiny(
            tiny_spec(f"runtime.precision={precision}"), home, seen, home / f"whole-{precision}"
        )
        return seen, job

    return trained


@pytest.mark.parametrize(("stop_step", "precision"), [(1, "fp32"), (5, "fp32"), (7, "bf16"), (11, "bf16")])
def test_a_resumed_run_repeats_the_losses_of_an_uninterrupted_one_bit_for_bit(
    home: Path, tmp_path: Path, whole_run: WholeRun, stop_step: int, precision: str
) -> None:
    spec = tiny_spec(f"runtime.precision={precision}")
    whole, uninterrupted = whole_run(precision)
    first, second = stop_at(stop_step), Recorder()
    finished, _ = run_tiny(spec, home, first, tmp_path / "parts")
    assert (finished.reason, finished.step) == ("stopped", stop_step)
    finished, resumed = run_tiny(spec, home, second, tmp_path / "parts")

    assert finished.reason == "completed"
    assert [e.step for e in second.of(Resumed)] == [stop_step]
    assert first.losses | second.losses == whole.losses
    for (name, a), b in zip(
        uninterrupted.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    for (name, a), b in zip(
        uninterrupted.optimizer.state_tensors().items(),
        resumed.optimizer.state_tensors().values(),
        strict=True,
    ):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("forgotten", ["model", "optimizer", "optimizer_steps", "samples_seen", "step"])
def test_a_resume_that_forgets_one_thing_is_not_the_same_run(
    home: Path, tmp_path: Path, whole_run: WholeRun, forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above: were it blind, this one would fail."""
    _, uninterrupted = whole_run("fp32")  # before anything is forgotten
    if forgotten == "optimizer":
        monkeypatch.setattr(MuonAdamW, "load_state_tensors", lambda *_: None)
    elif forgotten == "model":
        monkeypatch.setattr(GPT, "load_state_dict", lambda *_: None)
    else:

        def forgetful(path: Path) -> Progress:
            progress = load_progress(path)
            setattr(progress, forgotten, 6 if forgotten == "step" else 0)
            return progress

        monkeypatch.setattr("trainer_daemon.engine.network.load_progress", forgetful)
    run_tiny(tiny_spec(), home, stop_at(7), tmp_path / "parts")
    _, resumed = run_tiny(tiny_spec(), home, Recorder(), tmp_path / "parts")
    same = (
        torch.equal(a, b)
        for a, b in zip(
            uninterrupted.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
        )
    )
    assert not all(same)


@pytest.mark.parametrize(
    "forgotten", [None, "loss_scale", "min_val_bpb", "usual_loss_nats", "usual_grad_norm"]
)
def test_a_resume_that_forgets_what_was_best_or_usual_ends_elsewhere_and_one_that_does_not_ends_the_same(
    home: Path, tmp_path: Path, forgotten: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25, what is no tensor: a run in fp16 that is stopped while its loss scale falls and its best evaluation is past."""

    def start(folder: str, seen: Recorder) -> Progress:
        spec = tiny_spec("runtime.precision=fp16", "checkpoint.every=none")
        job = build_tiny(spec, home, seen, tmp_path / folder)
        if not job.progress.step:
            job.gradients.loss_scale, job.progress.min_val_bpb = LossScale(2.0**27), 0.5
        train(job)
        return job.progress

    def forgetful(path: Path) -> Progress:
        progress = load_progress(path)
        if forgotten:
            setattr(progress, forgotten, getattr(Progress(), forgotten))
        return progress

    whole = start("whole", Recorder())
    start("parts", stop_at(9))
    monkeypatch.setattr("trainer_daemon.engine.network.load_progress", forgetful)
    assert (start("parts", Recorder()) == whole) == (forgotten is None)


def test_pause_save_sample_and_resume_are_obeyed_in_order_at_one_step_boundary(
    home: Path, tmp_path: Path
) -> None:
    asked = [
        Command("a", "pause", {}),
        Command("b", "save", {}),
        Command(
            "c",
            "sample",
            {"prompt": "One day", "max_tokens": 5, "temperature": 0.0, "top_k": None, "seed": 1},
        ),
        Command("d", "evaluate", {}),
        Command("e", "resume", {}),
    ]
    seen = Recorder({3: asked})
    finished, _ = run_tiny(tiny_spec(), home, seen, tmp_path)

    assert finished.reason == "completed"
    assert [(e.request_id, e.ok) for e in seen.of(CommandDone)] == [(x, True) for x in "abcde"]
    assert [e.step for e in seen.of(CheckpointSaved)] == [3, 5, 10, 12]
    (sample,) = [e for e in seen.of(Sampled) if e.request_id == "c"]
    assert sample.step == 3
    assert sample.text == "".join(e.text for e in seen.of(SampleChunk) if e.request_id == "c")
    phases = [e.phase for e in seen.of(PhaseChanged) if e.step == 3]
    assert phases == ["paused", "saving", "paused", "sampling", "paused", "evaluating", "paused", "running"]


def test_a_command_whose_deadline_is_over_lapses_and_those_behind_it_are_obeyed(
    home: Path, tmp_path: Path
) -> None:
    asked = [
        Command("late", "pause", {}, deadline=1.0),
        Command("in time", "save", {}, deadline=4e9),
        Command("later", "evaluate", {}, deadline=2.0),
    ]
    seen = Recorder({3: asked})
    finished, _ = run_tiny(tiny_spec(), home, seen, tmp_path)
    assert finished.reason == "completed"
    assert [(e.request_id, e.ok) for e in seen.of(CommandDone)] == [
        ("late", False),
        ("in time", True),
        ("later", False),
    ]
    assert [e.step for e in seen.of(Evaluated)] == [0, 6, 12]


def test_what_is_done_on_request_does_not_change_the_training(
    home: Path, tmp_path: Path, whole_run: WholeRun
) -> None:
    sample = {"prompt": "", "max_tokens": 9, "temperature": 1.0, "top_k": 3, "seed": 5}
    disturbed = Recorder(
        {4: [Command("a", "sample", sample), Command("b", "evaluate", {}), Command("c", "save", {})]}
    )
    run_tiny(tiny_spec(), home, disturbed, tmp_path / "disturbed")
    assert disturbed.losses == whole_run("fp32")[0].losses


def test_a_live_sample_takes_every_setting_that_a_stored_one_takes(home: Path, tmp_path: Path) -> None:
    plain = {"prompt": "Once", "max_tokens": 60, "temperature": 1.0, "top_k": None, "seed": 5}
    settings = {"min_p": 0.1, "top_p": 0.9, "repetition_penalty": 1.3, "stop": ["zzz"], "overflow": "slide"}
    long = {**plain, "prompt": "One day the fox " * 20, "overflow": "refuse"}
    asked = [
        Command("a", "sample", plain),
        Command("b", "sample", {**plain, **settings}),
        Command("c", "sample", long),
    ]
    seen = Recorder({4: asked})
    run_tiny(tiny_spec("sample.every=off"), home, seen, tmp_path / "run")
    first, second = seen.of(Sampled)
    assert first.text != second.text
    assert (second.min_p, second.top_p, second.repetition_penalty) == (0.1, 0.9, 1.3)
    assert (second.stop, second.forgotten > 0) == (("zzz",), True), "it outgrew the context of 32 and said so"
    answers = {e.request_id: (e.ok, e.message) for e in seen.of(CommandDone)}
    assert answers["b"] == (True, "sampled")
    assert not answers["c"][0]
    assert "tokens and the context 32" in answers["c"][1]


class Meddler(Recorder):
    """Does something between two steps, as the world outside may."""

    def __init__(self, step: int, meddle: Callable[[], None]) -> None:
        super().__init__()
        self._step, self._meddle = step, meddle

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, TrainStep) and event.step == self._step:
            self._meddle()


def test_evaluations_samples_and_saves_can_be_due_by_the_clock_and_leave_the_training_as_it_is(
    home: Path, tmp_path: Path
) -> None:
    by_steps, by_time = Recorder(), Recorder()
    run_tiny(tiny_spec("train.num_iterations=6"), home, by_steps, tmp_path / "steps")
    moment = "1e-9"  # over before every step
    spec = tiny_spec(
        "train.num_iterations=6",
        *(f"{duty}.every=off" for duty in ("eval", "sample", "checkpoint")),
        f"eval.every_minutes={moment}",
        f"checkpoint.every_minutes={moment}",
    )
    run_tiny(spec, home, by_time, tmp_path / "time")
    assert [e.step for e in by_time.of(Evaluated)] == [0, 1, 2, 3, 4, 5, 6]
    assert [e.step for e in by_time.of(CheckpointSaved)] == [1, 2, 3, 4, 5, 6]
    assert by_time.of(Sampled) == []
    assert by_time.losses == by_steps.losses


def test_with_every_interval_off_a_run_saves_at_its_end_and_nothing_else(home: Path, tmp_path: Path) -> None:
    seen = Recorder()
    off = (f"{duty}.every=off" for duty in ("eval", "sample", "checkpoint"))
    run_tiny(tiny_spec("train.num_iterations=3", *off), home, seen, tmp_path)
    assert (seen.of(Evaluated), seen.of(Sampled)) == ([], [])
    assert [e.step for e in seen.of(CheckpointSaved)] == [3]


def test_a_failed_save_is_an_event_and_training_goes_on(home: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    draft_of_step_5 = store.temporary_folder(tmp_path / "checkpoints", 5)
    seen = Meddler(4, draft_of_step_5.touch)  # a file where the draft's folder must be
    finished, _ = run_tiny(tiny_spec(), home, seen, tmp_path)
    assert finished.reason == "completed"
    assert [e.step for e in seen.of(CheckpointFailed)] == [5]
    assert [e.step for e in seen.of(CheckpointSaved)] == [10, 12]


def test_a_loss_that_is_not_finite_skips_the_step_and_then_ends_the_run(home: Path, tmp_path: Path) -> None:
    def poison() -> None:
        with torch.no_grad():
            job.model.lm_head.weight[0, 0] = float("nan")

    seen = Meddler(2, poison)
    job = build_tiny(tiny_spec(), home, seen, tmp_path)
    finished = train(job)
    assert (finished.reason, finished.step) == ("failed", 5)
    assert "with no good checkpoint to go back to; lower optim.matrix_lr" in finished.message
    assert "schedule.warmup_steps" in finished.message  # so early
    assert "fp32" not in finished.message  # which it is already
    others = [p for name, p in job.model.named_parameters() if "lm_head" not in name]
    assert all(bool(torch.isfinite(p).all()) for p in others)


def test_a_batch_that_cannot_be_split_is_refused_with_the_possible_ones(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"300 is not a multiple of 128 .* nearest: 256 or 384"):
        run_tiny(tiny_spec("train.global_batch_tokens=300"), home, Recorder(), tmp_path)


def test_a_resumed_run_forgets_the_evaluations_of_the_branch_that_was_cut(home: Path, tmp_path: Path) -> None:
    """Its last checkpoint is lost, so it goes on from step 10 and knows the best of up to there, not of step 12."""
    whole, second = Recorder(), Recorder()
    run_tiny(tiny_spec(), home, whole, tmp_path)
    store.discard(tmp_path / "checkpoints" / "step-00000012")
    run_tiny(tiny_spec(), home, second, tmp_path)
    scores = {e.step: e.val_bpb for e in whole.of(Evaluated)}
    assert scores[12] < scores[6]
    assert [e.min_val_bpb for e in second.of(Resumed)] == [scores[6]]


def test_a_resume_with_another_tokenizer_is_refused_and_with_other_text_is_said(tmp_path: Path) -> None:
    """The vocabulary's size may stay the same while every id means something else."""
    corpus, seen = tmp_path / "corpus.jsonl", Recorder()
    spec = tiny_spec(f"data.source={corpus}")

    def texts(words: str) -> list[str]:
        return [json.dumps({"text": f"{words} {i} {words[::-1]}"}) for i in range(400)]

    foxes, jugs = (
        texts("the quick brown fox jumps over the lazy dog"),
        texts("pack my box with five dozen jugs"),
    )
    corpus.write_text("\n".join(foxes))
    run_tiny(spec, tmp_path, stop_at(3), tmp_path)

    foxes[1], foxes[2] = foxes[2], foxes[1]  # the same words in another order: the same tokenizer, other rows
    corpus.write_text("\n".join(foxes))
    build_tiny(spec, tmp_path, seen, tmp_path)
    assert ["changed since step-00000003" in e.text for e in seen.of(Notice) if "data.source" in e.text] == [
        True
    ]

    corpus.write_text("\n".join(jugs))
    with pytest.raises(SpecError, match="step-00000003 was trained with other token ids"):
        run_tiny(spec, tmp_path, Recorder(), tmp_path)


def test_a_run_from_before_there_were_families_goes_on(
    home: Path, tmp_path: Path, whole_run: WholeRun
) -> None:
    """The spec is `tests.tiny.TINY` as it was stored then, without model.family; its hash is of that time, too."""
    stored = Path(__file__).parents[1] / "contract" / "spec_before_families.json"
    run = RunDir(tmp_path)
    run.spec_file.write_bytes(stored.read_bytes())
    spec = run.read_spec()
    assert spec.content_hash() == "c814f436a261ddf2"
    first, second = stop_at(7), Recorder()
    run_tiny(spec, home, first, tmp_path)
    (checkpoint,) = run.checkpoints.glob("step-00000007")
    put_in_checkpoint(checkpoint, "spec.json", stored.read_bytes())
    assert all(check.ok for check in store.verify_checkpoint(checkpoint))
    finished, _ = run_tiny(run.read_spec(), home, second, tmp_path)
    assert (finished.reason, [e.step for e in second.of(Resumed)]) == ("completed", [7])
    assert first.losses | second.losses == whole_run("fp32")[0].losses


def put_in_checkpoint(checkpoint: Path, name: str, content: bytes) -> None:
    """Give a checkpoint another file under a manifest that is whole."""
    (checkpoint / name).write_bytes(content)
    manifest = store.read_manifest(checkpoint)
    now = store.ManifestFile(path=name, bytes=len(content), sha256=sha256(content).hexdigest())
    files = tuple(now if file.path == name else file for file in manifest.files)
    values = manifest.model_copy(update={"files": files}).model_dump()
    (checkpoint / store.MANIFEST).write_text(json.dumps({**values, "sha256": store._hash_of(values)}))


def test_a_run_does_not_go_on_with_other_hyper_parameters_than_its_checkpoint_s(
    home: Path, tmp_path: Path
) -> None:
    """The peer restores the old rate in silence, and takes another batch size in silence."""
    run_tiny(tiny_spec(), home, stop_at(3), tmp_path)
    both = r"optim.matrix_lr is 0.25, step-00000003 has 0.5; train.global_batch_tokens is 512, step-00000003 has 256"
    other = tiny_spec("optim.matrix_lr=0.25", "train.global_batch_tokens=512", "eval.every=3")
    with pytest.raises(SpecError, match=both):
        build_tiny(other, home, Recorder(), tmp_path)
    seen = Recorder()
    run_tiny(tiny_spec("eval.every=4", "train.micro_batch_size=8", "tag=again"), home, seen, tmp_path)
    assert [e.step for e in seen.of(Evaluated)] == [4, 8, 12]


def test_a_run_that_repeats_its_text_many_times_says_so(home: Path, tmp_path: Path) -> None:
    def warnings(*overrides: str) -> list[str]:
        seen = Recorder()
        build_tiny(tiny_spec(*overrides), home, seen, tmp_path)
        return [e.text for e in seen.of(Notice) if "times over its text" in e.text]

    assert warnings() == []
    assert len(warnings("train.num_iterations=1000")) == 1


def test_a_stop_while_the_text_is_prepared_is_obeyed_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoppedBeforeTrainingError):
        build_tiny(tiny_spec(), tmp_path, Recorder(stop_wanted=True))
    assert not list(tmp_path.glob("shards/*/meta.json"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile's own deprecations are not a broken compiler
def test_without_a_working_compiler_the_run_goes_on_eagerly_and_says_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        compiled_or_eager(torch.nn.Linear(2, 2), "default", lambda _: None).__class__.__name__
        == "OptimizedModule"
    )
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nonexistent/c++"))
    torch.compiler.reset()
    seen = Recorder()
    finished, _ = run_tiny(
        tiny_spec("runtime.compile=default", "train.num_iterations=2"), home, seen, tmp_path
    )
    assert finished.reason == "completed"
    (warning,) = [e.text for e in seen.of(Notice) if "torch.compile" in e.text]
    assert "goes on eagerly" in warning


def test_a_sample_that_cannot_be_written_is_an_event_and_not_the_end_of_the_run(
    home: Path, tmp_path: Path
) -> None:
    impossible = Command(
        "a", "sample", {"prompt": "One", "max_tokens": 4, "temperature": -1.0, "top_k": None, "seed": 1}
    )
    seen = Recorder({3: [impossible]})
    finished, _ = run_tiny(tiny_spec(), home, seen, tmp_path)
    assert finished.reason == "completed"
    assert [(e.request_id, e.ok) for e in seen.of(CommandDone)] == [("a", False)]
    assert any("sampling at step 3 failed" in e.text for e in seen.of(Notice))


def test_a_run_whose_last_checkpoint_cannot_be_written_does_not_read_as_completed(
    home: Path, tmp_path: Path
) -> None:
    in_the_way = store.temporary_folder(tmp_path / "checkpoints", 12)
    finished, _ = run_tiny(tiny_spec(), home, Meddler(11, in_the_way.touch), tmp_path)
    assert finished.reason == "failed"
    assert "last checkpoint" in finished.message


def test_without_a_compiler_the_loss_goes_on_in_plain_torch_and_the_run_says_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_kernel", None)
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", os.devnull)
    seen = Recorder()
    finished, _ = run_tiny(tiny_spec("train.num_iterations=2"), home, seen, tmp_path)
    assert finished.reason == "completed"
    (notice,) = [e.text for e in seen.of(Notice) if "compiled kernel" in e.text]
    assert "there is no C++ compiler on PATH" in notice


@pytest.mark.parametrize("packing", ["concat", "best-fit-padded"])
def test_every_packing_trains(packing: str, home: Path, tmp_path: Path) -> None:
    seen = Recorder()
    finished, job = run_tiny(tiny_spec(f"data.packing={packing}"), home, seen, tmp_path)
    assert finished.reason == "completed"
    losses = [loss for loss in seen.losses.values() if loss is not None]
    assert losses[0] == pytest.approx(math.log(job.tokenizer.vocab_size), rel=0.05)
    assert losses[-1] < losses[0] - 0.3
    first, *_, last = (e.val_bpb for e in seen.of(Evaluated))
    assert last < first


def test_a_run_that_keeps_documents_apart_trains_resumes_to_the_bit_and_is_another_run(
    home: Path, tmp_path: Path
) -> None:
    apart = tiny_spec("data.packing=concat", "data.document_mask=true")
    together = tiny_spec("data.packing=concat")
    masked, whole, halted = Recorder(), Recorder(), stop_at(7)
    run_tiny(apart, home, masked, tmp_path / "masked")
    run_tiny(together, home, whole, tmp_path / "whole")
    run_tiny(apart, home, halted, tmp_path / "halted")
    assert max(halted.losses) == 7
    run_tiny(apart, home, halted, tmp_path / "halted")
    assert halted.losses == masked.losses
    assert halted.of(Evaluated)[-1].val_bpb == masked.of(Evaluated)[-1].val_bpb
    assert masked.losses[1] == pytest.approx(whole.losses[1], rel=0.05)
    assert masked.losses[12] != whole.losses[12]
