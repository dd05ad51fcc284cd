"""What counts as unsound, on curves; and what the loop then does, on a real tiny run."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import Recorder, build_tiny, tiny_spec
from trainer_daemon.contract.events import Alert, CheckpointSaved, Event, Resumed, TrainStep
from trainer_daemon.engine.checkpoint.files import Progress
from trainer_daemon.engine.data.batches import Batches, MicroBatch
from trainer_daemon.engine.health import (
    EPISODE_STEPS,
    LEAST_STEPS,
    MAX_SKIPPED_STEPS,
    RELEARN_STEPS,
    WINDOW_STEPS,
    Health,
    Verdict,
)
from trainer_daemon.engine.loop import train

NAN = float("nan")


def curve(seed: int, steps: int = 2000) -> Iterator[tuple[float, float]]:
    """Loss and gradient norm of a run that learns well: a power law with correlated noise of a heavy tail, a warm-up in
    which the gradient grows tenfold, then a slow fall with lognormal noise. Figures as in recorded runs of the presets."""
    random = np.random.default_rng(seed)
    drift = 0.0
    for step in range(steps):
        drift = 0.9 * drift + 0.01 * random.standard_normal()
        loss = (
            1.5
            + 9.0 * (step + 4.0) ** -0.45
            + 0.05 * random.standard_t(8) * (1 + 3 / (1 + step / 20))
            + drift
        )
        norm = 0.4 + 3.0 * min(1.0, step / 40) * (1 + step / 300) ** -0.3
        yield max(loss, 0.1), norm * math.exp(0.2 * random.standard_normal() + 3 * drift)


def verdicts(values: list[tuple[float, float]], *, skip_spikes: bool = False) -> list[Verdict]:
    health = Health(Progress(), skip_spikes=skip_spikes)
    return [health.judge(loss, norm) for loss, norm in values]


def test_forty_thousand_steps_of_runs_that_learn_raise_at_most_one_false_alarm() -> None:
    """Fault 53, its negative half: 20 seeds of 2,000 steps."""
    doubts = [
        (seed, i, v.doubt) for seed in range(20) for i, v in enumerate(verdicts([*curve(seed)])) if v.doubt
    ]
    assert len(doubts) <= 1, doubts


@pytest.mark.parametrize("at", [LEAST_STEPS, 200, 1500])
def test_a_loss_fifty_times_too_high_is_told_in_the_step_it_comes_and_once_when_it_stays(at: int) -> None:
    """Fault 53: once, then sustained."""
    for length in (1, 20):
        values = [
            (loss * 50 if at <= i < at + length else loss, norm) for i, (loss, norm) in enumerate(curve(3))
        ]
        found = verdicts(values)
        assert [i for i, v in enumerate(found) if v.doubt] == list(range(at, at + length))
        assert [i for i, v in enumerate(found) if v.is_news] == [at]
        assert not any(v.is_left_out for v in found), "left out only when the user asked for it"


def test_a_gradient_that_jumps_is_told_though_the_loss_is_as_usual() -> None:
    values = [(loss, norm * 30 if i == 700 else norm) for i, (loss, norm) in enumerate(curve(4))]
    assert [(i, v.doubt) for i, v in enumerate(verdicts(values)) if v.doubt] == [(700, "gradient_spike")]


def test_what_is_not_finite_never_enters_what_is_usual() -> None:
    """A NaN compares as False with everything, and a window with one in it never sees a spike again."""
    values = [*curve(5, 300)]
    for i, bad in ((100, (NAN, 1.0)), (101, (2.0, math.inf)), (102, (-math.inf, NAN))):
        values[i] = bad
    values[250] = (values[250][0] * 50, values[250][1])
    found = {i: v.doubt for i, v in enumerate(verdicts(values)) if v.doubt}
    assert found == {100: "not_finite", 101: "not_finite", 102: "not_finite", 250: "loss_spike"}


def test_spikes_are_left_out_on_request_and_at_most_three_in_a_row() -> None:
    values = [(loss * 50 if 500 <= i < 510 else loss, norm) for i, (loss, norm) in enumerate(curve(6, 600))]
    left_out = [i for i, v in enumerate(verdicts(values, skip_spikes=True)) if v.is_left_out]
    assert left_out[:MAX_SKIPPED_STEPS] == [500, 501, 502]
    assert 503 not in left_out


def test_a_level_that_stays_becomes_what_is_usual() -> None:
    values = [(loss * 2 if i >= 500 else loss, norm) for i, (loss, norm) in enumerate(curve(7, 1000))]
    found = [i for i, v in enumerate(verdicts(values)) if v.doubt]
    assert found == list(range(500, 500 + RELEARN_STEPS))


def test_an_episode_is_told_again_only_after_a_sound_stretch() -> None:
    spikes = {500, 510, 510 + EPISODE_STEPS + 1}
    values = [(loss * 50 if i in spikes else loss, norm) for i, (loss, norm) in enumerate(curve(8, 700))]
    assert [i for i, v in enumerate(verdicts(values)) if v.is_news] == [500, 510 + EPISODE_STEPS + 1]


def test_what_is_usual_is_bounded_and_travels_with_the_progress() -> None:
    values = [*curve(9, 1000)]
    values[900] = (values[900][0] * 50, values[900][1])
    whole = verdicts(values)
    progress = Progress()
    for loss, norm in values[:800]:
        Health(progress, skip_spikes=False).judge(loss, norm)  # each step by a launch of its own
    assert len(progress.usual_loss_nats) == WINDOW_STEPS
    resumed = Health(progress, skip_spikes=False)
    assert [resumed.judge(loss, norm).doubt for loss, norm in values[800:]] == [v.doubt for v in whole[800:]]


def test_an_overflow_that_a_lower_loss_scale_answers_is_no_alarm_and_counts_towards_no_rollback() -> None:
    health = Health(Progress(), skip_spikes=False)
    for _ in range(10):
        assert health.judge(2.0, math.inf, is_answered=True) == Verdict(None, is_news=False, is_left_out=True)
    assert not health.must_roll_back


# ------------------------------------------------------------------------------------------------ in the loop


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One corpus for the whole module."""
    return tmp_path_factory.mktemp("home")


