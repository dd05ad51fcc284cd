"""Curves of runs that are well and of runs that are not, and what is said about them."""

from collections.abc import Callable
from math import log
from statistics import median
from typing import Any, get_args

import numpy as np
import pytest

from tests.supervisor.rank_program import event, train_step
from trainer_daemon.contract.events import Alert, AlertName, Event
from trainer_daemon.contract.spec import Family
from trainer_daemon.supervisor.diagnosis import MOST_STEPS, RULES, Diagnosis, History, is_gibberish

V = 32_768
STORY = "One day Tom went to the park with his dog. The dog was happy and ran to the big tree."


def planned(total_steps: int, floor: float | None = None) -> Event:
    zeros = dict.fromkeys(
        [
            "total_tokens",
            "global_batch_tokens",
            "grad_accum_steps",
            "parameters",
            "scaling_parameters",
            "flops_per_token",
            "train_rows",
            "held_out_rows",
        ],
        1,
    )
    return event(
        "run_planned",
        **zeros,
        total_steps=total_steps,
        vocab_size=V,
        peak_flops=None,
        peak_flops_source="",
        bits_per_byte_floor=floor,
    )


def step(number: int, loss: float | None) -> Event:
    fields = {name: getattr(train_step(number), name) for name in train_step(1).__dataclass_fields__}
    return event("train_step", **{**fields, "loss_nats": loss})


def evaluated(number: int, loss: float, bpb: float = 2.0) -> Event:
    return event("evaluated", step=number, val_bpb=bpb, val_loss_nats=loss, tokens=1, seconds=0.1)


def sampled(number: int, text: str, temperature: float = 0.0) -> Event:
    values: dict[str, Any] = {"prompt": "", "tokens": 1, "finish_reason": "length", "top_k": None, "seed": 1}
    return event(
        "sampled", step=number, text=text, temperature=temperature, seconds=0.1, request_id=None, **values
    )


def alerts(*told: Event) -> list[Alert]:
    diagnosis = Diagnosis()
    return [a for e in told for a in diagnosis.take(e)]


def curve(
    steps: int, loss_at: Callable[[int], float], total_steps: int = 20_000, floor: float | None = None
) -> list[Event]:
    random = np.random.default_rng(1)
    noise = 0.03 * random.standard_normal(steps)
    return [planned(total_steps, floor), *(step(i, loss_at(i) + noise[i - 1]) for i in range(1, steps + 1))]


def well(number: int) -> float:
    """A run that learns: from ln V down a power law."""
    return float(2.8 + (log(V) - 2.8) * (1 + number / 15) ** -0.5)


def names(found: list[Alert]) -> list[tuple[AlertName, int]]:
    return [(a.name, a.step) for a in found]


@pytest.mark.parametrize("total_steps", [2_000, 20_000])
def test_a_run_that_learns_is_left_alone(total_steps: int) -> None:
    told = curve(min(total_steps, 8_000), well, total_steps)
    held_out = [evaluated(i, well(i) + 0.05, bpb=0.9) for i in range(250, 8_000, 250)]
    assert (
        alerts(
            *told, *held_out, sampled(8_000, STORY), sampled(8_000, "def f(x):\n    return {x: [1, 2]}" * 2)
        )
        == []
    )


def test_a_loss_that_stays_at_ln_v_is_told_once() -> None:
    found = alerts(*curve(1000, lambda _: log(V)))
    assert names(found) == [("loss_stuck", 160)]
    assert "10.397" in found[0].seen
    assert "learning rate near zero" in found[0].cause
    assert "llmctl data inspect" in found[0].fix


def test_a_loss_that_comes_down_too_slowly_is_told_from_one_that_does_not_move() -> None:
    assert names(alerts(*curve(1000, lambda i: log(V) - 0.002 * i))) == [("slow_descent", 400)]


def test_a_plateau_in_the_first_half_is_told_and_one_at_the_end_or_at_the_floor_is_not() -> None:
    def flat(number: int) -> float:
        return max(4.0, well(number))

    (found,) = alerts(*curve(4000, flat))
    assert found.name == "early_plateau"
    # the same flat stretch late in a run, seen by a supervisor that took it over there
    late = [planned(5000), *(step(i, 4.0) for i in range(3000, 5000))]
    assert alerts(*late) == []
    at_floor = [planned(20_000, 0.10), evaluated(1, 4.0, bpb=0.102)]
    assert alerts(*at_floor, *curve(4000, flat, floor=0.10)[1:]) == []


