"""What an alert usually comes from and what to do about it: one table, so that every alert has both and says them once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_daemon.contract.events import Alert, AlertName

if TYPE_CHECKING:
    from trainer_daemon.contract.spec import Family

RATES: dict[Family, dict[str, str]] = {
    "nanochat": {
        "rates": "optim.matrix_lr and optim.embedding_lr",
        "rate": "optim.matrix_lr",
        "any_rate": "optim.*_lr",
    },
    "classic": dict.fromkeys(("rates", "rate", "any_rate"), "adamw.learning_rate"),
    "moe": {
        "rates": "muon.learning_rate and adamw.learning_rate",
        "rate": "muon.learning_rate",
        "any_rate": "muon.learning_rate, adamw.learning_rate",
    },
}
"""What a family's learning rates are called in a spec."""

CAUSE_AND_FIX: dict[AlertName, tuple[str, str]] = {
    "loss_spike": (
        "a batch of odd text, or a learning rate at the edge of what is stable",
        (
            "nothing if it comes back within some hundred steps; if spikes return, look at the rows in the evidence, lower the "
            "rates by a third (llmctl set RUN schedule.learning_rate_factor=0.7), or set health.skip_spikes=true at a resume"
        ),
    ),
    "gradient_spike": (
        "a batch of odd text, or a model on its way to diverge",
        (
            "nothing if the loss stays; if it follows, lower the rates by a third (llmctl set RUN "
            "schedule.learning_rate_factor=0.7) or set train.grad_clip_norm"
        ),
    ),
    "not_finite": (
        "an overflow in the compute dtype, or a learning rate that is too high",
        (
            "nothing yet: all ranks leave the step out, and go back to the last checkpoint when it stays; if it returns, use "
            "runtime.precision=fp32 once to tell overflow from divergence, or lower {rates}"
        ),
    ),
    "rolled_back": (
        "the parameters or a stretch of the data make the loss not finite",
        "nothing: training goes on behind the rows that did it; the third time the run ends as failed",
    ),
    "replicas_differ": (
        "a GPU or memory that computes wrongly, or code that lets ranks act on their own",
        "take the rank's device out of use and test it, then go on from a checkpoint of before the last equal check",
    ),
    "slow_rank": (
        "a device that throttles or is shared, a slow disk, or another process on the same cores",
        "look at that rank's device: temperature, clocks and who else uses it (nvidia-smi, top)",
    ),
    "loss_stuck": (
        "nothing is learned: a learning rate near zero, or targets that do not belong to their inputs",
        "look at what the model reads (llmctl data inspect), then at {any_rate} and schedule.warmup_steps",
    ),
    "slow_descent": (
        "a learning rate far too low for this batch, or a batch far too small",
        "raise {rates} threefold in a short run, or train.global_batch_tokens",
    ),
    "early_plateau": (
        "the model is too small for the data, the learning rate too high to go further, or the text repeats itself",
        "lower the rates by a third in a fork of this run; if it stays, raise model.depth or look for duplicates",
    ),
    "overfitting": (
        "the text is seen too often for a model of this size: it is learned by heart",
        "stop and use the best checkpoint; for more, give it more text, fewer steps or a smaller model.depth",
    ),
    "gibberish": (
        "the text is put together from other token ids than the model was trained on, or the held-out text is in the training set",
        "compare llmctl sample with a low temperature and another prompt; then look at the tokenizer (llmctl tokenizer inspect)",
    ),
}


def alert(
    name: AlertName, step: int, seen: str, record: str | None = None, *, family: Family = "nanochat"
) -> Alert:
    """The alert with the cause and the fix of its kind, in the words of the model's family."""
    cause, fix = CAUSE_AND_FIX[name]
    return Alert(name, step, seen, cause, fix.format_map(RATES[family]), record)