class Meddler(Recorder):
    """Does something after given steps, each time they are taken."""

    def __init__(self, meddle: Callable[[int], None]) -> None:
        super().__init__()
        self._meddle = meddle

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, TrainStep):
            self._meddle(event.step)


def test_a_run_that_diverged_goes_back_to_its_checkpoint_and_past_the_data_that_did_it(
    home: Path, tmp_path: Path
) -> None:
    def poison(step: int) -> None:
        if step == 7 and not seen.of(Resumed):
            with torch.no_grad():
                job.model.lm_head.weight[0, 0] = NAN

    seen = Meddler(poison)
    job = build_tiny(tiny_spec(), home, seen, tmp_path)
    finished = train(job)
    assert (finished.reason, finished.step) == ("completed", 12)
    assert [e.step for e in seen.of(TrainStep)] == [*range(1, 11), *range(6, 13)]
    assert [e.step for e in seen.of(TrainStep) if e.was_skipped] == [8, 9, 10]
    assert [e.step for e in seen.of(Resumed)] == [5]
    assert [e.step for e in seen.of(CheckpointSaved)] == [5, 10, 12], "none of step 10 before the rollback"
    assert [(e.name, e.step) for e in seen.of(Alert)] == [("not_finite", 8), ("rolled_back", 5)]
    rows = job.batches.global_rows
    assert job.progress.samples_seen == (12 + 5) * rows, (
        "the rows of steps 6 to 10 are not read a second time"
    )
    assert job.parameters_are_finite()


def test_a_run_that_diverges_again_and_again_fails_after_two_rollbacks(home: Path, tmp_path: Path) -> None:
    """Fault 52, on one rank: skip, then roll back, then fail."""

    def poison(step: int) -> None:
        if step == 6:
            with torch.no_grad():
                job.model.lm_head.weight[0, 0] = NAN

    seen = Meddler(poison)
    job = build_tiny(tiny_spec(), home, seen, tmp_path)
    finished = train(job)
    assert (finished.reason, finished.step, finished.cause) == ("failed", 9, "nan")
    assert "optim.matrix_lr" in finished.message
    assert "2 rollbacks" in finished.message
    assert [e.step for e in seen.of(Resumed)] == [5, 5]


def test_rollbacks_are_counted_over_the_launches_of_a_run(home: Path, tmp_path: Path) -> None:
    """Each restart used to begin with two new ones: a run could go round between two crashes for ever."""

    def poison(step: int) -> None:
        if step == 6:
            with torch.no_grad():
                job.model.lm_head.weight[0, 0] = NAN

    seen = Meddler(poison)
    job = build_tiny(tiny_spec(), home, seen, tmp_path, rollbacks=1)
    finished = train(job)
    assert (finished.reason, finished.cause) == ("failed", "nan")
    assert [e.step for e in seen.of(Resumed)] == [5], "one was left"


def test_a_rollback_passes_over_a_checkpoint_that_holds_what_it_runs_from(home: Path, tmp_path: Path) -> None:
    """The update that breaks the parameters may be the last one before a save."""

    def poison(step: int) -> None:
        if step == 10 and not seen.of(Resumed):
            with torch.no_grad():
                job.model.lm_head.weight[0, 0] = NAN

    seen = Meddler(poison)
    job = build_tiny(tiny_spec("train.num_iterations=14"), home, seen, tmp_path)
    assert train(job).reason == "completed"
    assert [e.step for e in seen.of(Resumed)] == [5]