def test_a_held_out_loss_that_rises_while_the_training_loss_falls_is_told_at_the_third_evaluation() -> None:
    told = curve(4000, well)
    held_out = [3.5, 3.3, 3.2, 3.3, 3.4, 3.5, 3.6]
    mixed: list[Event] = []
    for e in told:
        mixed.append(e)
        number = getattr(e, "step", 0)
        if number and number % 500 == 0 and number // 500 <= len(held_out):
            mixed.append(evaluated(number, held_out[number // 500 - 1]))
    (found,) = alerts(*mixed)
    assert (found.name, found.step) == ("overfitting", 3000)
    assert "lowest at step 1500" in found.seen


def test_samples_that_are_no_text_are_told_only_when_the_loss_is_good() -> None:
    debris = "\ufffd\ufffd x\ufffd\ufffd\ufffd \x07\ufffd\ufffd q\ufffd\ufffd" * 4
    assert names(alerts(evaluated(1, 2.0, bpb=0.9), sampled(1, debris))) == [("gibberish", 1)]
    assert alerts(evaluated(1, 9.0, bpb=3.0), sampled(1, debris)) == []
    assert alerts(evaluated(1, 2.0, bpb=0.9), sampled(1, debris, temperature=2.0)) == []
    assert alerts(evaluated(1, 2.0, bpb=0.9), sampled(1, STORY), sampled(1, STORY), sampled(1, debris)) == []


@pytest.mark.parametrize(
    "text",
    [
        STORY,
        "the the the the " * 10,
        "def f(x):\n\treturn {x: [1, 2]}  # ok\n" * 3,
        "今天天气很好,我们去公园。" * 5,
        "🎈 Ünïcödé — «text» €5 " * 3,
    ],
)
def test_text_of_any_kind_is_no_gibberish(text: str) -> None:
    assert not is_gibberish(text)


def test_words_without_end_are_gibberish() -> None:
    assert is_gibberish("theandofto" * 10)


def test_an_alert_comes_again_when_what_it_says_had_passed() -> None:
    def relapse(number: int) -> float:
        return log(V) if number <= 300 or number > 600 else 5.0

    assert names(alerts(*curve(1000, relapse))) == [("loss_stuck", 160), ("loss_stuck", 640)]


def test_a_later_supervisor_knows_the_curves_and_does_not_raise_again_what_lasts() -> None:
    stuck = curve(400, lambda _: log(V))
    raised = alerts(*stuck[:201])
    assert names(raised) == [("loss_stuck", 160)]
    later, forgetful = Diagnosis(), Diagnosis()
    for e in [*stuck[:201], *raised]:
        later.remember(e)
    forgetful.remember(stuck[0])
    assert [a for e in stuck[201:] for a in later.take(e)] == []
    assert names([a for e in stuck[201:] for a in forgetful.take(e)]) == [("loss_stuck", 360)]


def test_a_thinned_history_counts_the_steps_that_it_left_out() -> None:
    """A run that stopped learning is told by a supervisor that came later, from two steps of each 64."""
    whole = curve(8000, lambda number: well(min(number, 1500)), total_steps=100_000)
    thin = [whole[0], *(e for e in whole[1:] if getattr(e, "step", 0) % 64 in (0, 17))]
    diagnosis = Diagnosis()
    for e in thin:
        diagnosis.remember(e)
    found = [a for number in range(8001, 8101) for a in diagnosis.take(step(number, well(1500)))]
    assert names(found)[0][0] == "early_plateau"
    learns, well_thinned = Diagnosis(), curve(8000, well, total_steps=100_000)
    for e in [well_thinned[0], *(e for e in well_thinned[1:] if getattr(e, "step", 0) % 64 in (0, 17))]:
        learns.remember(e)
    assert [a for n in range(8001, 8401) for a in learns.take(step(n, well(n)))] == []


def test_a_run_of_any_length_is_remembered_in_the_same_space_and_judged_as_if_in_whole() -> None:
    draw = np.random.default_rng(0)
    steps = 100_000
    losses = [float(3 * n**-0.1 * noise) for n, noise in enumerate(draw.normal(1, 0.01, steps), start=1)]
    history, most = History(), 0
    for number, loss in enumerate(losses, start=1):
        history.take(train_step(number, loss))
        most = max(most, len(history.steps))
    assert most <= MOST_STEPS < steps / 2
    assert history.count == steps
    assert history.recent(50) == median(losses[-50:])
    tenth = steps // 10
    for skip in (0, tenth, 3 * tenth):  # what a plateau is told by: two thousandths
        whole = median(losses[steps - skip - tenth : steps - skip])
        assert history.recent(tenth, skip) == pytest.approx(whole, rel=5e-4)
    history.take(event("resumed", step=steps - 500, checkpoint="step-99500", min_val_bpb=None))
    assert history.count == steps - 500
    assert history.recent(50) == median(losses[-550:-500])


def test_what_a_resume_cut_off_is_forgotten() -> None:
    told = curve(150, lambda _: log(V))
    resumed = event("resumed", step=20, checkpoint="step-00000020", min_val_bpb=None)
    again = [step(i, log(V)) for i in range(21, 149)]
    assert alerts(*told, resumed, *again) == []


def test_a_loss_that_is_not_finite_disturbs_no_rule() -> None:
    told = [*curve(200, well), *(step(i, None) for i in range(201, 400))]
    assert alerts(*told) == []


def test_every_rule_is_an_alert() -> None:
    assert set(RULES) < set(get_args(AlertName))


def test_advice_names_the_rates_that_the_family_of_the_model_has() -> None:
    told = curve(400, lambda _: log(V))
    families: tuple[tuple[Family, str], ...] = (
        ("nanochat", "optim.*_lr"),
        ("classic", "adamw.learning_rate"),
    )
    for family, rate in families:
        diagnosis = Diagnosis(family)
        (stuck,) = [a for e in told for a in diagnosis.take(e) if a.name == "loss_stuck"]
        assert rate in stuck.fix