def test_a_spike_leaves_a_record_of_its_rows_and_of_every_layers_gradient(home: Path, tmp_path: Path) -> None:
    def shake(step: int) -> None:
        with torch.no_grad():
            if step == 40:
                job.model.lm_head.weight *= -30

    seen = Meddler(shake)
    spec = tiny_spec("train.num_iterations=44", "eval.every=100", "sample.every=100", "checkpoint.every=100")
    job = build_tiny(spec, home, seen, tmp_path)
    train(job)
    (alert,) = seen.of(Alert)
    assert (alert.name, alert.step) == ("loss_spike", 41)
    assert "usual" in alert.seen
    assert alert.record is not None
    record = json.loads((tmp_path / alert.record).read_bytes())
    assert record["rows"] == job.batches.global_row_numbers(40 * job.batches.global_rows)
    assert set(record["gradient_norms"]) == {name for name, _ in job.model.named_parameters()}
    assert record["loss_nats"] > 1.25 * record["usual_loss_nats"]
    assert record["loss_nats_by_rank"] == [record["loss_nats"]]
    assert "rows are alike" in alert.seen, "it is the weights that came apart"
    assert [row["loss_nats"] for row in record["worst_rows"]] == pytest.approx(
        [record["loss_nats"]] * 4, rel=0.5
    )
    assert {row["row"] for row in record["worst_rows"]} <= set(record["rows"])
    assert all(row["text"].strip() for row in record["worst_rows"])


def test_a_row_of_odd_text_is_named_with_its_text(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows of eight in one step; the weights are as they were, so the others are as usual."""
    read = Batches.micro_batches
    noise = torch.randint(300, (3, 32), generator=torch.Generator().manual_seed(0))

    def with_an_odd_row(batches: Batches, samples_seen: int) -> Iterator[MicroBatch]:
        for number, batch in enumerate(read(batches, samples_seen)):
            if samples_seen == 40 * batches.global_rows and number == 1:
                batch.inputs[:3], batch.targets[:3] = noise, noise.flip(1)
            yield batch

    def calm(step: int) -> None:
        """What is usual in a run that no longer falls so fast."""
        if step == 40:
            job.progress.usual_loss_nats[:] = [2.2, 2.3, 2.4] * 20

    seen = Meddler(calm)
    spec = tiny_spec("train.num_iterations=41", "eval.every=100", "sample.every=100", "checkpoint.every=100")
    job = build_tiny(spec, home, seen, tmp_path)
    monkeypatch.setattr(Batches, "micro_batches", with_an_odd_row)
    train(job)
    (alert,) = seen.of(Alert)
    odd = job.batches.global_row_numbers(40 * job.batches.global_rows)[4:7]
    assert alert.record is not None
    record = json.loads((tmp_path / alert.record).read_bytes())
    assert alert.step == 41
    worst = record["worst_rows"]
    assert f"row {worst[0]['row']} has" in alert.seen
    assert {row["row"] for row in worst[:3]} == set(odd)
    assert worst[0]["loss_nats"] > 2 * worst[3]["loss_nats"]


def test_rows_that_cannot_be_read_again_cost_their_part_of_the_record_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("there is no room")

    def poison(step: int) -> None:
        if step == 11:
            with torch.no_grad():
                job.model.lm_head.weight[0, 0] = NAN

    monkeypatch.setattr("trainer_daemon.engine.suspects.token_losses", out_of_memory)
    seen = Meddler(poison)
    spec = tiny_spec("train.num_iterations=12", "eval.every=off", "sample.every=off", "checkpoint.every=off")
    job = build_tiny(spec, home, seen, tmp_path)
    train(job)
    (alert,) = seen.of(Alert)
    assert alert.record is not None
    assert json.loads((tmp_path / alert.record).read_bytes())["worst_rows"] == []
    assert job.model.training


def test_a_spike_that_is_left_out_changes_nothing_and_is_counted(home: Path, tmp_path: Path) -> None:
    before: dict[str, torch.Tensor] = {}

    def shake(step: int) -> None:
        with torch.no_grad():
            if step == 40:
                job.model.lm_head.weight *= -30
                before.update({n: p.clone() for n, p in job.model.named_parameters()})
            if step == 41:
                assert all(torch.equal(p, before[n]) for n, p in job.model.named_parameters())

    seen = Meddler(shake)
    spec = tiny_spec(
        "train.num_iterations=42", "eval.every=100", "sample.every=100", "health.skip_spikes=true"
    )
    job = build_tiny(spec, home, seen, tmp_path)
    train(job)
    assert [e.step for e in seen.of(TrainStep) if e.was_skipped] == [41, 42]


def test_a_disk_that_takes_no_record_costs_the_record_alone(home: Path, tmp_path: Path) -> None:
    def poison(step: int) -> None:
        if step == 11:
            with torch.no_grad():
                job.model.lm_head.weight[0, 0] = NAN

    (tmp_path / "evidence").touch()  # a file where the folder must be
    seen = Meddler(poison)
    job = build_tiny(tiny_spec(), home, seen, tmp_path)
    assert train(job).reason == "completed"
    (alert,) = seen.of(Alert)
    assert (alert.name, alert.record) == ("not_finite", None)
